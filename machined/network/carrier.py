"""Why a link has no carrier, where that is not the cable's fault."""

from __future__ import annotations

from pathlib import Path

from machined.network.model import BondTraits, Observed, ObservedLink

# In these modes the driver takes no member whose speed and duplex it does not know (bond_needs_speed_duplex in
# drivers/net/bonding/bond_main.c). Virtual cards often have none.
WITH_SPEED = frozenset({"802.3ad", "balance-tlb", "balance-alb"})


def no_carrier(link: ObservedLink, observed: Observed, sys: Path) -> str:
    """That *link* has no carrier, in words, with the reason where it can be told.

    :param sys: where sysfs is mounted.
    """
    words = f"{link.name} has no carrier"
    if not isinstance(link.traits, BondTraits) or link.traits.mode not in WITH_SPEED:
        return words
    members = [member for member in observed.links if member.master == link.index and member.carrier]
    mute = [member.name for member in members if not _knows_speed(member.name, sys)]
    if not mute or len(mute) < len(members):
        return words
    return f"{words}: {', '.join(mute)} tell no speed, and without it {link.traits.mode} uses no member"


def _knows_speed(name: str, sys: Path) -> bool:
    """Whether a card's speed is known (Documentation/ABI/testing/sysfs-class-net): -1, 0 or an error where it is not."""
    try:
        return int((sys / "class/net" / name / "speed").read_text(encoding="ascii")) > 0
    except (OSError, ValueError):
        return False
