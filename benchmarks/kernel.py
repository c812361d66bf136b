"""What is in the kernel, and how it stands against hardening lists: the project's own policy, and kernel-hardening-checker."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import PROFILE, Bench
from benchmarks.figures import Figure, Goal
from benchmarks.image import MB

CHECKER = "kernel-hardening-checker"
_SUMMARY = re.compile(r"'OK' - (\d+) / 'FAIL' - (\d+)")


def measure(bench: Bench) -> Iterator[Figure]:
    """From the built configuration and the files of the kernel step."""
    found = bench.osbuild("kernel", "--profile", PROFILE)
    yield Figure("kernel, built in", found["builtin"], "", "symbols that are y in the final .config", Goal(1600))
    yield Figure("kernel, modules", found["modules"], "", "symbols that are m in the final .config")
    yield Figure(
        "kernel, bzImage", found["sizes_bytes"]["bzImage"] / MB, "MB", "the kernel's part of the UKI, in 10^6 bytes"
    )
    verdict = found["verdict"]
    yield Figure("hardening policy, met", verdict["met"], "", "requirements of kernel-config/policy.toml")
    yield Figure("hardening policy, excepted", len(verdict["excepted"]), "", "each with its reason in the same file")
    yield _checked(Path(bench.image["artifacts"]["config"]))


def _checked(config: Path) -> Figure:
    program = shutil.which(CHECKER)
    name, goal = "hardening checks OK", Goal(197, at_least=True)
    if program is None:
        return Figure(name, None, "", f"tool not available: {CHECKER} is not on PATH", goal)
    done = subprocess.run([program, "-c", str(config)], capture_output=True, text=True, check=False)
    counts = parse_checker(done.stdout)
    if counts is None:
        return Figure(name, None, "", f"{CHECKER} printed no summary (exit status {done.returncode})", goal)
    return Figure(name, counts[0], "", f"of {sum(counts)} checks, by {CHECKER} on the final .config", goal)


def parse_checker(printed: str) -> tuple[int, int] | None:
    """Checks that passed and that failed, from the checker's summary; None when there is none."""
    match = _SUMMARY.search(printed)
    return (int(match[1]), int(match[2])) if match else None
