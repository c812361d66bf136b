"""The commands of osctl as one table."""

from __future__ import annotations

from basalt.commandline import Program
from osctl.cli_access import ACCESS
from osctl.cli_config import CONFIG
from osctl.cli_containers import CONTAINERS
from osctl.cli_nodes import NODES
from osctl.cli_options import NODE_OPTIONS

COMMANDS = (*NODES, *CONTAINERS, *CONFIG, *ACCESS)

PROGRAM = Program(
    name="osctl",
    summary="Drive Basalt nodes through their API.",
    package="osctl.commands",
    commands=COMMANDS,
    groups={
        "get": "Show what a node holds",
        "image": "Work with the images on a node",
        "workload": "Look at workloads and steer them",
        "config": "Work with configuration documents",
        "gen": "Make authorities, certificates and documents",
        "ca": "Work with the authorities",
        "context": "Which nodes there are, how they are recognised, and who you are to them",
    },
    shared_title="which node",
    shared=NODE_OPTIONS,
)
