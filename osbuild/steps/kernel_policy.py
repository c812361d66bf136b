"""The hardening policy's verdict on a configuration; the build ends here when a requirement is neither met nor excepted."""

from __future__ import annotations

from basalt.errors import BasaltError
from osbuild import paths
from osbuild.graph import Context, Step
from osbuild.kernel import config, policy

POLICY = paths.KERNEL_CONFIG / "policy.toml"


def kernel_policy_step(configuration: Step) -> Step:
    """*configuration* is the step of :mod:`osbuild.steps.kernel_config`. It needs no compiled kernel, so it fails early."""
    return Step("kernel-policy", check_policy, inputs={"config": configuration}, files=[POLICY])


def check_policy(ctx: Context) -> None:
    """Run function of :func:`kernel_policy_step`. Output: nothing but the fact that it passed.

    :raises BasaltError: naming each requirement that is not met.
    """
    final = config.parse((ctx.input("config") / "config").read_text())
    verdict = policy.evaluate(policy.parse(POLICY.read_text(), "kernel-config/policy.toml"), final)
    if not verdict.ok:
        listed = "\n  ".join(
            f"CONFIG_{found.symbol} ({found.concern}): required {found.required}, is {found.actual}"
            for found in verdict.failed
        )
        raise BasaltError(
            f"the kernel's configuration breaks the hardening policy in {len(verdict.failed)} places",
            why=f"\n  {listed}",
            remedy="Correct the fragments, or add an [[exception]] with its reason to kernel-config/policy.toml",
        )
    (ctx.out / "requirements-met").write_text(f"{verdict.met}\n")
