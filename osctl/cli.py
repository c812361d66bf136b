"""The commands of osctl as one table."""

from __future__ import annotations

import argparse
import datetime
import re

from basalt.commandline import Command, Option, Program, option, seconds
from basalt.endpoint import DEFAULT_PORT, DEFAULT_TIMEOUT_S
from basalt.roles import Role


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines or of a generation")
    return int(text)


def _lifetime(text: str) -> datetime.timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no lifetime; write hours or days, such as 12h or 90d")
    return datetime.timedelta(**{"hours" if match[2] == "h" else "days": int(match[1])})


def _role(text: str) -> Role:
    try:
        return Role.parse(text)
    except ValueError:
        known = ", ".join(role.short for role in Role)
        raise argparse.ArgumentTypeError(f"{text!r} is no role (choose from {known})") from None


NODE_OPTIONS = (
    option(
        "-n",
        "--nodes",
        metavar="A,B",
        help="nodes of the context by name or HOST:PORT, or 'all'; default: the context's default node",
    ),
    option("-e", "--endpoint", metavar="HOST:PORT", help="speak to this address, whether or not the context knows it"),
    option(
        "--fingerprint", metavar="SHA256:...", help="the node's certificate as its console shows it, for --endpoint"
    ),
    option("--context", metavar="NAME", help="use this context instead of the current one"),
    option(
        "--timeout",
        metavar="S",
        type=seconds,
        help=f"seconds that a node may take to answer a call (default {DEFAULT_TIMEOUT_S:.0f})",
    ),
)

_FILE = option("-f", "--file", required=True, metavar="FILE", help="YAML documents; - reads standard input")
_GENERATION = option("--generation", type=_count, default=0, metavar="N", help="an earlier generation that is kept")
_TAIL = option("--tail", type=_count, default=0, metavar="N", help="only the last N lines of what is there")
_FOLLOW = option("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")


def _wait(what: str) -> Option:
    return option(
        "--wait", nargs="?", type=seconds, const=600.0, metavar="S", help=f"{what}, at most S seconds (default 600)"
    )


# SUPPRESS: a --context before the command must not be overwritten by a default after it.
_CONTEXT = option("--context", metavar="NAME", default=argparse.SUPPRESS, help="default: the current one")


def _node(name: str, help_text: str) -> Option:
    return option(name, metavar=name.upper(), help=help_text)


