"""What holds for every file and every configuration: nothing but ConfigError comes out of the parser, nothing is lost, no secret leaks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from config_strategies import CONFIGURATIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from basalt import config
from basalt.config import tree
from basalt.config.documents import API_VERSION, KINDS, Configuration
from basalt.config.patch import patch
from basalt.config.redaction import redact_struct
from basalt.config.types import Choice, fields_of
from basalt.docs_examples import EXAMPLES

EXAMPLE = "---\n".join(EXAMPLES.values())
KEY = b"0123456789abcdef"
LOADERS = [name for name in ("CSafeLoader", "SafeLoader") if hasattr(yaml, name)]


@contextlib.contextmanager
def parser(loader: str) -> Iterator[None]:
    """Have *loader* read YAML."""
    before = tree._Loader
    tree._Loader = getattr(yaml, loader)
    try:
        yield
    finally:
        tree._Loader = before


def read(data: bytes) -> config.ConfigError | Configuration:
    """What comes of *data*. Any other exception is what these tests look for."""
    try:
        return config.parse(data, "f.yaml", secrets={"0" * 8: "secret"})
    except config.ConfigError as error:
        assert error.problems
        lines = (
            data.count(b"\n")
            + data.count(b"\r")
            + 2
            + len(re.findall("\x85|\u2028|\u2029", data.decode(errors="ignore")))
        )
        assert all(1 <= problem.position.line <= lines for problem in error.problems)
        assert str(error)
        return error


@pytest.mark.parametrize("loader", LOADERS)
@settings(max_examples=150)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_read_or_refused(loader: str, data: bytes) -> None:
    with parser(loader):
        read(data)
        read(f"apiVersion: {API_VERSION}\nkind: MachineConfig\nhostname: ".encode() + data)


def _names() -> list[str]:
    names = {"apiVersion", "kind", "name", "$patch"}
    todo: list[Any] = [document for document, _ in KINDS.values()]
    while todo:
        for name, field in fields_of(todo.pop()).items():
            names.add(name)
            shape = field.shape
            while hasattr(shape, "item"):
                shape = shape.item
            if hasattr(shape, "struct"):
                todo.append(shape.struct)
            if isinstance(shape, Choice):
                names.update(shape.words)
    return sorted(names)


SCALARS = (
    st.sampled_from([*_names(), *KINDS, API_VERSION, "[redacted]", "[redacted 00000000]", "delete", "*", "default"])
    | st.text(max_size=12)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats()
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_names()) | st.text(max_size=6), inner, max_size=6)
    ),
    max_leaves=20,
)


@st.composite
def broken_documents(draw: st.DrawFn) -> str:
    """Documents of real kinds with real field names and anything as their values."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(list(KINDS)))
        names = st.sampled_from(list(fields_of(KINDS[kind][0])))
        made.append({"apiVersion": API_VERSION, "kind": kind, **draw(st.dictionaries(names, TREES, max_size=5))})
    return yaml.safe_dump_all(made, allow_unicode=True)


@settings(max_examples=150)
@given(text=broken_documents() | TREES.map(yaml.safe_dump))
def test_any_tree_is_read_or_refused(text: str) -> None:
    read(text.encode())
    with contextlib.suppress(config.ConfigError):
        patch(EXAMPLE.encode(), text.encode(), "patch.yaml")


TOKENS = [
    "",
    "\t",
    "\n",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "'",
    '"',
    "&a ",
    "*a",
    "!",
    "|",
    ">",
    "%",
    "#",
    "---\n",
    "\x00",
    "\u2028",
    "~",
    "  ",
]
EDITS = st.lists(
    st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 8), st.sampled_from(TOKENS) | st.text(max_size=3)),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("loader", LOADERS)
@settings(max_examples=60)
@given(edits=EDITS)
def test_any_damage_to_a_good_file_is_read_or_refused(loader: str, edits: list[tuple[int, int, str]]) -> None:
    text = EXAMPLE
    for at, cut, put in edits:
        text = text[:at] + put + text[at + cut :]
    with parser(loader):
        read(text.encode(errors="surrogatepass"))
        with contextlib.suppress(config.ConfigError):
            patch(EXAMPLE.encode(), text.encode(errors="surrogatepass"), "patch.yaml")


def secrets_in(configuration: Configuration) -> set[str]:
    """The lines of its secrets: none of them may be shown either."""
    found: set[str] = set()

    def note(secret: str) -> str:
        found.update(line.strip() for line in secret.splitlines())
        return secret

    redact_struct(configuration, note)
    return found - {""}


@settings(max_examples=60)
@given(configuration=CONFIGURATIONS)
def test_canonical_form_reads_as_the_same(configuration: Configuration) -> None:
    text = config.render(configuration)
    assert config.parse(text, "f.yaml") == configuration
    assert config.diff(configuration, config.parse(text, "f.yaml")) == ""
    assert patch(text, text, "f.yaml") == text


@settings(max_examples=60)
@given(configuration=CONFIGURATIONS, other=CONFIGURATIONS)
def test_secrets_leave_and_come_back(configuration: Configuration, other: Configuration) -> None:
    secrets = secrets_in(configuration)
    plain, tagged = config.redact(configuration), config.redact(configuration, KEY)
    for text in (config.render(plain), config.render(tagged), config.diff(configuration, other).encode()):
        assert not any(secret in _unquoted(text.decode()) for secret in secrets)
    copy = config.render(tagged)
    assert config.parse(copy, "f.yaml", secrets=config.secrets_of(configuration, KEY)) == configuration
    assert config.parse(copy, "f.yaml", accept_placeholders=True) == tagged
    if secrets:
        with pytest.raises(config.ConfigError):
            config.parse(copy, "f.yaml")


def _unquoted(text: str) -> str:
    return text.replace("''", "'")


@settings(max_examples=150)
@given(
    configuration=CONFIGURATIONS.filter(secrets_in),
    where=st.floats(0, 1, exclude_max=True),
    cut=st.integers(0, 1),
    put=st.sampled_from(TOKENS),
)
def test_errors_repeat_no_secret(configuration: Configuration, where: float, cut: int, put: str) -> None:
    text = config.render(configuration).decode()
    at = int(where * len(text))
    result = read((text[:at] + put + text[at + cut :]).encode())
    if isinstance(result, config.ConfigError):
        said = f"{result} {result.as_dict()}"
        assert not any(secret in said for secret in secrets_in(configuration))
