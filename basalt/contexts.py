"""The operator's contexts: which nodes there are, how they are recognised, and as whom to talk to them.

One file says it all (``$OSCTL_CONFIG``, by default ``osctl/config.yaml`` in the user's configuration directory); keys and
certificates lie in a directory beside it::

    config.yaml                     0600   current context; per context its files and nodes
    config.d/                       0700
        default/ca.pem                     client authority: what nodes are told to trust
        default/ca-key.pem          0600   its key; no node ever has it
        default/node-ca.pem                node authority: what enrolled nodes are verified against
        default/node-ca-key.pem     0600   its key; no node ever has it
        default/client.pem                 the operator's own certificate
        default/client-key.pem      0600
        default/rotation.json       0600   only while an authority is being replaced (osctl ca rotate)
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
    parse_node_id,
    read,
    store,
)
from basalt.endpoint import parse_endpoint
from basalt.errors import UsageError
from basalt.roles import Role

__all__ = ["Context", "Contexts", "Node", "check_name", "config_path", "directory_of", "load", "parse_node_id"]

AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
# Stands for every node of a context on a command line, so no node may be called so.
ALL_NODES = "all"

# In a context's directory while one of its authorities is being replaced.
ROTATION_FILE = "rotation.json"

CLIENT_LIFETIME = datetime.timedelta(days=365)


def make_authorities(name: str) -> tuple[pki.Identity, pki.Identity]:
    """A new client authority and a new node authority, named after *name*."""
    return make_client_authority(name), make_node_authority(name)


def make_client_authority(name: str, stamp: str = "") -> pki.Identity:
    """A new authority for operators' certificates.

    :param stamp: tells it from an earlier one of the same name.
    """
    return pki.make_ca(_authority_name("basalt operators", name, stamp), AUTHORITY_LIFETIME)


def make_node_authority(name: str, stamp: str = "") -> pki.Identity:
    """A new authority for nodes' issuing certificates. Parameters as of :func:`make_client_authority`."""
    from basalt import pki_node

    return pki_node.make_node_ca(_authority_name("basalt nodes", name, stamp), AUTHORITY_LIFETIME)


def _authority_name(whose: str, name: str, stamp: str) -> str:
    # At most 64 characters: ub-common-name, RFC 5280, appendix A.
    return f"{whose} ({name[:24]})" + (f" {stamp}" if stamp else "")


def ensure_context(name: str | None = None) -> Context:
    """The context called *name* (or the current one), made with two authorities and an admin's certificate if need be.

    Safe to call from several processes at once: they all get the same one.
    """
    contexts = load()
    wanted = check_name(contexts.current if name is None else name, "context")
    if wanted in contexts.contexts:
        return contexts.contexts[wanted]
    with changing() as change:
        if wanted not in change.contexts:
            change.contexts[wanted] = store_own(wanted, *make_authorities(wanted))
            change.settle(wanted)
        return change.contexts[wanted]


def store_own(name: str, authority: pki.Identity, node_authority: pki.Identity) -> Context:
    """A context with these authorities and a new admin's certificate, its files written; nothing names it yet."""
    client = pki.issue_client(authority, operator_name(), [Role.ADMIN], CLIENT_LIFETIME)
    directory = directory_of(name)
    return Context(
        ca=store(directory / "ca.pem", authority.certificate_pem),
        ca_key=store(directory / "ca-key.pem", authority.key_pem, secret=True),
        node_ca=store(directory / "node-ca.pem", node_authority.certificate_pem),
        node_ca_key=store(directory / "node-ca-key.pem", node_authority.key_pem, secret=True),
        certificate=store(directory / "client.pem", client.certificate_pem),
        key=store(directory / "client-key.pem", client.key_pem, secret=True),
    )


