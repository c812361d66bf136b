"""Where the configuration and the client authority came from, as an answer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as pb
from machined.sources.model import STATE, Outcome, Report

if TYPE_CHECKING:
    from machined.node import Node

CONFIGURATION = "configuration"  # among the authorities: an AccessConfig, which counts before all of them


def provenance(node: Node) -> pb.ProvenanceResponse:
    """What came of every source in this boot."""
    configuration = (
        Report(STATE, Outcome.USED, _origin(node)) if _is_used(report) else report for report in node.first.reports
    )
    return pb.ProvenanceResponse(
        configuration=_translated(configuration), authority=_translated(_authority(node.first.authority.reports, node))
    )


def _is_used(report: Report) -> bool:
    return report.source == STATE and report.outcome is Outcome.USED


def _origin(node: Node) -> str:
    """Where the generation in force came from when it was applied."""
    try:
        generation = node.configuration.show().generation
    except BasaltError as error:
        return str(error)
    applied = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(generation.applied_unix))
    origin = f" from {generation.source}" if generation.source else ""
    return f"generation {generation.number}, applied by {generation.applied_by}{origin} at {applied}"


def _authority(reports: Iterable[Report], node: Node) -> Iterable[Report]:
    if node.configuration.current.access is None:
        return reports
    used = Report(CONFIGURATION, Outcome.USED, f"AccessConfig of generation {node.configuration.number}")
    others = (
        Report(report.source, Outcome.NOT_ASKED, "it has one, and the configuration's count instead")
        if report.outcome is Outcome.USED
        else report
        for report in reports
    )
    return (used, *others)


def _translated(reports: Iterable[Report]) -> list[pb.SourceReport]:
    return [
        pb.SourceReport(source=report.source, outcome=report.outcome.value, detail=report.detail) for report in reports
    ]
