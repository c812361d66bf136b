"""The commands that look at nodes and switch them."""

from __future__ import annotations

from basalt.commandline import Command, option
from osctl.cli_options import FOLLOW, TAIL, count, wait

STATUS_DETAIL = (
    "Each concern of the node (network, time, services, ...) is converged, or waits for something, or has failed; since when, "
    "why, and what the node does about it next."
)

NODES = (
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
        detail=STATUS_DETAIL,
        reads=True,
        shared=True,
    ),
    Command(
        ("get", "status"),
        "Show each concern of a node: converged, or what it waits for, or why it failed",
        "system:status",
        "osctl get status",
        detail=STATUS_DETAIL,
        reads=True,
        shared=True,
    ),
    Command(
        ("get", "links"),
        "Show a node's network links with their addresses and routes",
        "system:links",
        "osctl get links -o json",
        reads=True,
        shared=True,
    ),
    Command(
        ("reboot",),
        "Reboot a node",
        "system:reboot",
        "osctl reboot --wait",
        (wait("wait until the node is back from its reboot"),),
        reads=True,
        shared=True,
    ),
    Command(
        ("shutdown",),
        "Switch a node off",
        "system:shutdown",
        "osctl shutdown -n n1 --wait",
        (wait("wait until nothing listens at its address any more"),),
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
        (option("service", metavar="SERVICE", help="a name that `osctl services` lists"), FOLLOW, TAIL),
        detail="With -o json each line is an object of its own.",
        reads=True,
        shared=True,
    ),
    Command(
        ("dmesg",),
        "Show what a node's kernel has said",
        "logs:dmesg",
        "osctl dmesg -f",
        (FOLLOW, TAIL),
        detail="With -o json each message is an object of its own.",
        reads=True,
        shared=True,
    ),
    Command(
        ("audit",),
        "Show who did what on a node: every call that changed something, and every one that was refused",
        "logs:audit",
        "osctl audit --tail 20",
        (FOLLOW, option("--tail", type=count, default=0, metavar="N", help="only the last N records")),
        detail="With -o json each record is an object of its own.",
        reads=True,
        shared=True,
    ),
)
