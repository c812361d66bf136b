"""The commands about the configuration of nodes."""

from __future__ import annotations

from basalt.commandline import Command, option
from osctl.cli_options import APPLYING, DRY_RUN, EXIT_CODES, EXPECTED_GENERATION, FILE, count

_GENERATION = option("--generation", type=count, default=0, metavar="N", help="an earlier generation that is kept")

CONFIG = (
    Command(
        ("apply-config",),
        "Give a node its configuration",
        "apply:apply",
        "osctl apply-config -f node.yaml --dry-run",
        (FILE, DRY_RUN, *APPLYING, EXPECTED_GENERATION),
        detail="The documents replace the whole configuration, at once or not at all. A node that the context knows by its "
        f"fingerprint alone is enrolled afterwards, where the context holds the node authority's key. {EXIT_CODES}",
        reads=True,
        shared=True,
    ),
    Command(
        ("get", "config"),
        "Show a node's configuration, secrets redacted",
        "config:get",
        "osctl get config > node.yaml",
        (_GENERATION,),
        detail="What it prints can be edited and applied again: the node puts its secrets back in place of `[redacted ...]`.",
        reads=True,
        shared=True,
    ),
    Command(
        ("get", "generations"),
        "List the generations of a node's configuration, and what became of each",
        "config:generations",
        "osctl get generations",
        reads=True,
        shared=True,
    ),
    Command(
        ("get", "provenance"),
        "Show where a node's configuration and authority came from, and why the other sources were passed over",
        "config:provenance",
        "osctl get provenance",
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "diff"),
        "Show how documents differ from a node's configuration, and what applying them would do",
        "apply:diff",
        "osctl config diff -f node.yaml",
        (FILE,),
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "history"),
        "List the generations of a node's configuration, the newest first",
        "config:generations",
        "osctl config history",
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "rollback"),
        "Apply an earlier generation again, or end a trial",
        "apply:rollback",
        "osctl config rollback 3",
        (
            option(
                "generation",
                nargs="?",
                type=count,
                default=0,
                metavar="N",
                help="a generation that `osctl config history` lists; default: the one before the current one",
            ),
            DRY_RUN,
            *APPLYING,
        ),
        detail="It becomes a new generation. While a configuration is on trial, the node returns to the one before instead.",
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "confirm"),
        "Keep a configuration that is on trial",
        "apply:confirm",
        "osctl config confirm",
        (
            option(
                "generation",
                nargs="?",
                type=count,
                default=0,
                metavar="N",
                help="the generation on trial; default: whichever it is",
            ),
        ),
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "edit"),
        "Edit a node's configuration in $VISUAL or $EDITOR",
        "edit:edit",
        "osctl config edit -n n1",
        (DRY_RUN, *APPLYING),
        detail="Secrets are shown as `[redacted ...]`; one that is left so stays as it is. Mistakes bring the editor back with a "
        "comment at each. It is refused when somebody else has changed the configuration meanwhile; the file is kept then.",
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "patch"),
        "Change some fields of a node's configuration",
        "apply:patch",
        "osctl config patch -f patch.yaml",
        (FILE, DRY_RUN, *APPLYING),
        detail="A document of the patch changes the one of its kind (and name): its fields alone, mappings field by field, "
        "lists as a whole; null takes a field out (RFC 7396), `$patch: delete` the whole document.",
        reads=True,
        shared=True,
    ),
    Command(
        ("config", "validate"),
        "Check configuration documents without a node",
        "config:validate",
        "osctl config validate node.yaml",
        (option("file", metavar="FILE", help="YAML documents; - reads standard input"),),
        reads=True,
    ),
    Command(
        ("config", "schema"),
        "Print the JSON Schema of configuration documents, for editors",
        "config:schema",
        "osctl config schema > basalt.schema.json",
        reads=True,
    ),
)
