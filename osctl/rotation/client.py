"""The steps by which the client authority is replaced: the one that signs operators' certificates."""

from __future__ import annotations

import datetime

import msgspec

from basalt import contexts, pki
from basalt.client import Target, connect
from basalt.context_store import changing, directory_of, read, store
from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as api
from basalt.roles import Role
from osctl.rotation import access
from osctl.rotation.fleet import Fleet
from osctl.rotation.record import Rotation

# Of the change to one node; it is confirmed within seconds, and a node that was cut off is back after this.
TRIAL_S = 120


def begin(fleet: Fleet, now: datetime.datetime) -> Rotation:
    """Make the new authority, and the operator's certificate under it. Nobody knows them yet.

    :raises UsageError: when this operator does not hold the authority's key.
    """
    name, context = fleet.context_name, fleet.context
    contexts.authority_of(context)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    authority = contexts.make_client_authority(name, stamp)
    client = pki.issue_client(authority, contexts.operator_name(), [Role.ADMIN], contexts.CLIENT_LIFETIME)
    directory = directory_of(name)
    return Rotation(
        authority="client",
        began_unix=int(now.timestamp()),
        old=context.ca,
        old_certificate=context.certificate,
        old_key=context.key,
        new=store(directory / f"ca-{stamp}.pem", authority.certificate_pem),
        new_key=store(directory / f"ca-{stamp}-key.pem", authority.key_pem, secret=True),
        new_certificate=store(directory / f"client-{stamp}.pem", client.certificate_pem),
        new_certificate_key=store(directory / f"client-{stamp}-key.pem", client.key_pem, secret=True),
    )


def _old_identity(rotation: Rotation) -> pki.Identity:
    return pki.Identity(read(rotation.old_certificate), read(rotation.old_key, secret=True))


def _new_identity(rotation: Rotation) -> pki.Identity:
    return pki.Identity(read(rotation.new_certificate), read(rotation.new_certificate_key, secret=True))


def add(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """Have *node* accept certificates of both authorities."""
    new = fleet.target(node, _new_identity(rotation))
    status = fleet.admits(new)
    if status is not None:
        if status.trial_left_s:
            fleet.keep(new)
        return "accepts both already"
    old, added = read(rotation.old).decode(), read(rotation.new).decode()
    target = fleet.target(node, _old_identity(rotation))
    generation = _change(fleet, target, new, lambda present: access.added(present, added), old)
    return f"accepts both (generation {generation})"


def check_added(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """See that the new certificate works on *node*."""
    _settled_status(fleet, fleet.target(node, _new_identity(rotation)))
    return "the new certificate works"


def switch(fleet: Fleet, rotation: Rotation) -> str:
    """Have the context use the new authority and the new certificate, all at once."""
    with changing() as change:
        context = change.get(fleet.context_name)
        change.contexts[fleet.context_name] = msgspec.structs.replace(
            context,
            ca=rotation.new,
            ca_key=rotation.new_key,
            certificate=rotation.new_certificate,
            key=rotation.new_certificate_key,
        )
    return "the context shows the new certificate"


def check_switched(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """See that the context works on *node*."""
    _settled_status(fleet, fleet.target(node))
    return "the context's certificate works"


def remove(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """Have *node* accept certificates of the new authority alone."""
    target = fleet.target(node)
    old, new = read(rotation.old).decode(), read(rotation.new).decode()
    with connect(target, timeout_s=fleet.timeout_s) as client:
        pending = client.status().trial_left_s
        present = access.authorities_of(client.get_config().documents, old)
    if not any(access.same(pem, old) for pem in present):
        if pending:
            fleet.keep(target)
        return "accepts the new one alone already"
    generation = _change(fleet, target, target, lambda all_of: access.added(access.removed(all_of, old), new), old)
    return f"accepts the new one alone (generation {generation})"


def check_removed(fleet: Fleet, rotation: Rotation, node: str) -> str:
    """See that *node* refuses the old certificate, and not the new one."""
    _settled_status(fleet, fleet.target(node))
    fleet.until_refused(fleet.target(node, _old_identity(rotation)))
    return "refuses the old certificate"


def _change(fleet: Fleet, target: Target, proof: Target, changed: access.Change, fallback: str) -> int:
    """Change the authorities of a node on trial, and confirm that over a new connection as *proof*.

    :param fallback: the authority in force where the node has no AccessConfig.
    :returns: the generation.
    """
    with connect(target, timeout_s=fleet.timeout_s) as client:
        now = client.get_config()
        authorities = changed(access.authorities_of(now.documents, fallback))
        answer = client.apply_config(
            access.with_authorities(now.documents, authorities),
            source="osctl ca rotate",
            expected_generation=now.generation,
            mode=api.APPLY_MODE_TRY,
            try_timeout_s=TRIAL_S,
        )
    if answer.trial_timeout_s:
        fleet.keep(proof, answer.generation)
    return answer.generation


def _settled_status(fleet: Fleet, target: Target) -> None:
    """See that the node answers, and that nothing that it accepts by is on trial."""
    status = fleet.status(target)
    if status.trial_left_s:
        raise BasaltError(
            f"a configuration is on trial on {target}",
            why=f"it is taken back in {status.trial_left_s:.0f} s, and what was changed with it",
            remedy="`osctl config confirm` keeps it, `osctl config rollback` ends it",
        )
