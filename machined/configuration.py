"""Owns the node's configuration: what is in force, and how another takes its place.

Applying is one transaction: everything is parsed and checked, then compared, then written to STATE, and only then handed to the
reconcilers. Whatever fails before the write leaves the node as it was; after it, the new generation stands, also after a power cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct

from basalt.config import Configuration, diff, parse, redact, render
from basalt.errors import BasaltError
from machined.generations import Generation, GenerationStore
from machined.reconcile import CONVERGED, Status, failed

EMPTY = Configuration()


class ConflictError(BasaltError):
    """Another generation stands than the one that was to be replaced."""


class Applied(Struct, frozen=True):
    """What an apply did, or would do."""

    generation: int
    diff: str
    actions: tuple[str, ...]
    changed: bool


class Shown(Struct, frozen=True):
    """A generation for reading: canonical, without secrets."""

    documents: bytes
    generation: Generation


class ConfigurationOwner:
    """The configuration in force and its generations.

    :param before_first: called before the first generation is written: what must be on STATE before a node counts as configured.
    :param on_change: called with the new configuration once it is durable.
    """

    def __init__(
        self,
        store: GenerationStore,
        *,
        before_first: Callable[[], None] = lambda: None,
        on_change: Callable[[Configuration], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._before_first = before_first
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._generation: Generation | None = None
        self.current = EMPTY

    @property
    def number(self) -> int:
        """The generation in force; 0 when there is none."""
        return self._generation.number if self._generation else 0

    @property
    def configured(self) -> bool:
        """Whether the node has a configuration."""
        return self._generation is not None

    def load(self) -> Status:
        """Take up what STATE holds. A generation that is damaged, or that this version cannot read, is passed over."""
        problems = []
        for number in reversed(self._store.numbers()):
            try:
                generation = self._store.read(number)
                self.current = parse(generation.documents, f"generation {number}")
            except BasaltError as error:
                problems.append(str(error))
                continue
            self._generation = generation
            break
        if not problems:
            return CONVERGED
        now = (
            f"generation {self.number} is in force instead"
            if self._generation
            else "the node waits for a first configuration"
        )
        return failed(f"{'; '.join(problems)}; {now}", "apply the configuration again")

    async def apply(
        self, documents: bytes, source: str, *, applied_by: str, expected: int = 0, dry_run: bool = False
    ) -> Applied:
        """Put *documents* into force.

        :param source: the operator's name for the documents, for the positions in errors.
        :param expected: the generation that the caller believes to replace; 0 does not ask.
        :raises ConfigError: with every problem of the documents; nothing was changed.
        :raises ConflictError: another generation stands; nothing was changed.
        :raises OSError: STATE did not take it; nothing was changed.
        """
        wanted = await asyncio.to_thread(parse, documents, source)
        async with self._lock:
            if expected and expected != self.number:
                raise ConflictError(
                    f"generation {self.number} stands, {expected} was expected",
                    why="somebody else has applied a configuration in the meantime",
                    remedy="look at it (osctl get config), then apply yours again",
                )
            difference = diff(self.current, wanted)
            actions = describe(self.current, wanted)
            if self.configured and wanted == self.current:
                return Applied(self.number, "", (), changed=False)
            if dry_run:
                return Applied(self.number, difference, actions, changed=False)
            if not self.configured:
                self._before_first()
            self._generation = self._store.write(render(wanted), applied_unix=int(time.time()), applied_by=applied_by)
            self.current = wanted
            self._on_change(wanted)
            return Applied(self.number, difference, actions, changed=True)

    def show(self, number: int = 0) -> Shown:
        """One of the generations kept; 0 is the one in force.

        :raises BasaltError: there is none.
        """
        generation = self._store.read(number) if number else self._generation
        if generation is None:
            raise BasaltError("this node has no configuration", remedy="apply one: osctl apply-config -f node.yaml")
        configuration = parse(generation.documents, f"generation {generation.number}")
        return Shown(render(redact(configuration)), generation)

    @property
    def kept(self) -> tuple[int, ...]:
        """The generations on STATE, the oldest first."""
        return self._store.numbers()


def describe(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """What going from *old* to *new* changes on the node, in words."""
    actions = []
    before = old.machine.hostname if old.machine else ""
    after = new.machine.hostname if new.machine else ""
    if before != after:
        actions.append(f"set the hostname to {after or 'its default'}")
    if old.network != new.network:
        actions += _describe_network(old, new)
    if old.time != new.time:
        servers = ", ".join(server.address for server in new.time.servers) if new.time else ""
        actions.append(f"take the time from {servers}" if servers else "stop taking the time from servers")
    return tuple(actions)


def _describe_network(old: Configuration, new: Configuration) -> list[str]:
    if new.network is None:
        return ["ask for addresses by DHCP on every network card"]
    before = {
        link.name or (link.match.mac if link.match else ""): link for link in (old.network.links if old.network else ())
    }
    after = {link.name or (link.match.mac if link.match else ""): link for link in new.network.links}
    actions = [f"configure link {name}" for name, link in after.items() if before.get(name) != link]
    actions += [f"take back what was configured on link {name}" for name in before if name not in after]
    if (old.network.dns if old.network else None) != new.network.dns:
        actions.append("change the DNS servers")
    return actions
