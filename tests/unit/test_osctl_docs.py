"""The reference pages say what the code says."""

from basalt import config, docs


def test_reference_pages_are_fresh() -> None:
    assert docs.stale() == [], "run `python -m basalt.docs`"


def test_example_of_the_configuration_page_is_valid() -> None:
    assert len(config.parse(docs.EXAMPLE.encode(), "example").documents) == 3
