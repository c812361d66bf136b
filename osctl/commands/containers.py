"""containers: what the runtime holds, whoever had it made."""

from __future__ import annotations

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.machine.v1 import containers_pb2 as api
from osctl import answers, times
from osctl.commands.images import short, shortened
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.selection import targets_of, timeout_of


def containers(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ListContainersResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.containers()

    def text(answer: api.ListContainersResponse) -> str:
        rows = [
            (short(one.id), one.name, one.state, times.ago(one.created_unix), _belongs_to(one), shortened(one.image))
            for one in answer.containers
        ]
        return output.table(("id", "container", "state", "age", "of", "image"), rows)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text, listing="containers")


def _belongs_to(container: api.ContainerInfo) -> str:
    if container.workload:
        return f"workload {container.workload}"
    return f"pod {container.pod}" if container.pod else "-"
