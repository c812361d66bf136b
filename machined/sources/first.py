"""Gives a node without a configuration its first one, from the first source that has one.

What lies on the machine and on drives is taken up before the network starts, so that a static address stands from the beginning. What
lies behind a URL is fetched once there is a network, again and again, while the API answers in first contact; an apply through the API
ends the search. Drives are looked at again as long as nothing was found: USB is slow, and one may be plugged in later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from basalt.config import ConfigError, render
from basalt.errors import BasaltError
from machined import paths
from machined.configuration import ConfigurationOwner, ConflictError, Requester, Wish
from machined.reconcile import Status, failed, failed_by, waiting
from machined.sources import authority, finder
from machined.sources.authority import Authority
from machined.sources.model import (
    ON_DRIVES,
    ON_MACHINE,
    STATE,
    Damaged,
    Documents,
    Material,
    Outcome,
    Remote,
    Report,
)

DRIVES_AGAIN_S = 10.0
FETCH_FIRST_S = 1.0
FETCH_LONGEST_S = 60.0
PROBLEMS_SHOWN = 3

_APPLY = "apply one: osctl apply-config -f node.yaml"


class FirstConfiguration:
    """Looks for the first configuration and the client authority, and keeps what came of each source for this boot.

    :param boot_disk: name of the drive that the node booted from; empty where that is not known.
    :param post: takes the status of the concern "configuration".
    :param say: writes a line on the console.
    :param authority_found: called when an authority turns up after the boot began without one.
    """

    def __init__(
        self,
        node: paths.Paths,
        owner: ConfigurationOwner,
        *,
        boot_disk: Callable[[], str],
        post: Callable[[Status], None],
        say: Callable[[str], None],
        authority_found: Callable[[Authority], None],
    ) -> None:
        self._paths = node
        self._owner = owner
        self._boot_disk = boot_disk
        self._post = post
        self._say = say
        self._authority_found = authority_found
        self._on_machine: Mapping[str, Material] = {}
        self._on_drives: Mapping[str, Material] | None = None
        self._taking = ""  # the source whose configuration is being applied
        self._state = ""
        self._next_look_s: float | None = None
        self._fetches = 0
        self._said = ""
        self._configured = asyncio.Event()
        self.authority = Authority()
        self.reports: tuple[Report, ...] = ()

    async def find_authority(self) -> Authority:
        """The client authority, as far as the machine has one now."""
        held = authority.pinned(self._paths)
        if held:
            rest = (Report(source, Outcome.NOT_ASKED, "STATE came first") for source in (*ON_MACHINE, *ON_DRIVES))
            self.authority = Authority(held.pem, held.source, (*held.reports, *rest), held.damaged)
            return self.authority
        self._read_machine()
        self.authority = authority.choose(self._on_machine, ON_DRIVES)
        if not self.authority.pem:
            self.authority = authority.choose({**self._on_machine, **await self._drives()})
        return self.authority

    async def begin(self, state_problem: str) -> None:
        """Ask every source that can be asked without a network.

        :param state_problem: why STATE, or what it holds, cannot be used; empty when it can. A node that may have been configured
            does not go back to its first configuration by itself: that one knows nothing of who has lost access since.
        """
        if self._owner.configured:
            self.reports = finder.not_asked(Report(STATE, Outcome.USED), "STATE came first")
            self._configured.set()
            return
        if state_problem:
            self.reports = finder.not_asked(
                Report(STATE, Outcome.INVALID, state_problem), "STATE is there and cannot be used; it comes first"
            )
            self._tell(failed(f"no source is asked: {state_problem}", f"look at the disk, or {_APPLY}"))
            return
        pinned = self.authority.source == STATE
        self._state = (
            "it holds no generation, though an authority is pinned: the first configuration was cut short, or files are missing"
            if pinned
            else "it is empty: this node is new, or its STATE was wiped"
        )
        self._read_machine()
        await self._look(network=False)

    async def run(self) -> None:
        """Go on looking until the node has a configuration, or no source can change any more."""
        while self._next_look_s is not None and not self._owner.configured:
            try:
                async with asyncio.timeout(self._next_look_s):
                    await self._configured.wait()
            except TimeoutError:
                self._on_drives = None
                await self._look(network=True)

    def configured(self, detail: str) -> None:
        """The node has a configuration now, from a source or through the API: the search is over.

        :param detail: which generation that is and who applied it, in words.
        """
        if not self._configured.is_set() and not self._taking and self.reports:
            self.reports = finder.replaced_by_api(self.reports, detail)
        self._configured.set()

    def _read_machine(self) -> None:
        if not self._on_machine:
            from machined.sources.readers import READERS  # late: a node that is configured never gets here

            self._on_machine = {source: reader(self._paths) for source, reader in READERS.items()}

    async def _drives(self) -> Mapping[str, Material]:
        if self._on_drives is None:
            from machined.sources.drives import read_drives

            try:
                self._on_drives = await read_drives(self._paths, self._boot_disk())
            except (BasaltError, OSError) as error:
                unreadable = Material(note=f"drives cannot be looked at: {error}")
                self._on_drives = dict.fromkeys(ON_DRIVES, unreadable)
        return self._on_drives

    async def _look(self, *, network: bool) -> None:
        """Ask the sources once; sets when to look again."""
        found = dict(self._on_machine)
        choice = finder.choose(found)
        if choice is None or not self.authority.pem:
            found |= await self._drives()
            choice = finder.choose(found)
            await self._look_for_authority(found)
        self._next_look_s = None
        if choice is None:
            self.reports = finder.tell(found, None, self._state)
            self._next_look_s = DRIVES_AGAIN_S
            self._tell(waiting("no source has a configuration", _APPLY))
            return
        report, self._next_look_s = await self._try(choice, network=network)
        if report is not None:
            self.reports = finder.tell(found, report, self._state)
        if self._next_look_s is None and not self.authority.pem and not self.authority.damaged:
            self._next_look_s = DRIVES_AGAIN_S

    async def _look_for_authority(self, found: Mapping[str, Material]) -> None:
        if self.authority.pem or self.authority.damaged:
            return
        self.authority = authority.choose(found)
        if self.authority.pem:
            self._authority_found(self.authority)

    async def _try(self, choice: finder.Choice, *, network: bool) -> tuple[Report | None, float | None]:
        """Take up what was found: what came of it, and in how many seconds to look again (None: not any more)."""
        again = DRIVES_AGAIN_S if choice.source in ON_DRIVES else None
        match choice.found:
            case Damaged(problem):
                return self._invalid(choice.source, problem), again
            case Documents() as documents:
                return await self._take_up(choice.source, documents), again
            case Remote() as remote:
                return await self._fetch(choice.source, remote, network=network)

    async def _fetch(self, source: str, remote: Remote, *, network: bool) -> tuple[Report | None, float]:
        from machined.sources.fetch import fetch, shown

        where = shown(remote.url)
        if not network:
            self._tell(waiting(f"{where} is fetched once there is a network"))
            return Report(source, Outcome.UNREACHABLE, f"{where} has not been asked yet"), FETCH_FIRST_S
        try:
            data = await asyncio.to_thread(fetch, remote)
        except BasaltError as error:
            pause = min(FETCH_FIRST_S * 2**self._fetches, FETCH_LONGEST_S)
            self._fetches += 1
            if not self._owner.configured:
                self._tell(
                    waiting(
                        str(error), f"the node tries again, every {FETCH_LONGEST_S:.0f} s at the latest; or {_APPLY}"
                    )
                )
            return Report(source, Outcome.UNREACHABLE, str(error)), pause
        return await self._take_up(source, Documents(data, where)), FETCH_LONGEST_S

    async def _take_up(self, source: str, documents: Documents) -> Report | None:
        """Make *documents* the first generation. None when the API was quicker."""
        from machined.sources.compose import configuration_of

        try:
            configuration = await asyncio.to_thread(configuration_of, documents)
        except ConfigError as error:
            shown = [str(problem) for problem in error.problems[:PROBLEMS_SHOWN]]
            more = len(error.problems) - len(shown)
            return self._invalid(source, "; ".join([*shown, *([f"and {more} more problems"] if more > 0 else [])]))
        if self._owner.configured:
            return None
        self._taking = source
        try:
            applied = await self._owner.apply(
                render(configuration), documents.name, Requester(f"first boot ({source})"), Wish(first=True)
            )
        except ConflictError:
            return None
        except (BasaltError, OSError) as error:
            self._tell(failed_by(error, _APPLY))
            return Report(source, Outcome.INVALID, f"it could not be put into force: {error}")
        finally:
            self._taking = ""
        self._say(f"configuration taken from {source}")
        return Report(source, Outcome.USED, f"{documents.name} became generation {applied.generation}")

    def _invalid(self, source: str, problem: str) -> Report:
        if not self._owner.configured:
            self._tell(
                failed(
                    f"the configuration in {source} cannot be used: {problem}",
                    f"correct it and boot again, or {_APPLY}",
                )
            )
        return Report(source, Outcome.INVALID, problem)

    def _tell(self, status: Status) -> None:
        """Post *status*, and say it once on the console, where an operator without an API looks."""
        self._post(status)
        if status.reason != self._said:
            self._said = status.reason
            self._say(f"configuration: {status.reason}")
