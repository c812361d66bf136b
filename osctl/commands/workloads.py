"""workload list, get, restart and top."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.errors import UsageError
from basalt.machine.v1 import containers_pb2 as api
from osctl import answers, times
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.selection import targets_of, timeout_of

# Between the two looks from which a rate is made.
SAMPLE_S = 1.0


def list_workloads(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ListWorkloadsResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.workloads()

    def text(answer: api.ListWorkloadsResponse) -> str:
        rows = [
            (
                one.name,
                _state(one),
                times.ago(one.since_unix),
                f"{sum(part.state == 'running' for part in one.containers)}/{len(one.containers)}",
                sum(part.restarts for part in one.containers),
                one.reason,
            )
            for one in answer.workloads
        ]
        return output.table(("workload", "state", "since", "running", "restarts", "reason"), rows)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text, listing="workloads")


def get(arguments: Arguments) -> int:
    def ask(target: Target) -> api.Workload:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            found = [one for one in client.workloads([arguments.name]).workloads if one.name == arguments.name]
        if not found:
            raise UsageError(
                f"{target} has no such thing",
                why=f"there is no workload {arguments.name!r}",
                remedy="`osctl workload list` names them",
            )
        return found[0]

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, describe)


def describe(workload: api.Workload) -> str:
    """A workload in words, and each of its containers."""
    facts = {
        "workload": workload.name,
        "state": f"{_state(workload)} for {times.ago(workload.since_unix)}"
        if workload.since_unix
        else _state(workload),
        "reason": workload.reason,
        "what next": workload.remedy,
        "network": ", ".join(part for part in (workload.network, workload.address) if part),
        "published": ", ".join(workload.published),
        "runtime": workload.runtime,
        "start order": workload.start_order,
    }
    blocks = [_known(facts), *(_known(_container(one)) for one in workload.containers)]
    return "\n\n".join(blocks)


def _known(facts: dict[str, object]) -> str:
    return output.pairs({name: value for name, value in facts.items() if value != ""})


def _container(one: api.WorkloadContainer) -> dict[str, object]:
    running = f" for {times.ago(one.started_unix)}" if one.state == "running" and one.started_unix else ""
    ended = ""
    if one.finished_unix:
        why = f": {one.exit_reason}" if one.exit_reason else ""
        ended = f"{times.instant(one.finished_unix)} with {one.exit_code}{why}"
    return {
        "container": one.name,
        "state": f"{one.state}{running}{f', {one.health}' if one.health else ''}",
        "detail": one.detail,
        "image": one.image,
        "digest": one.image_digest,
        "restarts": f"{one.restarts} since the node booted",
        "last ended": ended,
        "pid": one.pid or "",
        "id": one.id,
    }


def _state(workload: api.Workload) -> str:
    return str(plain(workload)["state"])


def restart(arguments: Arguments) -> int:
    def act(target: Target) -> dict[str, object]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            client.restart_workload(arguments.workload.name, container=arguments.workload.container)
        return {"workload": arguments.workload.name, "container": arguments.workload.container, "requested": True}

    return answers.show(
        on_all(targets_of(arguments), act), arguments.form, dict, lambda _: f"restarting {arguments.workload}"
    )


def top(arguments: Arguments) -> int:
    def ask(target: Target) -> dict[str, Any]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            first = client.workload_usage(arguments.names)
            time.sleep(SAMPLE_S)
            second = client.workload_usage(arguments.names)
        return {"processors": second.processors, "containers": list(_rates(first, second))}

    def text(answer: dict[str, Any]) -> str:
        rows = [
            (
                one["workload"],
                one["container"],
                "-" if one["cpu_percent"] is None else f"{one['cpu_percent']:.1f} %",
                output.size(one["memory_bytes"]),
                output.size(one["memory_limit_bytes"]) if one["memory_limit_bytes"] else "-",
                one["pids"],
                output.size(one["written_bytes"]),
            )
            for one in answer["containers"]
        ]
        return output.table(("workload", "container", "cpu", "memory", "limit", "pids", "written"), rows)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, dict, text)


def _rates(first: api.WorkloadUsageResponse, second: api.WorkloadUsageResponse) -> Iterator[dict[str, Any]]:
    """What each container uses, with its share of one processor between two looks; None where there was one look only."""
    before = {(one.workload, one.container): one for one in first.containers}
    for one in second.containers:
        earlier = before.get((one.workload, one.container))
        percent = None
        if earlier is not None:
            used_s, over_s = one.cpu_s - earlier.cpu_s, one.sampled_unix - earlier.sampled_unix
            # Less than before: another container has taken its place.
            if over_s > 0 and used_s >= 0:
                percent = round(used_s / over_s * 100, 1)
        yield {**plain(one), "cpu_percent": percent}
