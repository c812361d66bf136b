"""The contexts file itself: its types, its lock, and the files beside it. What can be done with them: basalt.contexts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta, Struct

from basalt import pki
from basalt.config.decode import parse_struct
from basalt.config.problems import nearest_name
from basalt.config.values import RULE, TextRule
from basalt.endpoint import Endpoint, parse_endpoint
from basalt.errors import BasaltError, UsageError
from basalt.files import write_atomic

DEFAULT_CONTEXT = "default"

# Context and node names become file names and words on a command line ("-n a,b").
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NODE_ID = re.compile(r"[0-9a-f]{32}")


def _endpoint(text: str) -> str:
    try:
        return str(parse_endpoint(text))
    except UsageError as error:
        raise ValueError(error.why) from error


def _fingerprint(text: str) -> str:
    try:
        return pki.parse_fingerprint(text)
    except UsageError as error:
        raise ValueError(error.why) from error


def _node_id(text: str) -> str:
    try:
        return parse_node_id(text)
    except UsageError as error:
        raise ValueError(error.why) from error


_Fingerprint = Annotated[str, Meta(extra={RULE: TextRule("SHA256: and 64 hexadecimal digits", _fingerprint)})]
_NodeId = Annotated[str, Meta(extra={RULE: TextRule("the id that `osctl version` shows", _node_id)})]


class Node(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node: where it listens, and how it is recognised.

    One with an ``id`` is enrolled: it is recognised by that name in a certificate of the context's node authority, and by
    nothing else. One without is recognised by the fingerprint of the certificate that it made itself at its first boot.
    """

    endpoint: Annotated[str, Meta(extra={RULE: TextRule("HOST:PORT", _endpoint)})]
    fingerprint: _Fingerprint | None = None
    id: _NodeId | None = None

    @property
    def address(self) -> Endpoint:
        return parse_endpoint(self.endpoint)


class Context(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """As whom to talk to which nodes. File names are relative to the directory of the contexts file."""

    ca: str
    certificate: str
    key: str
    ca_key: str | None = None  # only where this operator can sign certificates
    node_ca: str | None = None  # node authorities: what enrolled nodes are verified against; several during a rotation
    node_ca_key: str | None = None  # only where this operator can enrol nodes
    node: str | None = None  # spoken to where the command line names none
    nodes: dict[str, Node] = {}


class Contexts(Struct, frozen=True, kw_only=True):
    """The contexts file."""

    current: str
    contexts: dict[str, Context]

    def get(self, name: str | None = None) -> Context:
        """The context called *name*, or the current one.

        :raises UsageError: when there is none.
        """
        wanted = self.current if name is None else name
        context = self.contexts.get(wanted)
        if context is None:
            near = nearest_name(wanted, self.contexts)
            raise UsageError(
                f"there is no context {wanted!r}",
                why=f"did you mean {near!r}?" if near else f"there are: {', '.join(self.contexts) or 'none'}",
                remedy=f"`osctl context create {wanted}` makes it",
            )
        return context


def config_path() -> Path:
    """Where the contexts file is: ``$OSCTL_CONFIG``, else below ``$XDG_CONFIG_HOME``, else below ``~/.config``."""
    chosen = os.environ.get("OSCTL_CONFIG")
    if chosen:
        return Path(chosen).expanduser()
    # The XDG Base Directory Specification: a relative path is invalid and to be ignored.
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "osctl" / "config.yaml"


def parse_node_id(text: str) -> str:
    """A node's id as `osctl version` shows it.

    :raises UsageError: when it cannot be one.
    """
    if NODE_ID.fullmatch(text.lower()) is None:
        raise UsageError(
            f"{text!r} is not a node's id",
            why="an id has 32 hexadecimal digits",
            remedy="`osctl version` shows it",
        )
    return text.lower()


def load() -> Contexts:
    """Read the contexts file; without one there are no contexts.

    :raises ConfigError: when it is not what it should be.
    :raises BasaltError: when it cannot be read.
    """
    path = config_path()
    try:
        return parse_struct(path.read_bytes(), str(path), Contexts)
    except FileNotFoundError:
        return Contexts(current=DEFAULT_CONTEXT, contexts={})
    except OSError as error:
        raise _cannot("read", path, error) from error


def check_name(name: str, what: str) -> str:
    """*name* itself if it is fit for a *what* ("context", "node").

    :raises UsageError: when it is not.
    """
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot be the name of a {what}",
            why="a name has 1 to 63 letters, digits, '.', '_', '-' and begins with a letter or digit",
        )
    return name


class Change(Struct):
    """The contexts file while it is changed under its lock."""

    current: str
    contexts: dict[str, Context]

    def get(self, name: str) -> Context:
        return Contexts(current=self.current, contexts=self.contexts).get(name)

    def settle(self, name: str) -> None:
        """Make *name* the current context if there is none: the first one made is the one meant."""
        if self.current not in self.contexts:
            self.current = name


@contextlib.contextmanager
def changing() -> Iterator[Change]:
    """Read under the lock, and write what the caller made of it unless it raised."""
    path = config_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot("write", path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = load()
        change = Change(current=now.current, contexts=dict(now.contexts))
        yield change
        text = yaml.safe_dump(msgspec.to_builtins(change), sort_keys=False, allow_unicode=True)
        try:
            write_atomic(path, text.encode(), mode=0o600)
        except OSError as error:
            raise _cannot("write", path, error) from error
    finally:
        os.close(lock)


def directory_of(context: str) -> Path:
    path = config_path()
    return path.with_name(f"{path.stem}.d") / context


def store(path: Path, data: bytes, *, secret: bool = False) -> str:
    """Write a key or certificate and give its name as the contexts file writes it."""
    base = config_path().parent
    try:
        for directory in (path.parent.parent, path.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, data, mode=0o600 if secret else 0o644)
    except OSError as error:
        raise _cannot("write", path, error) from error
    return str(path.relative_to(base))


def read(name: str, *, secret: bool = False) -> bytes:
    path = config_path().parent / name
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if secret and mode & 0o077:
                raise BasaltError(
                    f"will not use the key in {path}",
                    why=f"others can read it (mode {mode:04o})",
                    remedy=f"chmod 600 {path}",
                )
            return stream.read()
    except OSError as error:
        raise _cannot("read", path, error) from error


def _cannot(verb: str, path: Path, error: OSError) -> BasaltError:
    return BasaltError(f"cannot {verb} {path}", why=error.strerror or str(error))
