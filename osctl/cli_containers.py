"""The commands about images, workloads and containers."""

from __future__ import annotations

import argparse

from basalt.commandline import Command, option
from osctl.cli_options import FOLLOW, TAIL, count, part_of_workload, since
from osctl.transfers import STYLES

_PROGRESS = option(
    "--progress",
    choices=STYLES,
    default="auto",
    metavar="STYLE",
    help=f"how progress is shown on standard error: {', '.join(STYLES)} (default auto)",
)
_PART = option(
    "workload", type=part_of_workload, metavar="NAME[/CONTAINER]", help="a workload, or one of its containers"
)
_REFERENCES = option("references", nargs="+", metavar="REF", help="names, digests or ids that `osctl image list` shows")
_WORKLOADS = option("names", nargs="*", metavar="NAME", help="workloads; default: all")

CONTAINERS = (
    Command(
        ("image", "pull"),
        "Have a node fetch an image from its registry",
        "images:pull",
        "osctl image pull docker.io/library/nginx:1.27",
        (option("reference", metavar="REF", help="the image with its registry, and a tag or digest"), _PROGRESS),
        detail="It prints the image's digest. Mirrors and credentials are those of the node's RegistryConfig.",
        reads=True,
        shared=True,
    ),
    Command(
        ("image", "import"),
        "Give a node the images of an archive, so that it needs no registry",
        "images:import_archive",
        "osctl image import app.tar -n all",
        (
            option(
                "file",
                metavar="FILE",
                help="an OCI or Docker archive (a tar, or one in gzip), a directory with an OCI image layout, or - for an "
                "archive on standard input",
            ),
            option(
                "--reference", default="", metavar="NAME", help="what to call an image that the archive does not name"
            ),
            _PROGRESS,
        ),
        detail="Nothing of it is written here, and no more of it is read than the node has taken.",
        reads=True,
        shared=True,
    ),
    Command(
        ("image", "export"),
        "Write images of a node into one OCI archive",
        "images:export",
        "osctl image export docker.io/library/nginx:1.27 -O nginx.tar",
        (
            option("references", nargs="+", metavar="REF", help="names that `osctl image list` shows"),
            option("-O", dest="file", required=True, metavar="FILE", help="the archive; - is standard output"),
            _PROGRESS,
        ),
        detail="FILE appears when the archive is whole; until then, and when it fails, what was there stays.",
        reads=True,
        shared=True,
    ),
    Command(
        ("image", "list"),
        "List a node's images, and what uses them",
        "images:list_images",
        "osctl image list",
        reads=True,
        shared=True,
    ),
    Command(
        ("image", "remove"),
        "Remove images from a node",
        "images:remove",
        "osctl image remove docker.io/library/nginx:1.26",
        (
            _REFERENCES,
            option("--force", action="store_true", help="also one that a container uses; the container goes on"),
        ),
        reads=True,
        shared=True,
    ),
    Command(
        ("image", "prune"),
        "Remove the images that no workload names and no container uses",
        "images:prune",
        "osctl image prune --dry-run",
        (option("--dry-run", action="store_true", help="show what would be removed, and remove nothing"),),
        reads=True,
        shared=True,
    ),
    Command(
        ("workload", "list"),
        "List a node's workloads, and how they are",
        "workloads:list_workloads",
        "osctl workload list -n all",
        reads=True,
        shared=True,
    ),
    Command(
        ("workload", "get"),
        "Show all about one workload and its containers",
        "workloads:get",
        "osctl workload get web",
        (option("name", metavar="NAME", help="a workload that `osctl workload list` shows"),),
        reads=True,
        shared=True,
    ),
    Command(
        ("workload", "logs"),
        "Show what a container has written",
        "workload_logs:logs",
        "osctl workload logs web/nginx -f --since 10m",
        (
            _PART,
            FOLLOW,
            TAIL,
            option(
                "--since",
                type=since,
                default=0.0,
                metavar="T",
                help="only what is not older: a length of time such as 90s, 10m, 1h30m, 2d, or a date and time such as "
                "2026-11-25T10:19:38, in UTC unless it says otherwise",
            ),
            option("--previous", action="store_true", help="of the container before the present one"),
            option("--timestamps", action="store_true", help="when, before each line"),
        ),
        detail="What it wrote to its error output goes to standard error. With -o json each line is an object of its own, all on "
        "standard output.",
        reads=True,
        shared=True,
    ),
    Command(
        ("workload", "events"),
        "Show what happened to workloads since machined began: images pulled, containers started, ended, found unhealthy",
        "workload_logs:events",
        "osctl workload events web -f --tail 10",
        (
            _WORKLOADS,
            FOLLOW,
            option("--tail", type=count, default=0, metavar="N", help="only the last N events of what is there"),
        ),
        detail="With -o json each event is an object of its own.",
        reads=True,
        shared=True,
    ),
    Command(
        ("workload", "restart"),
        "Stop a workload's containers and start new ones at once",
        "workloads:restart",
        "osctl workload restart web/nginx",
        (_PART,),
        detail="Whatever is left of a back-off is not waited for.",
        reads=True,
        shared=True,
    ),
    Command(
        ("workload", "exec"),
        "Run a command in a container",
        "execute:execute",
        "osctl workload exec -t -i web/nginx -- sh",
        (
            option(
                "-t",
                dest="terminal",
                action="store_true",
                help="give the command a terminal of the size of yours; standard input must be one",
            ),
            option("-i", dest="input", action="store_true", help="send standard input to the command"),
            _PART,
            # PARSER: takes everything from the first word on, options and a second "--" too.
            option("words", nargs=argparse.PARSER, metavar="COMMAND", help="the command with its arguments, after --"),
        ),
        detail="It ends with the command's exit code, and with its own (1 to 4) where the command could not be run or watched to its "
        "end. Ctrl-C without -t ends the command.",
        shared=True,
    ),
    Command(
        ("workload", "top"),
        "Show what containers use: processor time over one second, memory, processes",
        "workloads:top",
        "osctl workload top web",
        (_WORKLOADS,),
        detail="100 % is one processor. Memory is without what the kernel could drop.",
        reads=True,
        shared=True,
    ),
    Command(
        ("containers",),
        "List what a node's container runtime holds, whoever had it made",
        "containers:containers",
        "osctl containers -o json",
        detail="Workloads, a kubelet's pods, and what somebody made with a client of the runtime.",
        reads=True,
        shared=True,
    ),
)
