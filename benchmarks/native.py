"""machined and its gateway on this machine's own processor, in a network namespace of their own: what the API itself costs.

The measurement runs in three processes below ``unshare --user --net``: machined (its network concern on a pair of virtual cards, its
API), the gateway on the API's port, and the client (:mod:`benchmarks.native_client`), which prints what it found.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from basalt.errors import BasaltError
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Goal, median, percentile

_UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
_TIMEOUT_S = 300


def measure(bench: Bench) -> Iterator[Figure]:
    """Calls, connections, throughput, an apply, memory; and the validation of documents, which needs no node."""
    yield _validation(bench)
    bench.note("running machined and its gateway natively")
    found = _run()
    alone = "machined and gateway as processes of this machine, client beside them on the same cores"
    calls = found["calls_ms"]
    yield Figure("native RPC, warm, p50", percentile(calls, 0.5), "ms", f"{alone}, {len(calls)} calls in turn", Goal(2))
    yield Figure("native RPC, warm, p99", percentile(calls, 0.99), "ms", "the same calls", Goal(5))
    fresh = found["connections_ms"]
    how = f"TCP, mutual TLS 1.3, HTTP/2 and one call, p50 of {len(fresh)}"
    yield Figure("native RPC, new connection", percentile(fresh, 0.5), "ms", how, Goal(10))
    rates = found["calls_per_s"]
    how = f"{found['clients']} clients of one process each, one call under way in each, median of {len(rates)} runs"
    yield Figure("native RPC throughput", median(rates), "1/s", how, Goal(1000, at_least=True))
    applies = found["applies_ms"]
    how = f"ApplyConfig with another static address until the kernel has it and the network is converged, median of {len(applies)}"
    yield Figure("apply of a network change", median(applies), "ms", how, Goal(500))
    resident = found["resident_bytes"]
    how = "proportional set size of both processes after all of the above"
    yield Figure("machined + gateway resident", sum(resident.values()) / 1e6, "MB", how, Goal(90))


def _run() -> dict[str, Any]:
    if not shutil.which("unshare"):
        raise BasaltError("cannot run a node natively", why="there is no unshare (util-linux)")
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as directory:
        words = [*_UNSHARE, sys.executable, "-m", "benchmarks.native_client", directory]
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        except subprocess.TimeoutExpired as error:
            raise BasaltError("the native measurement did not end", why=str(error.stderr or "")[-500:]) from error
    if done.returncode:
        raise BasaltError("cannot run a node natively", why=done.stderr.strip().rpartition("\n")[2])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _validation(bench: Bench) -> Figure:
    import time

    from basalt import config
    from benchmarks.documents import documents

    text = documents(200)
    config.parse(text, "documents")
    samples = []
    for _ in range(max(5, bench.repeat)):
        began = time.perf_counter()
        config.parse(text, "documents")
        samples.append((time.perf_counter() - began) * 1000)
    how = f"basalt.config.parse of {len(text):,} bytes, 200 documents of all kinds, median of {len(samples)}"
    return Figure("validation of 200 documents", median(samples), "ms", how, Goal(50))
