"""From the made links that are there to those that should be: the operations, in order. Pure.

What can be changed on a living link is changed there. The rest (a VLAN's tag or parent, a bond's mode) means making the link again;
what lay on it goes with it, and comes back in the looks that follow. Links that were taken out go last of all, when the new way is
there, unless they stand where a new one must be.
"""

from __future__ import annotations

from collections.abc import Iterator

from machined.network.model import (
    BondTraits,
    ChangeLink,
    DeleteLink,
    Enslave,
    MakeLink,
    Observed,
    ObservedLink,
    Operation,
    Release,
    Traits,
    VlanTraits,
)
from machined.network.stack import Made, Stack


def make(observed: Observed, want: Stack) -> tuple[Operation, ...]:
    """What comes before addresses and routes: links made and changed, members taken in and let go."""
    present = {link.name: link for link in observed.links}
    operations: list[Operation] = []
    replaced: set[str] = set()
    for made in want.made:
        have = present.get(made.name)
        if have is not None and not _changeable(have.traits, made.traits):
            operations.append(DeleteLink(have.index, have.name))
            replaced.add(have.name)
            have = None
        if have is None:
            operations += _in_the_way(made, observed, want, replaced)
            operations.append(MakeLink(made.name, made.traits, made.mtu))
        elif have.traits != made.traits:
            operations.append(ChangeLink(have.index, have.name, made.traits))
    return (*operations, *_members(present, want, replaced))


def unmake(observed: Observed, want: Stack) -> tuple[Operation, ...]:
    """What comes last: links that the configuration no longer has. Highest floor first."""
    gone = [link for link in observed.links if link.ours and link.name not in want.names]
    return tuple(DeleteLink(link.index, link.name) for link in sorted(gone, key=lambda link: -link.index))


def _changeable(have: Traits | None, want: Traits) -> bool:
    """Whether a link can become what is wanted while it lives."""
    if type(have) is not type(want):
        return False
    if isinstance(want, VlanTraits):
        return have == want
    if isinstance(have, BondTraits) and isinstance(want, BondTraits):
        # BOND_OPTFLAG_NOSLAVES, BOND_OPTFLAG_IFDOWN
        return (have.mode, have.lacp_rate) == (want.mode, want.lacp_rate)
    return True


def _in_the_way(made: Made, observed: Observed, want: Stack, replaced: set[str]) -> Iterator[Operation]:
    """Links of ours with the same tag on the same parent: the kernel lets there be one."""
    if not isinstance(made.traits, VlanTraits):
        return
    kept = {other.name: other.traits for other in want.made}
    for link in observed.links:
        stays = kept.get(link.name) == link.traits
        if link.ours and link.traits == made.traits and link.name not in replaced and not stays:
            replaced.add(link.name)
            yield DeleteLink(link.index, link.name)


def _members(present: dict[str, ObservedLink], want: Stack, replaced: set[str]) -> Iterator[Operation]:
    by_index = {link.index: link for link in present.values()}
    for link in present.values():
        name = want.masters.get(link.name)
        master = present.get(name) if name and name not in replaced else None
        have = by_index.get(link.master) if link.master else None
        if name is None:
            # Only cards and links of ours are let go: a CNI plugin hangs its containers on a bridge of ours, too.
            if have is not None and have.ours and (link.physical or link.ours):
                yield Release(link.index, link.name, have.name)
        elif master is not None and master.ours and link.master != master.index:
            yield Enslave(link.index, link.name, master.index, master.name, isinstance(master.traits, BondTraits))
