"""The operator's contexts: which nodes there are, how they are recognised, and as whom to talk to them.

One file says it all (``$OSCTL_CONFIG``, by default ``osctl/config.yaml`` in the user's configuration directory); keys and
certificates lie in a directory beside it::

    config.yaml                     0600   current context; per context its files and nodes
    config.d/                       0700
        default/ca.pem                     client authority: what nodes are told to trust
        default/ca-key.pem          0600   its key; no node ever has it
        default/client.pem                 the operator's own certificate
        default/client-key.pem      0600
    .config.yaml.lock               0600   held while a command changes any of this

Every change is made under the lock and is atomic: keys first, then the file that names them.
"""

from __future__ import annotations

import datetime
import getpass
import os
import socket

import msgspec

from basalt import pki
from basalt.config.problems import nearest_name
from basalt.context_store import (
    Context,
    Contexts,
    Node,
    changing,
    check_name,
    config_path,
    directory_of,
    load,
    read,
    store,
)
from basalt.endpoint import parse_endpoint
from basalt.errors import UsageError
from basalt.roles import Role

__all__ = ["Context", "Contexts", "Node", "check_name", "config_path", "load"]

AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
# Stands for every node of a context on a command line, so no node may be called so.
ALL_NODES = "all"

CLIENT_LIFETIME = datetime.timedelta(days=365)


def ensure_context(name: str | None = None) -> Context:
    """The context called *name* (or the current one), made with an authority and an admin's certificate if need be.

    Safe to call from several processes at once: they all get the same one.
    """
    contexts = load()
    wanted = check_name(contexts.current if name is None else name, "context")
    if wanted in contexts.contexts:
        return contexts.contexts[wanted]
    with changing() as change:
        if wanted not in change.contexts:
            authority = pki.make_ca(f"basalt operators ({wanted})", AUTHORITY_LIFETIME)
            client = pki.issue_client(authority, operator_name(), [Role.ADMIN], CLIENT_LIFETIME)
            directory = directory_of(wanted)
            change.contexts[wanted] = Context(
                ca=store(directory / "ca.pem", authority.certificate_pem),
                ca_key=store(directory / "ca-key.pem", authority.key_pem, secret=True),
                certificate=store(directory / "client.pem", client.certificate_pem),
                key=store(directory / "client-key.pem", client.key_pem, secret=True),
            )
            change.settle(wanted)
        return change.contexts[wanted]


def import_context(name: str, *, ca_pem: bytes, client: pki.Identity) -> Context:
    """A context for an operator who was given a certificate by somebody else.

    :raises UsageError: when there is one of that name.
    """
    with changing() as change:
        if check_name(name, "context") in change.contexts:
            raise UsageError(f"there is a context {name!r} already", remedy="choose another name")
        directory = directory_of(name)
        change.contexts[name] = Context(
            ca=store(directory / "ca.pem", ca_pem),
            certificate=store(directory / "client.pem", client.certificate_pem),
            key=store(directory / "client-key.pem", client.key_pem, secret=True),
        )
        change.settle(name)
        return change.contexts[name]


def renew_client(name: str | None = None) -> pki.Identity:
    """A fresh admin's certificate for a context that holds its authority's key."""
    with changing() as change:
        wanted = change.current if name is None else name
        context = change.get(wanted)
        client = pki.issue_client(authority_of(context), operator_name(), [Role.ADMIN], CLIENT_LIFETIME)
        # Key and certificate are two files: a new pair gets new names, and the file that names both switches at once.
        stamp = client.fingerprint.removeprefix("SHA256:")[:8]
        directory = directory_of(wanted)
        change.contexts[wanted] = msgspec.structs.replace(
            context,
            certificate=store(directory / f"client-{stamp}.pem", client.certificate_pem),
            key=store(directory / f"client-{stamp}-key.pem", client.key_pem, secret=True),
        )
    return client


def use(name: str) -> None:
    """Make *name* the current context."""
    with changing() as change:
        change.get(name)
        change.current = name


def add_node(node: str, endpoint: str, fingerprint: str, *, context: str | None = None, default: bool = False) -> None:
    """Write down a node, or replace it. The first node of a context is its default.

    :param default: make it the context's default node.
    """
    entry = Node(endpoint=str(parse_endpoint(endpoint)), fingerprint=pki.parse_fingerprint(fingerprint))
    if check_name(node, "node") == ALL_NODES:
        raise UsageError(f"{node!r} cannot be the name of a node", why="it stands for all of them")
    with changing() as change:
        wanted = change.current if context is None else context
        old = change.get(wanted)
        change.contexts[wanted] = msgspec.structs.replace(
            old, nodes={**old.nodes, node: entry}, node=node if default or old.node is None else old.node
        )


def remove_node(node: str, *, context: str | None = None) -> None:
    """Forget a node.

    :raises UsageError: when the context has none of that name.
    """
    with changing() as change:
        wanted = change.current if context is None else context
        old = change.get(wanted)
        find_node(old, node)
        left = {name: entry for name, entry in old.nodes.items() if name != node}
        default = old.node if old.node in left else next(iter(left), None)
        change.contexts[wanted] = msgspec.structs.replace(old, nodes=left, node=default)


def find_node(context: Context, name: str) -> Node:
    """The node called *name*.

    :raises UsageError: when there is none.
    """
    node = context.nodes.get(name)
    if node is None:
        near = nearest_name(name, context.nodes)
        raise UsageError(
            f"there is no node {name!r} in the context",
            why=f"did you mean {near!r}?" if near else f"there are: {', '.join(context.nodes) or 'none'}",
            remedy=f"osctl context add-node {name} --endpoint HOST:PORT --fingerprint SHA256:...",
        )
    return node


def client_ca_pem(context: Context) -> bytes:
    """The certificate of the context's client authority: what a node is to trust (PEM)."""
    return read(context.ca)


def client_of(context: Context) -> pki.Identity:
    """The operator's own certificate and key."""
    return pki.Identity(read(context.certificate), read(context.key, secret=True))


def authority_of(context: Context) -> pki.Identity:
    """The client authority with its key, to sign certificates with.

    :raises UsageError: when this operator does not hold the key.
    """
    if context.ca_key is None:
        raise UsageError(
            "cannot sign a client certificate",
            why="the context has no key of its client authority",
            remedy="ask the operator who made the authority to run `osctl gen client`",
        )
    return pki.Identity(read(context.ca), read(context.ca_key, secret=True))


def operator_name() -> str:
    """Who the operator is, for the audit log: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:64]
