"""Names of container images: ``host/path:tag@digest``, read and written as container runtimes do.

The grammar and the defaults are those of https://github.com/distribution/reference: ``nginx`` means
``docker.io/library/nginx:latest``. What is before the first '/' is a host when it has a '.' or ':' or is ``localhost``. Hosts are
in lower case, as in the configuration's registries.

Patterns of names, for what holds for many images, are whole parts of a name from its beginning: see :func:`pattern`.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
EVERY = "*"  # the pattern of all names
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?")
_COMPONENT = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LONGEST = 255  # of a host (RFC 1035) and, in the grammar, of a path


class Reference(Struct, frozen=True):
    """The name of an image. Of *tag* and *digest* one may be empty; with both, the digest says which image it is.

    As text it is the one spelling.
    """

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository: the name without tag and digest."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        return f"{self.name}{self.tag and f':{self.tag}'}{self.digest and f'@{self.digest}'}"


def parse(text: str) -> Reference:
    """Read an image's name.

    :raises ValueError: it is none; says why, in words.
    """
    if "://" in text:
        raise ValueError("an image's name has no scheme such as https://")
    if re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("an image's id is no name")
    rest, at, digest = text.partition("@")
    if at and DIGEST.fullmatch(digest) is None:
        raise ValueError("its digest is not sha256: with 64 hexadecimal digits in lower case")
    before, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and _TAG.fullmatch(tag) is None:
        raise ValueError(
            "its tag is not 1 to 128 letters, digits, '_', '.' and '-', beginning with none of '.' and '-'"
        )
    first, slash, path = f"{before}{slash}{last}".partition("/")
    if slash and _is_host(first):
        host = _host(first)
    else:
        host, path = DEFAULT_HOST, f"{first}{slash}{path}"
    if host == DEFAULT_HOST and path and "/" not in path:
        path = f"library/{path}"
    if len(path) > _LONGEST or _PATH.fullmatch(path) is None:
        raise ValueError(_about_path(path))
    return Reference(host, path, tag or ("" if digest else DEFAULT_TAG), digest)


def pattern(text: str) -> str:
    """The one spelling of a pattern of names: ``*``, or a host, or a host and the beginning of a path, in whole parts.

    It covers the name that it is itself and all names below it; a trailing ``/*`` says the same.

    :raises ValueError: it is none; says why, in words.
    """
    if text == EVERY:
        return text
    beginning = text.removesuffix(f"/{EVERY}")
    if EVERY in beginning:
        raise ValueError("a '*' that is neither alone nor behind the last '/'")
    first, slash, path = beginning.partition("/")
    if not _is_host(first):
        raise ValueError("it begins with no host; that of nginx is docker.io/library/nginx")
    host = _host(first)
    if re.search("[:@]", path):
        raise ValueError("a tag or digest has no place here")
    if slash and (len(path) > _LONGEST or _PATH.fullmatch(path) is None):
        raise ValueError(_about_path(path))
    return f"{host}{slash}{path}"


def closeness(covering: str, name: str) -> int:
    """How closely a pattern describes a name without tag and digest; 0 where it does not cover it.

    Of several patterns that cover a name, the closest one is meant: the one with the most parts. ``docker.io/nginx``, which is how
    ``docker.io/library/nginx`` is called where people type it, is closer to that than ``docker.io/library``.
    """
    if covering == EVERY:
        return 1
    parts = covering.count("/") + 1
    if name == covering or name.startswith(f"{covering}/"):
        return 2 * parts
    host, _, path = covering.partition("/")
    return 2 * parts + 1 if host == DEFAULT_HOST and name == f"{DEFAULT_HOST}/library/{path}" else 0


def _is_host(first: str) -> bool:
    return first == "localhost" or re.search("[.:]", first) is not None


def _host(text: str) -> str:
    match = _HOST.fullmatch(text.lower()) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError("what is before its first '/' is no host")
    name, port = match[1], match.groups()[-1]
    if name.startswith("["):
        name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    if name == "index.docker.io":  # what it was called once, and still is in old files
        name = DEFAULT_HOST
    return f"{name}:{int(port)}" if port else name


def _about_path(path: str) -> str:
    if not path:
        return "the image is missing"
    if len(path) > _LONGEST:
        return f"its path has {len(path)} characters"
    if path != path.lower():
        return "upper-case letters in its path"
    return "its parts are not words of lower-case letters and digits with one of '.', '_', '__' or some '-' between"
