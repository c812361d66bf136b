"""What ``osbuild kernel`` shows of a built kernel: counts, sizes, and the verdict of the hardening policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osbuild.kernel import config, fragments, policy

POLICY = "policy.toml"


@dataclass(frozen=True)
class KernelReport:
    """A kernel, described.

    :param release: as ``uname -r`` prints it.
    :param requested: symbols that the fragments name; the rest follows from them.
    :param builtin: symbols that are ``y``; *modules* those that are ``m``.
    :param sizes_bytes: by file of the kernel step.
    """

    release: str
    fragments: tuple[str, ...]
    requested: int
    builtin: int
    modules: int
    sizes_bytes: Mapping[str, int]
    verdict: policy.Verdict

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values; ``verdict.ok`` is included."""
        fields = asdict(self)
        fields["verdict"]["ok"] = self.verdict.ok
        return fields


def report(kernel: Path, directory: Path, names: Sequence[str]) -> KernelReport:
    """Describe the output *kernel* of the kernel step, built from fragments *names* of *directory*.

    :raises UsageError: when a fragment or the policy file is wrong.
    """
    final = config.parse((kernel / "config").read_text())
    facts = json.loads((kernel / "kernel.json").read_text())
    found = config.counts(final)
    return KernelReport(
        release=facts["release"],
        fragments=tuple(names),
        requested=len(fragments.load(directory, names)),
        builtin=found.builtin,
        modules=found.modules,
        sizes_bytes=facts["size_bytes"],
        verdict=policy.evaluate(policy.parse((directory / POLICY).read_text(), f"{directory.name}/{POLICY}"), final),
    )