def import_context(name: str, *, ca_pem: bytes, client: pki.Identity, node_ca_pem: bytes | None = None) -> Context:
    """A context for an operator who was given a certificate by somebody else.

    :raises UsageError: when there is one of that name.
    """
    with changing() as change:
        check_free(check_name(name, "context"), change.contexts)
        directory = directory_of(name)
        change.contexts[name] = Context(
            ca=store(directory / "ca.pem", ca_pem),
            node_ca=store(directory / "node-ca.pem", node_ca_pem) if node_ca_pem else None,
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
        change.contexts[wanted] = with_client(wanted, context, client)
    return client


def with_client(name: str, context: Context, client: pki.Identity) -> Context:
    """*context*, called *name*, with another client certificate, whose files are written.

    Key and certificate are two files: a new pair gets new names, and the file that names both switches at once.
    """
    stamp = client.fingerprint.removeprefix("SHA256:")[:8]
    directory = directory_of(name)
    return msgspec.structs.replace(
        context,
        certificate=store(directory / f"client-{stamp}.pem", client.certificate_pem),
        key=store(directory / f"client-{stamp}-key.pem", client.key_pem, secret=True),
    )


def use(name: str) -> None:
    """Make *name* the current context."""
    with changing() as change:
        change.get(name)
        change.current = name


def check_free(name: str, existing: dict[str, Context]) -> None:
    """:raises UsageError: when there is a context of that name."""
    if name in existing:
        raise UsageError(f"there is a context {name!r} already", remedy="choose another name")


def add_node(
    node: str,
    endpoint: str,
    fingerprint: str | None = None,
    *,
    node_id: str | None = None,
    context: str | None = None,
    default: bool = False,
) -> None:
    """Write down a node, or replace it. The first node of a context is its default.

    A node that is enrolled stays so when it is written down again with the fingerprint that it had; with another one it
    is another node, or one that has forgotten who it was.

    :param default: make it the context's default node.
    :raises UsageError: when nothing says how to recognise it.
    """
    if fingerprint is None and node_id is None:
        raise UsageError(
            f"nothing says how to recognise the node {node!r}",
            remedy="add --fingerprint SHA256:... as its console shows it, or --node-id for a node that is enrolled",
        )
    if check_name(node, "node") == ALL_NODES:
        raise UsageError(f"{node!r} cannot be the name of a node", why="it stands for all of them")
    entry = Node(
        endpoint=str(parse_endpoint(endpoint)),
        fingerprint=pki.parse_fingerprint(fingerprint) if fingerprint is not None else None,
        id=parse_node_id(node_id) if node_id is not None else None,
    )
    with changing() as change:
        wanted = change.current if context is None else context
        old = change.get(wanted)
        if entry.id is not None and old.node_ca is None:
            raise no_node_authority(f"cannot recognise the node {node!r} by its id")
        known = old.nodes.get(node)
        if known is not None and entry.id is None and entry.fingerprint == known.fingerprint:
            entry = msgspec.structs.replace(entry, id=known.id)
        elif known is not None and entry.fingerprint is None and entry.id == known.id:
            entry = msgspec.structs.replace(entry, fingerprint=known.fingerprint)
        change.contexts[wanted] = msgspec.structs.replace(
            old, nodes={**old.nodes, node: entry}, node=node if default or old.node is None else old.node
        )


def enrolled(node: str, node_id: str, *, fingerprint: str | None = None, context: str | None = None) -> None:
    """Recognise *node* by its id and the node authority from now on.

    :param fingerprint: of its first certificate, where that is not the one written down.
    :raises UsageError: when the context has no node of that name.
    """
    with changing() as change:
        wanted = change.current if context is None else context
        old = change.get(wanted)
        known = find_node(old, node)
        entry = msgspec.structs.replace(
            known, id=parse_node_id(node_id), fingerprint=known.fingerprint if fingerprint is None else fingerprint
        )
        change.contexts[wanted] = msgspec.structs.replace(old, nodes={**old.nodes, node: entry})


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


def node_ca_pem(context: Context) -> bytes:
    """The certificates of the context's node authorities: what enrolled nodes are verified against (PEM); may be empty."""
    return read(context.node_ca) if context.node_ca is not None else b""


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


def node_authority_of(context: Context) -> pki.Identity:
    """The node authority with its key, to enrol nodes with.

    :raises UsageError: when this operator does not hold the key.
    """
    if context.node_ca is None and context.ca_key is not None:
        raise UsageError(
            "cannot enrol a node",
            why="the context was made by an earlier version and has no node authority",
            remedy="`osctl gen secrets` makes the one that is missing",
        )
    if context.node_ca is None or context.node_ca_key is None:
        raise UsageError(
            "cannot enrol a node",
            why="the context has no key of its node authority",
            remedy="ask the operator who made the authority to run `osctl enroll`",
        )
    return pki.Identity(read(context.node_ca), read(context.node_ca_key, secret=True))


def no_node_authority(what: str) -> UsageError:
    """*what* failed, because the context has no node authority."""
    return UsageError(
        what,
        why="the context has no node authority to verify it with",
        remedy="`osctl context trust --node-ca FILE` adds one that you were given",
    )


def check_node_authority(context: Context, node: str) -> bytes:
    """The node authorities with which the enrolled *node* is verified (PEM).

    :raises UsageError: when the context has none. Its fingerprint is no way out: that would be less than was agreed on.
    """
    authorities = node_ca_pem(context)
    if not authorities:
        raise no_node_authority(f"cannot recognise the node {node!r}")
    return authorities


def operator_name() -> str:
    """Who the operator is, for the audit log: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:64]