COMMANDS = (
    Command(
        ("version",),
        "Show what a node runs, and this client's own version",
        "system:version",
        "osctl version -o json",
        (option("--client", action="store_true", help="this client's version only; no node is asked"),),
        reads=True,
        shared=True,
    ),
    Command(
        ("status",),
        "Show whether a node is well, and if not, why",
        "system:status",
        "osctl status -n all",
        reads=True,
        shared=True,
    ),
    Command(
        ("apply-config",),
        "Give a node its configuration",
        "config:apply",
        "osctl apply-config -f node.yaml --dry-run",
        (
            _FILE,
            option("--dry-run", action="store_true", help="show what would change, and change nothing"),
            option(
                "--expected-generation",
                type=_count,
                default=0,
                metavar="N",
                help="refuse unless generation N stands now: nobody else has changed it since you looked",
            ),
        ),
        detail="The documents replace the whole configuration, at once or not at all.",
        reads=True,
        shared=True,
    ),
    Command(
        ("get", "config"),
        "Show a node's configuration, secrets redacted",
        "config:get",
        "osctl get config > node.yaml",
        (_GENERATION,),
        reads=True,
        shared=True,
    ),
    Command(
        ("reboot",),
        "Reboot a node",
        "system:reboot",
        "osctl reboot --wait",
        (_wait("wait until the node is back from its reboot"),),
        reads=True,
        shared=True,
    ),
    Command(
        ("shutdown",),
        "Switch a node off",
        "system:shutdown",
        "osctl shutdown -n n1 --wait",
        (_wait("wait until nothing listens at its address any more"),),
        reads=True,
        shared=True,
    ),
    Command(
        ("services",), "List a node's programs", "system:services", "osctl services -o json", reads=True, shared=True
    ),
    Command(
        ("logs",),
        "Show what a program of a node has written",
        "logs:logs",
        "osctl logs machined -f --tail 20",
        (option("service", metavar="SERVICE", help="a name that `osctl services` lists"), _FOLLOW, _TAIL),
        detail="With -o json each line is an object of its own.",
        reads=True,
        shared=True,
    ),
    Command(
        ("dmesg",),
        "Show what a node's kernel has said",
        "logs:dmesg",
        "osctl dmesg -f",
        (_FOLLOW, _TAIL),
        detail="With -o json each message is an object of its own.",
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
    Command(
        ("gen", "client"),
        "Make a client certificate for somebody",
        "access:gen_client",
        "osctl gen client --name alice --role operator --lifetime 30d",
        (
            option("--name", required=True, help="who it is for; this is the name in the node's records"),
            option(
                "--role",
                action="append",
                required=True,
                type=_role,
                metavar="ROLE",
                help=f"what the holder may do: {', '.join(role.short for role in Role)}; may be given several times",
            ),
            option(
                "--lifetime",
                type=_lifetime,
                default=datetime.timedelta(days=365),
                metavar="T",
                help="hours or days, such as 12h or 90d (default 365d)",
            ),
            option("--output", default=".", metavar="DIR", help="where the files go (default: here)"),
            _CONTEXT,
        ),
        detail="It writes NAME.pem, NAME-key.pem and NAME-ca.pem, from which the holder makes a context "
        "(`osctl context create`).",
        reads=True,
    ),
    Command(("context", "list"), "List the contexts", "access:list_contexts", "osctl context list", reads=True),
    Command(
        ("context", "show"),
        "Show a context: who you are in it, and its nodes",
        "access:show_context",
        "osctl context show",
        (option("name", nargs="?", metavar="NAME", help="default: the current one"),),
        reads=True,
    ),
    Command(
        ("context", "use"),
        "Make a context the current one",
        "access:use_context",
        "osctl context use lab",
        (option("name", metavar="NAME", help="a context that `osctl context list` shows"),),
    ),
    Command(
        ("context", "create"),
        "Make a context, with an authority of its own or from a certificate that you were given",
        "access:create_context",
        "osctl context create lab --certificate alice.pem --key alice-key.pem --ca alice-ca.pem",
        (
            option("name", metavar="NAME", help="letters, digits, '.', '_', '-'"),
            option("--certificate", metavar="FILE", help="your client certificate (PEM)"),
            option("--key", metavar="FILE", help="its private key (PEM)"),
            option("--ca", metavar="FILE", help="the authority that signed it (PEM)"),
        ),
    ),
    Command(
        ("context", "ca"),
        "Print a context's client authority, the certificate that nodes are to trust",
        "access:print_ca",
        "osctl context ca > client-ca.pem",
        (option("name", nargs="?", metavar="NAME", help="default: the current one, made on first use"),),
    ),
    Command(
        ("context", "renew"),
        "Give yourself a new certificate, where the context holds its authority's key",
        "access:renew",
        "osctl context renew",
        (option("name", nargs="?", metavar="NAME", help="default: the current one"),),
    ),
    Command(
        ("context", "add-node"),
        "Write down a node and the fingerprint by which it is recognised, or change it",
        "access:add_node",
        "osctl context add-node n1 --endpoint 192.0.2.10 --fingerprint SHA256:...",
        (
            _node("node", "how you call it"),
            option(
                "--endpoint",
                required=True,
                metavar="HOST:PORT",
                help=f"where its API listens (port {DEFAULT_PORT} unless it is given)",
            ),
            option("--fingerprint", required=True, metavar="SHA256:...", help="as the node's console shows it"),
            _CONTEXT,
            option("--default", action="store_true", help="speak to it where the command line names no node"),
        ),
    ),
    Command(
        ("context", "remove-node"),
        "Forget a node",
        "access:remove_node",
        "osctl context remove-node n1",
        (_node("node", "its name in the context"), _CONTEXT),
    ),
)

PROGRAM = Program(
    name="osctl",
    summary="Drive Basalt nodes through their API.",
    package="osctl.commands",
    commands=COMMANDS,
    groups={
        "get": "Show what a node holds",
        "config": "Work with configuration documents",
        "gen": "Make certificates",
        "context": "Which nodes there are, how they are recognised, and who you are to them",
    },
    shared_title="which node",
    shared=NODE_OPTIONS,
)
