"""What the node has to do with containers, in one place for the API: the runtime, its images, the workloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from basalt.config.documents import RegistryConfig, WorkloadConfig
from machined.image import read_boot_id
from machined.paths import Paths
from machined.runtime.client import Runtime
from machined.runtime.images import Images
from machined.runtime.signatures import Signatures
from machined.workloads.reconciler import WorkloadsReconciler


@dataclass(frozen=True)
class Containers:
    """One node's containers."""

    runtime: Runtime
    images: Images
    workloads: WorkloadsReconciler

    @classmethod
    def of(
        cls,
        node: Paths,
        runtime: Runtime,
        *,
        config: Callable[[], Sequence[WorkloadConfig]],
        registry: Callable[[], RegistryConfig | None],
        ready: Callable[[], bool],
        changed: Callable[[], None],
    ) -> Containers:
        """Those of *node* behind *runtime*."""
        images = Images(runtime, Signatures(registry))
        workloads = WorkloadsReconciler(
            node, runtime, images, config=config, ready=ready, boot_id=lambda: read_boot_id(node.proc), changed=changed
        )
        return cls(runtime, images, workloads)
