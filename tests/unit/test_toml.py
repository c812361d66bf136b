"""TOML is written so that it reads as what was written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basalt.config.documents import ServiceConfig
from basalt.config.rules.system import CONTAINERD_OPEN, settings_are_the_programs_to_change
from basalt.toml import dumped, leaves, merged
from machined.containerd import containerd_toml
from tests.unit.config_strategies import SECRET

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUES = st.booleans() | st.integers(-(2**40), 2**40) | _TEXT | st.floats(allow_nan=False) | st.dates() | SECRET
_TABLES = st.recursive(
    st.dictionaries(_TEXT, _VALUES | st.lists(_VALUES, max_size=3), max_size=3),
    lambda below: st.dictionaries(_TEXT, _VALUES | below | st.lists(below, max_size=2), max_size=3),
    max_leaves=8,
)


@given(_TABLES)
def test_what_is_written_reads_as_it_was(table: dict[str, Any]) -> None:
    assert tomllib.loads(dumped(table)) == table


@given(_TABLES, _TABLES)
def test_what_is_laid_over_stands_and_the_rest_stays(below: dict[str, Any], above: dict[str, Any]) -> None:
    result = merged(below, above)
    for path in leaves(above):
        seen: Any = result
        for name in path:
            seen = seen[name]
        wanted: Any = above
        for name in path:
            wanted = wanted[name]
        assert seen == wanted or (wanted == {} and isinstance(seen, dict))
    assert merged(below, {}) == below


def test_everything_that_the_node_sets_for_containerd_is_the_nodes() -> None:
    """Whatever the template gets, an operator's TOML cannot change it."""
    for path in leaves(tomllib.loads(containerd_toml(None))):
        text: dict[str, Any] = {}
        table = text
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = "other"
        found = list(settings_are_the_programs_to_change(ServiceConfig(name="containerd", settings=dumped(text))))
        assert found, path


@pytest.mark.parametrize(
    "text",
    [
        '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\nruntime_type = "x"',
        '[plugins."io.containerd.grpc.v1.cri"]\ncontainerd = 1',
        "[plugins]\n'io.containerd.grpc.v1.cri' = 'x'",
        'imports = ["/etc/other.toml"]',
        '[proxy_plugins.x]\ntype = "snapshot"',
    ],
)
def test_nobody_gets_around_that(text: str) -> None:
    assert list(settings_are_the_programs_to_change(ServiceConfig(name="containerd", settings=text)))


def test_an_operators_toml_is_laid_over_the_nodes() -> None:
    text = (
        '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\nruntime_type = "io.containerd.kata.v2"\n'
        '[plugins."io.containerd.grpc.v1.cri"]\nmax_concurrent_downloads = 7\n'
    )
    assert not list(settings_are_the_programs_to_change(ServiceConfig(name="containerd", settings=text)))
    before, after = tomllib.loads(containerd_toml(None)), tomllib.loads(containerd_toml(None, text))
    cri = after["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["max_concurrent_downloads"] == 7
    assert cri["containerd"]["runtimes"].keys() == {"runc", "crun", "bridge-runc", "bridge-crun", "kata"}
    del cri["max_concurrent_downloads"], cri["containerd"]["runtimes"]["kata"]
    assert after == before
    assert set(after) - {"version", "root", "state", "oom_score", "grpc"} <= set(CONTAINERD_OPEN)
