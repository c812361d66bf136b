"""Which nodes a command line means."""

from __future__ import annotations

import dataclasses

from basalt import contexts, pki
from basalt.client import Target
from basalt.commandline import Arguments
from basalt.contexts import Context
from basalt.endpoint import DEFAULT_TIMEOUT_S, parse_endpoint
from basalt.errors import UsageError


def timeout_of(arguments: Arguments) -> float:
    """Seconds that a node may take to answer."""
    value: float = arguments.timeout if arguments.timeout is not None else DEFAULT_TIMEOUT_S
    return value


def targets_of(arguments: Arguments) -> list[Target]:
    """The nodes that *arguments* name, or the context's default node.

    :raises UsageError: when they name none that is known.
    """
    context = contexts.load().get(arguments.context)
    names = _names(arguments.nodes, context)
    if arguments.endpoint is not None:
        return [_endpoint(arguments.endpoint, arguments.fingerprint, names, context)]
    if arguments.fingerprint is not None:
        # The way back to a node that cannot prove its id any more: by the certificate of its first boot, this once.
        if not names and context.node is not None:
            names = [context.node]
        if len(names) != 1:
            raise UsageError("--fingerprint goes with one node", remedy="name it with -n NAME or --endpoint HOST:PORT")
        if names[0] in context.nodes:
            address = str(context.nodes[names[0]].address)
            return [_endpoint(address, arguments.fingerprint, names, context)]
        return [_endpoint(names[0], arguments.fingerprint, [], context)]
    if not names:
        if context.node is None:
            raise UsageError(
                "no node is named, and the context has none",
                remedy="osctl context add-node NAME --endpoint HOST:PORT --fingerprint SHA256:..., "
                "both as the node's console shows them",
            )
        names = [context.node]
    return [_named(name, context) for name in names]


def _named(name: str, context: Context) -> Target:
    """A node by its name, or by an address that the context knows."""
    if name not in context.nodes and ":" in name:
        return _endpoint(name, None, [], context)
    return Target.of_context(context, name)


def _names(text: str | None, context: Context) -> list[str]:
    if text is None:
        return []
    if text == contexts.ALL_NODES:
        if not context.nodes:
            raise UsageError("the context has no nodes", remedy="osctl context add-node writes one down")
        return list(context.nodes)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("-n names no node", remedy=f"nodes of the context: {', '.join(context.nodes) or 'none'}")
    return list(dict.fromkeys(names))


def _endpoint(text: str, fingerprint: str | None, names: list[str], context: Context) -> Target:
    """A node at an address; its pin comes from the command line or from a node of the context."""
    endpoint = parse_endpoint(text)
    if len(names) > 1:
        raise UsageError("--endpoint is the address of one node", why=f"-n names {len(names)}")
    known = [name for name, node in context.nodes.items() if node.address == endpoint]
    name = names[0] if names else (known[0] if known else str(endpoint))
    if fingerprint is not None:
        return Target(name, endpoint, pki.parse_fingerprint(fingerprint), contexts.client_of(context))
    if not names and not known:
        raise UsageError(
            f"nothing says how to recognise the node at {endpoint}",
            why="the context knows no node with this address",
            remedy="add --fingerprint SHA256:... as the node's console shows it",
        )
    return dataclasses.replace(Target.of_context(context, name), endpoint=endpoint)
