"""The reference pages say what the code says, and no page or module points to one that is not there."""

import re
from pathlib import Path

import pytest

from basalt import config, docs
from basalt.config.documents import KINDS
from basalt.docs_examples import EXAMPLES


def test_reference_pages_are_fresh() -> None:
    assert docs.stale() == [], "run `python -m basalt.docs`"


@pytest.mark.parametrize("kind", KINDS)
def test_example_on_the_configuration_page_is_valid(kind: str) -> None:
    (document,) = config.parse(EXAMPLES[kind].encode(), kind).documents
    assert type(document).__name__ == kind


def test_examples_are_one_configuration() -> None:
    assert len(config.parse("---\n".join(EXAMPLES.values()).encode(), "examples").documents) == len(KINDS)


PROJECT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
_OURS = re.compile(r"\bdocs/(?:guides|reference|decisions)/[\w-]+\.md")


_WRITTEN = ("api", "basalt", "benchmarks", "docs", "kernel-config", "machined", "osbuild", "osctl", "profiles", "qemu")


def test_no_page_or_module_points_to_a_page_that_is_not_there() -> None:
    missing = []
    for path in (PROJECT / "README.md", *(path for name in _WRITTEN for path in (PROJECT / name).rglob("*.*"))):
        if path.suffix not in (".md", ".py", ".toml", ".proto", ".config"):
            continue
        text = path.read_text()
        targets = [PROJECT / found for found in _OURS.findall(text)]
        if path.suffix == ".md":
            targets += [path.parent / found for found in _LINK.findall(text)]
        missing += [f"{path.relative_to(PROJECT)}: {target}" for target in targets if not target.exists()]
    assert not missing
