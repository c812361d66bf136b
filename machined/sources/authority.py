"""The authority for the first contact: which source's, and why that one.

The first source that has one wins. STATE has the one that was pinned with the first configuration; later sources cannot override it:
a hypervisor that is talked into another fw_cfg entry does not take over a node that is in use. A source that is damaged is reported
and passed over, except STATE: a pinned authority that cannot be read locks the node, because falling back to another would hand it
to whoever can damage the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from basalt.errors import BasaltError
from basalt.files import write_atomic
from basalt.pki import pem_to_der
from machined.paths import Paths
from machined.sources.model import STATE, Damaged, Material, Outcome, Report

PINNED_NAME = "client-ca.pem"


class Authority(Struct, frozen=True):
    """The authority found. *pem* is empty when there is none; *reports* say for each source what came of it."""

    pem: bytes = b""
    source: str = ""
    reports: tuple[Report, ...] = ()
    damaged: bool = False

    @property
    def reasons(self) -> str:
        """What came of each source, in one line."""
        return "; ".join(map(str, self.reports))


def pinned(node: Paths) -> Authority | None:
    """The authority on STATE; None when none was pinned."""
    try:
        pem = (node.trust / PINNED_NAME).read_bytes()
        problem = _frame_problem(pem)
    except FileNotFoundError:
        return None
    except OSError as error:
        pem, problem = b"", f"it cannot be read: {error}"
    if problem:
        report = Report(STATE, Outcome.INVALID, f"{problem}; no other source may replace it")
        return Authority(b"", STATE, (report,), damaged=True)
    return Authority(pem, STATE, (Report(STATE, Outcome.USED, "pinned with the first configuration"),))


def choose(found: Mapping[str, Material], later: Iterable[str] = ()) -> Authority:
    """The first authority among *found*, which is in order.

    :param later: sources behind those; they are not asked when one was found.
    """
    reports = [Report(STATE, Outcome.NONE)]
    chosen: tuple[str, bytes] | None = None
    for source, material in found.items():
        if chosen:
            reports.append(_not_asked(source, chosen[0]))
            continue
        report, pem = _judge(source, material)
        reports.append(report)
        if pem:
            chosen = source, pem
    if chosen is None:
        return Authority(b"", "", tuple(reports))
    reports += [_not_asked(source, chosen[0]) for source in later]
    return Authority(chosen[1], chosen[0], tuple(reports))


def _not_asked(source: str, winner: str) -> Report:
    return Report(source, Outcome.NOT_ASKED, f"{winner} came first")


def _judge(source: str, material: Material) -> tuple[Report, bytes]:
    match material.authority:
        case None:
            return Report(source, Outcome.NONE, material.note), b""
        case Damaged(problem):
            return Report(source, Outcome.INVALID, problem), b""
        case pem:
            problem = _problem(pem, source)
            return Report(source, Outcome.INVALID if problem else Outcome.USED, problem), b"" if problem else pem


def _frame_problem(pem: bytes) -> str:
    """Why a pinned authority cannot be read; empty when it can. It was judged in full when it was pinned: reading its frame is
    enough, and spares every boot the import of cryptography.
    """
    try:
        pem_to_der(pem)
    except BasaltError as error:
        return str(error)
    return ""


def _problem(pem: bytes, name: str) -> str:
    """Why *pem* is no client authority; empty when it is one. Dates are not judged: the clock may be the one that is wrong."""
    from basalt.pki_checks import load_client_authorities

    try:
        load_client_authorities(pem, name)
    except BasaltError as error:
        return str(error)
    return ""


def pin(node: Paths, pem: bytes) -> None:
    """Keep *pem* on STATE; from now on no other source is asked.

    :raises OSError: it could not be written.
    """
    node.trust.mkdir(mode=0o700, exist_ok=True)
    write_atomic(node.trust / PINNED_NAME, pem, mode=0o600)
