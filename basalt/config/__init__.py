"""The node's configuration: strict YAML documents.

``parse`` reads them, with every problem and its place in one error; ``render`` writes the canonical form; ``redact`` makes
a copy without secrets, and with ``secrets_of`` ``parse`` completes it again; ``diff`` tells two apart; ``json_schema``
describes them. The kinds are in :mod:`basalt.config.documents`. Used on nodes, where imports are slow: nothing here needs
more than PyYAML and msgspec.
"""

from basalt.config.decode import parse
from basalt.config.documents import Configuration
from basalt.config.problems import ConfigError, Problem
from basalt.config.redaction import redact, secrets_of
from basalt.config.render import diff, render
from basalt.config.schema import json_schema

__all__ = [
    "ConfigError",
    "Configuration",
    "Problem",
    "diff",
    "json_schema",
    "parse",
    "redact",
    "render",
    "secrets_of",
]
