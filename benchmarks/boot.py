"""Where the time of a node's first boot goes, from power-on to an answer of its API over mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from basalt.client import connect
from benchmarks.bench import Bench
from benchmarks.figures import Figure, median

MACHINES = ("uefi", "direct")


def measure(bench: Bench) -> Iterator[Figure]:
    """Fresh nodes, each booted for the first time: it makes its identity, STATE and DATA."""
    for machine in MACHINES:
        totals: list[float] = []
        boots: list[dict[str, float]] = []
        for turn in range(bench.repeat):
            bench.note(f"booting a node, machine {machine}, turn {turn + 1}")
            with bench.node(machine) as node:
                totals.append(node.seconds)
                with connect(node.target) as client:
                    stages = client.version().boot_stages
                boots.append({stage.name: stage.duration_usec / 1e6 for stage in stages})
        for stage, seconds in stage_medians(boots).items():
            yield Figure(f"boot {machine}, {stage}", seconds, "s", f"the node's own account, median of {len(boots)}")
        how = f"start of QEMU until an RPC over mTLS was answered, first boot, median of {len(totals)}"
        yield Figure(f"boot {machine}, power-on to API", median(totals), "s", how)


def stage_medians(boots: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each stage that every one of *boots* has, in the order of the first."""
    if not boots:
        return {}
    return {
        stage: median([boot[stage] for boot in boots]) for stage in boots[0] if all(stage in boot for boot in boots)
    }
