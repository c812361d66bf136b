"""The steps by which the node authority is replaced: the one that nodes are verified against."""

from __future__ import annotations

import dataclasses
import datetime

import msgspec

from basalt import contexts, pki
from basalt.context_store import changing, directory_of, read, store
from basalt.errors import BasaltError
from osctl.enrolment import ISSUER_LIFETIME, prove, sign
from osctl.rotation.fleet import Fleet
from osctl.rotation.record import Rotation


def begin(fleet: Fleet, now: datetime.datetime) -> Rotation:
    """Make the new authority. Nobody knows it yet.

    :raises UsageError: when this operator does not hold the authority's key.
    """
    name, context = fleet.context_name, fleet.context
    contexts.node_authority_of(context)
    assert context.node_ca is not None
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    authority = contexts.make_node_authority(name, stamp)
    directory = directory_of(name)
    return Rotation(
        authority="node",
        began_unix=int(now.timestamp()),
        old=context.node_ca,
        new=store(directory / f"node-ca-{stamp}.pem", authority.certificate_pem),
        new_key=store(directory / f"node-ca-{stamp}-key.pem", authority.key_pem, secret=True),
    )


def add(fleet: Fleet, rotation: Rotation) -> str:
    """Have the context accept nodes of both authorities; a node that is enrolled from now on gets the new one."""
    both = rotation.new.removesuffix(".pem") + "-and-before.pem"
    # The first certificate is the one that signs: it is the one whose key the context names.
    store(directory_of(fleet.context_name) / both.rpartition("/")[2], read(rotation.new) + read(rotation.old))
    with changing() as change:
        context = change.get(fleet.context_name)
        change.contexts[fleet.context_name] = msgspec.structs.replace(
            context, node_ca=both, node_ca_key=rotation.new_key
        )
    return "the context accepts nodes of both"


def check_added(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """See that *node* answers."""
    fleet.status(fleet.target(node))
    return "it is recognised"


def switch(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """Have the new authority vouch for *node*."""
    target = fleet.target(node)
    new = read(rotation.new)
    if target.node_id and fleet.recognises(fleet.target(node, authorities=new)):
        return "is vouched for by the new one already"
    authority = pki.Identity(new, read(rotation.new_key, secret=True))
    node_id = sign(target, authority, lifetime=ISSUER_LIFETIME, timeout_s=fleet.timeout_s)[0]
    prove(dataclasses.replace(target, node_id=node_id, node_authorities=new), timeout_s=fleet.timeout_s)
    contexts.enrolled(node, node_id, context=fleet.context_name)
    return "is vouched for by the new one"


def check_switched(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """See that *node* is recognised by the new authority alone."""
    fleet.status(fleet.target(node, authorities=read(rotation.new)))
    return "the new authority alone recognises it"


def remove(fleet: Fleet, rotation: Rotation) -> str:
    """Have the context accept nodes of the new authority alone."""
    with changing() as change:
        context = change.get(fleet.context_name)
        change.contexts[fleet.context_name] = msgspec.structs.replace(
            context, node_ca=rotation.new, node_ca_key=rotation.new_key
        )
    return "the context accepts nodes of the new one alone"


def check_removed(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """See that *node* is recognised, and that the old authority has nothing to do with it."""
    fleet.status(fleet.target(node))
    if fleet.recognises(fleet.target(node, authorities=read(rotation.old))):
        raise BasaltError(
            f"{node} is still recognised by the old authority",
            why="it shows a certificate that the old one vouches for",
        )
    return "the old authority does not vouch for it any more"
