"""What shows configurations: get config, generations and provenance; config validate and schema, which need no node."""

from __future__ import annotations

import datetime

from basalt import config, output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.machine.v1 import machine_pb2 as api
from basalt.pki import clock
from osctl import answers
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.reading import read_documents
from osctl.selection import targets_of, timeout_of


def get(arguments: Arguments) -> int:
    def ask(target: Target) -> api.GetConfigResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.get_config(arguments.generation)

    def fields(answer: api.GetConfigResponse) -> dict[str, object]:
        import yaml

        return {**plain(answer), "documents": list(yaml.safe_load_all(answer.documents))}

    def text(answer: api.GetConfigResponse) -> str:
        kept = ", ".join(str(number) for number in answer.generations)
        head = (
            f"# generation {answer.generation}, applied {_instant(answer.applied_unix)} by "
            f"{answer.applied_by or 'nobody'}; kept: {kept}"
        )
        return "\n".join(map(output.printable, [head, *answer.documents.decode("utf-8", "replace").splitlines()]))

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, fields, text)


def generations(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ListGenerationsResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.list_generations()

    def text(answer: api.ListGenerationsResponse) -> str:
        if not answer.generations:
            return "the node has no configuration yet"
        rows = [
            (
                one["number"],
                one["state"] + (f", {output.duration(one['trial_left_s'])} left" if one["trial_left_s"] else ""),
                _instant(one["applied_unix"]),
                one["applied_by"],
                one["source"],
                one["reason"],
            )
            for one in plain(answer)["generations"]
        ]
        return output.table(("generation", "state", "applied", "by", "source", "reason"), rows)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text, listing="generations")


def provenance(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ProvenanceResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.provenance()

    def text(answer: api.ProvenanceResponse) -> str:
        rows = [
            (of, one.source, one.outcome, one.detail)
            for of, reports in (("configuration", answer.configuration), ("authority", answer.authority))
            for one in reports
        ]
        return output.table(("of", "source", "outcome", "detail"), rows)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text)


def _instant(unix: int) -> str:
    return clock(datetime.datetime.fromtimestamp(unix, datetime.UTC)) if unix else "-"


def validate(arguments: Arguments) -> int:
    documents, source = read_documents(arguments.file)
    # A copy of what a node has, with placeholders for its secrets, is as good as any.
    kinds = [type(one).__name__ for one in config.parse(documents, source, accept_placeholders=True).documents]
    if arguments.form == "table":
        print(f"{source} is valid: {', '.join(kinds)}")
    else:
        output.emit({"valid": True, "source": source, "kinds": kinds}, arguments.form)
    return 0


def schema(arguments: Arguments) -> int:
    output.emit(config.json_schema(), "yaml" if arguments.form == "yaml" else "json")
    return 0
