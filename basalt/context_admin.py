"""What is done with whole contexts: made from authorities that exist, completed, renamed, deleted."""

from __future__ import annotations

import shutil

import msgspec

from basalt import contexts, pki
from basalt.context_store import Context, changing, check_name, config_path, directory_of, load, store
from basalt.errors import BasaltError, UsageError


def own_context(name: str, authority: pki.Identity, node_authority: pki.Identity) -> Context:
    """A context from authorities that were made before (``osctl gen secrets --output``), with an admin's certificate.

    :raises UsageError: when there is one of that name.
    """
    with changing() as change:
        contexts.check_free(check_name(name, "context"), change.contexts)
        change.contexts[name] = contexts.store_own(name, authority, node_authority)
        change.settle(name)
        return change.contexts[name]


def complete(name: str | None = None) -> bool:
    """Give the context the node authority that one made by an earlier version lacks; makes the context if need be.

    :returns: whether anything was made.
    :raises UsageError: when this operator does not hold the client authority, and so is not the one to make the other.
    """
    wanted = load().current if name is None else name
    if wanted not in load().contexts:
        contexts.ensure_context(wanted)
        return True
    with changing() as change:
        context = change.get(wanted)
        if context.node_ca is not None:
            return False
        contexts.authority_of(context)
        made = contexts.make_node_authority(wanted)
        directory = directory_of(wanted)
        change.contexts[wanted] = msgspec.structs.replace(
            context,
            node_ca=store(directory / "node-ca.pem", made.certificate_pem),
            node_ca_key=store(directory / "node-ca-key.pem", made.key_pem, secret=True),
        )
    return True


def trust_nodes_of(node_ca_pem: bytes, name: str | None = None) -> None:
    """Verify the enrolled nodes of a context against the authorities in *node_ca_pem* from now on.

    :raises UsageError: when this operator holds the node authority's key: `osctl ca rotate` replaces that one.
    """
    with changing() as change:
        wanted = change.current if name is None else name
        context = change.get(wanted)
        if context.node_ca_key is not None:
            raise UsageError(
                f"the context {wanted!r} has a node authority of its own",
                why="it holds that authority's key, and its nodes were enrolled with it",
                remedy="`osctl ca rotate --authority node` replaces it on every node",
            )
        stamp = pki.fingerprint(pki.pem_to_der(node_ca_pem)).removeprefix("SHA256:")[:8]
        path = directory_of(wanted) / f"node-ca-{stamp}.pem"
        change.contexts[wanted] = msgspec.structs.replace(context, node_ca=store(path, node_ca_pem))


def rename(old: str, new: str) -> None:
    """Call a context otherwise. Its files move with it: a later context of the old name must not find them.

    :raises UsageError: when there is no *old*, or a *new* already.
    """
    with changing() as change:
        context = change.get(old)
        _check_at_rest(old)
        contexts.check_free(check_name(new, "context"), change.contexts)
        source, target = directory_of(old), directory_of(new)
        moved = {}
        try:
            # Copied, named, and only then taken away: a crash in between leaves the old name whole.
            shutil.copytree(source, target, dirs_exist_ok=True)
        except OSError as error:
            raise BasaltError(f"cannot copy {source} to {target}", why=error.strerror or str(error)) from error
        before, after = (f"{directory.relative_to(config_path().parent)}/" for directory in (source, target))
        for field in ("ca", "ca_key", "node_ca", "node_ca_key", "certificate", "key"):
            value = getattr(context, field)
            if value is not None and value.startswith(before):
                moved[field] = after + value.removeprefix(before)
        renamed = msgspec.structs.replace(context, **moved)
        change.contexts = {new if name == old else name: context for name, context in change.contexts.items()}
        change.contexts[new] = renamed
        if change.current == old:
            change.current = new
    shutil.rmtree(source, ignore_errors=True)


def delete(name: str, *, with_authority: bool = False) -> None:
    """Forget a context with its keys and certificates.

    :param with_authority: even when the key of an authority goes with it, without which no certificate can be made.
    :raises UsageError: when there is none, or it holds such a key.
    """
    with changing() as change:
        context = change.get(name)
        _check_at_rest(name)
        if not with_authority and (context.ca_key is not None or context.node_ca_key is not None):
            raise UsageError(
                f"the context {name!r} holds the key of an authority",
                why="without it nobody can make certificates for its nodes any more",
                remedy=f"keep a copy of {directory_of(name)}, then add --with-authority",
            )
        del change.contexts[name]
        if change.current == name:
            change.current = next(iter(change.contexts), name)
    shutil.rmtree(directory_of(name), ignore_errors=True)


def _check_at_rest(name: str) -> None:
    """:raises UsageError: when an authority of the context is being replaced: half of its nodes may know the new one only."""
    if (directory_of(name) / contexts.ROTATION_FILE).exists():
        raise UsageError(
            f"an authority of the context {name!r} is being replaced",
            remedy="finish that first: `osctl ca rotate` says how far it is and goes on",
        )
