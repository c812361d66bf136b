"""The reference pages say what the code says."""

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
