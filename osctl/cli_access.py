"""The commands about who is who: contexts, certificates, enrolment, rotation."""

from __future__ import annotations

import argparse
import datetime

from basalt.commandline import Command, Option, option, seconds
from basalt.endpoint import DEFAULT_PORT, DEFAULT_TIMEOUT_S
from basalt.roles import Role
from osctl.cli_options import CONTEXT, lifetime, role


def _node(name: str, help_text: str) -> Option:
    return option(name, metavar=name.upper(), help=help_text)


def _name(help_text: str = "default: the current one") -> Option:
    return option("name", nargs="?", metavar="NAME", help=help_text)


_CONTEXT_NAME = option("name", metavar="NAME", help="letters, digits, '.', '_', '-'")
_KNOWN_CONTEXT = option("name", metavar="NAME", help="a context that `osctl context list` shows")
_OUTPUT = option("--output", default=".", metavar="DIR", help="where the files go (default: here)")

ACCESS = (
    Command(
        ("get", "identity"),
        "Show the certificates that a node shows, and the one with which it issues them",
        "identity:get",
        "osctl get identity",
        reads=True,
        shared=True,
    ),
    Command(
        ("enroll",),
        "Have the context's node authority vouch for a node, or renew that",
        "identity:enroll",
        "osctl enroll -n n1",
        (
            option(
                "--lifetime",
                type=lifetime,
                default=datetime.timedelta(days=730),
                metavar="T",
                help="of the certificate with which the node issues its own, in hours or days (default 730d)",
            ),
        ),
        detail="From then on the context recognises the node by its id. Connections to it stay. `osctl apply-config` does this "
        "by itself for a node that is not enrolled.",
        reads=True,
        shared=True,
    ),
    Command(
        ("gen", "secrets"),
        "Make the two authorities: one for operators, one for nodes",
        "gen:secrets",
        "osctl gen secrets --output authorities",
        (
            option("--output", metavar="DIR", help="write them there; without it they go into the context"),
            CONTEXT,
        ),
        detail="Without --output it makes the context, or gives one of an earlier version the node authority that it lacks. With "
        "it, `osctl context create NAME --secrets DIR` makes a context of them later.",
        reads=True,
    ),
    Command(
        ("gen", "config"),
        "Write starter documents for a node",
        "gen:config",
        "osctl gen config n1 > n1.yaml",
        (option("name", metavar="NAME", help="the node's host name"), CONTEXT),
        detail="They trust the context's client authority and ask for an address by DHCP; every field is in the reference.",
    ),
    Command(
        ("gen", "client"),
        "Make a client certificate for somebody",
        "gen:client",
        "osctl gen client --name alice --role operator --lifetime 30d",
        (
            option("--name", required=True, help="who it is for; this is the name in the node's records"),
            option(
                "--role",
                action="append",
                required=True,
                type=role,
                metavar="ROLE",
                help=f"what the holder may do: {', '.join(role.short for role in Role)}; may be given several times",
            ),
            option(
                "--lifetime",
                type=lifetime,
                default=datetime.timedelta(days=365),
                metavar="T",
                help="hours or days, such as 12h or 90d (default 365d)",
            ),
            _OUTPUT,
            CONTEXT,
        ),
        detail="It writes NAME.pem, NAME-key.pem, NAME-ca.pem and NAME-node-ca.pem, from which the holder makes a context "
        "(`osctl context create`).",
        reads=True,
    ),
    Command(
        ("ca", "rotate"),
        "Replace an authority on every node of the context, while everything goes on working",
        "rotate:rotate",
        "osctl ca rotate --authority client --dry-run",
        (
            option(
                "--authority",
                choices=("client", "node"),
                required=True,
                help="client: the one that signs operators' certificates; node: the one that nodes are verified against",
            ),
            option(
                "--dry-run", action="store_true", help="show the steps and how every node stands, and change nothing"
            ),
            option(
                "--timeout",
                type=seconds,
                default=argparse.SUPPRESS,
                metavar="S",
                help=f"seconds that a node may take to answer a call (default {DEFAULT_TIMEOUT_S:.0f})",
            ),
            CONTEXT,
        ),
        detail="The new one is added everywhere and seen working before anything switches to it, and the old one is removed last. "
        "It may be interrupted at any time: the same command goes on where it stopped.",
        reads=True,
    ),
    Command(("context", "list"), "List the contexts", "contexts:list_contexts", "osctl context list", reads=True),
    Command(
        ("context", "show"),
        "Show a context: who you are in it, and its nodes",
        "contexts:show_context",
        "osctl context show",
        (_name(),),
        reads=True,
    ),
    Command(
        ("context", "use"),
        "Make a context the current one",
        "contexts:use_context",
        "osctl context use lab",
        (_KNOWN_CONTEXT,),
    ),
    Command(
        ("context", "create"),
        "Make a context, with authorities of its own or from a certificate that you were given",
        "contexts:create_context",
        "osctl context create lab --certificate alice.pem --key alice-key.pem --ca alice-ca.pem --node-ca alice-node-ca.pem",
        (
            _CONTEXT_NAME,
            option("--certificate", metavar="FILE", help="your client certificate (PEM)"),
            option("--key", metavar="FILE", help="its private key (PEM)"),
            option("--ca", metavar="FILE", help="the authority that signed it (PEM)"),
            option(
                "--node-ca", metavar="FILE", help="the node authority, which enrolled nodes are verified against (PEM)"
            ),
            option("--secrets", metavar="DIR", help="authorities that `osctl gen secrets --output DIR` made"),
        ),
    ),
    Command(
        ("context", "rename"),
        "Call a context otherwise",
        "contexts:rename_context",
        "osctl context rename lab work",
        (_KNOWN_CONTEXT, option("new", metavar="NEW", help="letters, digits, '.', '_', '-'")),
    ),
    Command(
        ("context", "delete"),
        "Forget a context with its keys and certificates",
        "contexts:delete_context",
        "osctl context delete lab",
        (
            _KNOWN_CONTEXT,
            option(
                "--with-authority",
                action="store_true",
                help="even when the key of an authority goes with it, without which no certificate can be made any more",
            ),
        ),
    ),
    Command(
        ("context", "ca"),
        "Print a context's authority: the client authority, which nodes are to trust, or the node authority",
        "contexts:print_ca",
        "osctl context ca > client-ca.pem",
        (
            _name("default: the current one, made on first use"),
            option(
                "--authority", choices=("client", "node"), default="client", help="which of the two (default client)"
            ),
        ),
    ),
    Command(
        ("context", "trust"),
        "Verify a context's enrolled nodes against the node authority that you were given",
        "contexts:trust_nodes",
        "osctl context trust --node-ca node-ca.pem",
        (
            _name(),
            option("--node-ca", required=True, metavar="FILE", help="one or more authorities (PEM)"),
        ),
    ),
    Command(
        ("context", "renew"),
        "Give yourself a new certificate, where the context holds its authority's key",
        "contexts:renew",
        "osctl context renew",
        (_name(),),
    ),
    Command(
        ("context", "add-node"),
        "Write down a node and how it is recognised, or change it",
        "contexts:add_node",
        "osctl context add-node n1 --endpoint 192.0.2.10 --fingerprint SHA256:...",
        (
            _node("node", "how you call it"),
            option(
                "--endpoint",
                required=True,
                metavar="HOST:PORT",
                help=f"where its API listens (port {DEFAULT_PORT} unless it is given)",
            ),
            option("--fingerprint", metavar="SHA256:...", help="of its first certificate, as its console shows it"),
            option("--node-id", metavar="ID", help="of a node that is enrolled, as `osctl version` shows it"),
            CONTEXT,
            option("--default", action="store_true", help="speak to it where the command line names no node"),
        ),
        detail="One of --fingerprint and --node-id is needed; a node with an id is recognised by that alone.",
    ),
    Command(
        ("context", "remove-node"),
        "Forget a node",
        "contexts:remove_node",
        "osctl context remove-node n1",
        (_node("node", "its name in the context"), CONTEXT),
    ),
)
