"""apply-config, get config, config validate, config schema."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from basalt import config, output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.errors import UsageError
from basalt.machine.v1 import machine_pb2 as api
from basalt.pki import clock
from osctl import answers
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.selection import targets_of, timeout_of


def _read(name: str) -> tuple[bytes, str]:
    """The bytes of a file (or standard input) and its name for error messages."""
    if name == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return Path(name).read_bytes(), name
    except OSError as error:
        raise UsageError(f"cannot read {name}", why=error.strerror or str(error)) from error


def apply(arguments: Arguments) -> int:
    documents, source = _read(arguments.file)
    # Here first: a mistake is told before any of several nodes has changed.
    config.parse(documents, source)

    def act(target: Target) -> api.ApplyConfigResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.apply_config(
                documents,
                source=source,
                dry_run=arguments.dry_run,
                expected_generation=arguments.expected_generation,
            )

    def text(answer: api.ApplyConfigResponse) -> str:
        if not answer.diff:
            return f"nothing differs; generation {answer.generation} stands"
        stands = "nothing was changed (--dry-run)" if arguments.dry_run else f"generation {answer.generation} stands"
        lines = [*answer.diff.splitlines(), *(f"* {action}" for action in answer.actions), stands]
        return "\n".join(map(output.printable, lines))

    return answers.show(on_all(targets_of(arguments), act), arguments.form, plain, text)


def get(arguments: Arguments) -> int:
    def ask(target: Target) -> api.GetConfigResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.get_config(arguments.generation)

    def fields(answer: api.GetConfigResponse) -> dict[str, object]:
        import yaml

        return {**plain(answer), "documents": list(yaml.safe_load_all(answer.documents))}

    def text(answer: api.GetConfigResponse) -> str:
        applied = clock(datetime.datetime.fromtimestamp(answer.applied_unix, datetime.UTC))
        kept = ", ".join(str(number) for number in answer.generations)
        head = f"# generation {answer.generation}, applied {applied} by {answer.applied_by or 'nobody'}; kept: {kept}"
        return "\n".join(map(output.printable, [head, *answer.documents.decode("utf-8", "replace").splitlines()]))

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, fields, text)


def validate(arguments: Arguments) -> int:
    documents, source = _read(arguments.file)
    kinds = [type(document).__name__ for document in config.parse(documents, source).documents]
    if arguments.form == "table":
        print(f"{source} is valid: {', '.join(kinds)}")
    else:
        output.emit({"valid": True, "source": source, "kinds": kinds}, arguments.form)
    return 0


def schema(arguments: Arguments) -> int:
    output.emit(config.json_schema(), "yaml" if arguments.form == "yaml" else "json")
    return 0
