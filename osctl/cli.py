"""The commands of osctl as one table."""

from __future__ import annotations

from basalt.commandline import Program
from osctl.cli_access import ACCESS
from osctl.cli_config import CONFIG
from osctl.cli_nodes import NODES
from osctl.cli_options import NODE_OPTIONS

COMMANDS = (*NODES, *CONFIG, *ACCESS)

PROGRAM = Program(
    name="osctl",
    summary="Drive Basalt nodes through their API.",
    package="osctl.commands",
    commands=COMMANDS,
    groups={
        "get": "Show what a node holds",
        "config": "Work with configuration documents",
        "gen": "Make authorities, certificates and documents",
        "ca": "Work with the authorities",
        "context": "Which nodes there are, how they are recognised, and who you are to them",
    },
    shared_title="which node",
    shared=NODE_OPTIONS,
)
