"""Reference pages made from the code: ``python -m basalt.docs [--check]``.

``docs/reference/cli-osctl.md`` comes from osctl's table of commands, ``configuration.md`` from the types of the
configuration, ``exit-codes.md`` from the errors. All are committed; a test checks that they are fresh.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from basalt.commandline import Program
from basalt.config import json_schema
from basalt.config.documents import KINDS, NAMED_KINDS
from basalt.docs_examples import EXAMPLES
from basalt.errors import ExitCode

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "reference"
MODULE = "basalt.docs"


def made_by(module: str) -> str:
    """The line on every page that says what made it."""
    return f"<!-- Made by `python -m {module}`; edit the code, not this page. -->"


def command_line_page(program: Program, module: str = MODULE) -> str:
    """Every command of *program* with its arguments and an example."""
    lines = [f"# {program.name}", "", made_by(module), "", program.summary, ""]
    if program.shared:
        lines += [f"Options about {program.shared_title} stand before the command or after it:", ""]
        lines += _options([(option.flags, option.settings) for option in program.shared])
        lines.append("")
    for command in program.commands:
        words = " ".join(command.words)
        lines += [f"## {program.name} {words}", "", f"{command.summary}. {command.detail}".strip(), ""]
        lines += ["```", command.example, "```", ""]
        options = [(option.flags, option.settings) for option in command.options]
        if command.reads:
            options.append((("-o",), {"metavar": "FORM", "help": "table (for people, the default), json or yaml"}))
        lines += _options(options)
        lines += ["", f"Also the options about {program.shared_title}.", ""] if command.shared else [""]
    return tidy(lines)


# How an argument is written that may be left out or given several times.
_POSITIONAL = {"?": "[{}]", "*": "[{}...]", "+": "{}...", argparse.PARSER: "{}..."}


def _options(options: list[tuple[tuple[str, ...], dict[str, Any]]]) -> list[str]:
    lines = []
    for flags, settings in options:
        value = "" if settings.get("action") == "store_true" else settings.get("metavar", "VALUE")
        if flags[0].startswith("-"):
            name = ", ".join(flags) + (f" {f'[{value}]' if settings.get('nargs') == '?' else value}" if value else "")
        else:
            name = _POSITIONAL.get(settings.get("nargs", ""), "{}").format(value)
        required = " (required)" if settings.get("required") else ""
        lines.append(f"- `{name}`{required}: {settings['help']}")
    return lines


def configuration_page() -> str:
    """Every kind of document with an example and its fields, from the same types that the decoder walks along."""
    schema = json_schema()
    lines = ["# Configuration documents", "", made_by(MODULE), "", *_ABOUT_CONFIGURATION, ""]
    lines += [f"- [{kind}](#{kind.lower()}): {_sentence(schema['$defs'][kind]['description'])}" for kind in KINDS]
    for kind in KINDS:
        several = " There may be several, each with its own name." if kind in NAMED_KINDS else ""
        lines += ["", f"## {kind}", "", schema["$defs"][kind]["description"] + several, ""]
        lines += ["```yaml", EXAMPLES[kind].rstrip(), "```", "", *_fields(schema, kind)]
    parts = [name for name in schema["$defs"] if name not in KINDS]
    lines += ["", "## Parts of documents", ""]
    for part in parts:
        lines += [f"### {part}", "", schema["$defs"][part]["description"], "", *_fields(schema, part), ""]
    return tidy(lines)


_ABOUT_CONFIGURATION = [
    "A configuration is one or more YAML documents, separated by `---`, in any order. It is applied whole or not at all. A kind that",
    "is left out means its defaults.",
    "",
    "Reading is strict: an unknown field, a wrong type, a repeated name, an alias or a tag is an error, and so is what fits no network",
    "or contradicts another field. Every problem is told at once, each with file, line and column, the document and field, what was",
    "found and what is allowed. `true` and `false` are the only booleans, whole numbers are decimal, and text needs no quotes, except",
    "where YAML gives its first character a meaning.",
    "",
    "`osctl config validate FILE` checks without a node; `osctl config schema` prints a JSON Schema for editors.",
    "",
    "Fields marked as secret are never shown. A read shows `[redacted 1f09c24a]` in their place; a configuration with these words is",
    "applied with the secrets that the node has.",
    "",
    "A patch (`osctl config patch`) is documents too: JSON merge patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)), each",
    "document applied to that of its kind and name. Lists are replaced whole, `null` takes a field out, `$patch: delete` the document.",
]


def _sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def exit_codes_page() -> str:
    """Every exit code with its meaning."""
    lines = [
        "# Exit codes",
        "",
        made_by(MODULE),
        "",
        "Of `osctl` and `osbuild` alike. With several nodes `osctl` ends with the code that",
    ]
    lines += ["all failures share, or with 1 where they differ.", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    return tidy(lines)


def _fields(schema: dict[str, Any], name: str) -> Iterator[str]:
    definition = schema["$defs"][name]
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for field, described in definition["properties"].items():
        required = field in definition["required"]
        default = "required" if required else _default(described)
        meaning = described.get("description", "Which kind of document this is.")
        inner = described.get("additionalProperties")
        if described.get("writeOnly") or (isinstance(inner, dict) and inner.get("writeOnly")):
            meaning += " **Secret.**"
        if "examples" in described:
            meaning += f" Example: `{described['examples'][0]}`."
        yield f"| `{field}` | {_type(described)} | {default} | {meaning} |"
    yield ""


def _default(described: dict[str, Any]) -> str:
    default = described.get("default")
    if default is None or default in ({}, []):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(described: dict[str, Any]) -> str:
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in described:
        return " or ".join(f"`{value}`" for value in described["enum"])
    match described["type"]:
        case ["string", "number"]:
            return "text or number"
        case "array":
            most = f", at most {described['maxItems']}" if "maxItems" in described else ""
            items = described["items"]
            return f"list of {_quoted(items)}{most}"
        case "object":
            return f"mapping of {_quoted(described['propertyNames'])} to {_quoted(described['additionalProperties'])}"
        case "integer":
            return f"{described['minimum']} to {described['maximum']}"
        case "boolean":
            return "`true` or `false`"
    return "text"


def _quoted(described: dict[str, Any]) -> str:
    """A type inside another: by an example where there is one."""
    kind = _type({"type": "string", **described})
    return f"{kind} such as `{described['examples'][0]}`" if "examples" in described else kind


def tidy(lines: list[str]) -> str:
    """One line break at the end, and never two blank lines."""
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return "\n".join(kept).rstrip() + "\n"


def pages() -> dict[str, str]:
    """File name and content of every page."""
    from osctl.cli import PROGRAM

    return {
        "cli-osctl.md": command_line_page(PROGRAM),
        "configuration.md": configuration_page(),
        "exit-codes.md": exit_codes_page(),
    }


def stale(made: Mapping[str, str] | None = None) -> list[str]:
    """Names of the pages (those of *made*, or of this module) that do not say what the code says."""
    return [
        name
        for name, content in (made or pages()).items()
        if not (DIRECTORY / name).exists() or (DIRECTORY / name).read_text() != content
    ]


def main(module: str, made: Mapping[str, str]) -> int:
    """Write or check the pages that *module* makes, as the command line says."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Write the reference pages.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is stale")
    if parser.parse_args().check:
        found = stale(made)
        if found:
            print(f"stale: {', '.join(found)}; run `python -m {module}`", file=sys.stderr)
        return 1 if found else 0
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (DIRECTORY / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(MODULE, pages()))
