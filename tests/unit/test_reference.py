"""Names of images: read as container runtimes read them, one spelling for each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basalt.reference import Reference, closeness, parse, pattern

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("registry.example.org/app", "registry.example.org/app:latest"),
        ("Registry.Example.org/a/b/c:V1", "registry.example.org/a/b/c:V1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),  # without a '/' it is a tag
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry:05000/app", "registry:5000/app:latest"),
        ("[2001:DB8:0::1]:5000/app:1", "[2001:db8::1]:5000/app:1"),
        ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f:latest"),
        (f"nginx@sha256:{HEX}", f"docker.io/library/nginx@sha256:{HEX}"),
        (f"nginx:1.27@sha256:{HEX}", f"docker.io/library/nginx:1.27@sha256:{HEX}"),
    ],
)
def test_one_spelling(text: str, expected: str) -> None:
    assert str(parse(text)) == expected
    assert parse(expected) == parse(text)


def test_parts() -> None:
    reference = parse(f"registry.example.org:5000/team/app:1@sha256:{HEX}")
    assert reference == Reference("registry.example.org:5000", "team/app", "1", f"sha256:{HEX}")
    assert reference.name == "registry.example.org:5000/team/app"
    assert parse(f"app@sha256:{HEX}").tag == ""
    assert parse("app").digest == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the image is missing"),
        (":1", "the image is missing"),
        ("registry.example.org/", "the image is missing"),
        ("https://registry.example.org/app", "no scheme"),
        (HEX, "id is no name"),
        ("App", "upper-case letters"),
        ("Team/app", "upper-case letters"),
        ("a___b", "words of lower-case letters and digits"),
        ("a//b", "words of lower-case letters and digits"),
        ("a b", "words of lower-case letters and digits"),
        ("../app", "no host"),
        ("a..b/app", "no host"),
        ("-a.b/app", "no host"),
        ("[2001:db8::g]/app", "no host"),
        (f"{'a.' * 999}b/app", "no host"),
        ("registry.example.org:0/app", "from 1 to 65535"),
        (f"registry.example.org/{'a' * 256}", "its path has 256 characters"),
        ("app:", "its tag"),
        ("app:-1", "its tag"),
        (f"app:{'1' * 129}", "its tag"),
        ("app@", "its digest"),
        ("app@sha512:00", "its digest"),
        (f"app@sha256:{HEX.upper()}", "its digest"),
        (f"app@sha256:{HEX}:1", "its digest"),
    ],
)
def test_refusal_says_why(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse(text)


@settings(max_examples=300)
@given(st.text("aB0.-_:/@[]", max_size=16) | st.text(max_size=9))
def test_one_spelling_is_read_as_itself(text: str) -> None:
    try:
        reference = parse(text)
    except ValueError:
        return
    assert parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", "*"),
        ("Registry.Example.org", "registry.example.org"),
        ("registry.example.org/*", "registry.example.org"),
        ("registry.example.org:05000/team/*", "registry.example.org:5000/team"),
        ("localhost", "localhost"),
        ("localhost:5000/app", "localhost:5000/app"),
        ("[2001:DB8:0::1]:5000", "[2001:db8::1]:5000"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx"),
        ("docker.io/nginx", "docker.io/nginx"),
    ],
)
def test_one_spelling_of_a_pattern(text: str, expected: str) -> None:
    assert pattern(text) == expected == pattern(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no host; that of nginx is docker.io/library/nginx"),
        ("nginx", "no host"),
        ("library/nginx", "no host"),
        ("https://registry.example.org", "no host"),
        ("nginx:1.27", "no host"),
        ("*.example.org", "neither alone nor behind the last '/'"),
        ("registry.example.org/te*", "neither alone nor behind the last '/'"),
        ("registry.example.org/*/app", "neither alone nor behind the last '/'"),
        ("registry.example.org/", "the image is missing"),
        ("registry.example.org/team/", "words of lower-case letters"),
        ("registry.example.org/Team", "upper-case letters"),
        ("registry.example.org/app:1", "a tag or digest has no place here"),
        (f"registry.example.org/app@sha256:{HEX}", "a tag or digest has no place here"),
        ("registry.example.org:99999/app", "from 1 to 65535"),
        (f"registry.example.org/{'a' * 256}", "its path has 256 characters"),
    ],
)
def test_what_is_no_pattern(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        pattern(text)


@settings(max_examples=300)
@given(st.text("aB.:/*5[]", max_size=16) | st.text(max_size=9))
def test_a_pattern_covers_what_it_is_and_what_is_below(text: str) -> None:
    try:
        found = pattern(text)
    except ValueError:
        return
    assert pattern(found) == found
    name = "a.example" if found == "*" else found
    assert closeness(found, f"{name}/app") > 0
    assert found == "*" or closeness(found, f"{name}app/app") == 0
