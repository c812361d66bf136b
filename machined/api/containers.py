"""ContainerService: what the container runtime holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.errors import BasaltError
from basalt.machine.v1 import containers_pb2 as pb
from basalt.machine.v1 import containers_pb2_grpc as stubs
from machined.api.callers import refuse
from machined.api.images import containers_of
from machined.runtime.client import explained
from machined.wire import cri_pb2 as cri
from machined.workloads import desired

if TYPE_CHECKING:
    from machined.node import Node

_STATES = {
    cri.CONTAINER_CREATED: "created",
    cri.CONTAINER_RUNNING: "running",
    cri.CONTAINER_EXITED: "exited",
    cri.CONTAINER_UNKNOWN: "unknown",
}


class ContainerApi(stubs.ContainerServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ListContainers(  # noqa: N802 - the contract's name
        self, request: pb.ListContainersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListContainersResponse:
        """Every container of every sandbox."""
        runtime = (await containers_of(self._node, context)).runtime
        try:
            with explained("cannot list containers"):
                pods = (await runtime.cri.ListPodSandbox(cri.ListPodSandboxRequest())).items
                found = (await runtime.cri.ListContainers(cri.ListContainersRequest())).containers
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        sandboxes = {pod.id: pod for pod in pods}
        return pb.ListContainersResponse(
            containers=[
                _shown(container, sandboxes.get(container.pod_sandbox_id, cri.PodSandbox()))
                for container in sorted(found, key=lambda one: (one.pod_sandbox_id, one.metadata.name))
            ]
        )


def _shown(container: cri.Container, sandbox: cri.PodSandbox) -> pb.ContainerInfo:
    pod = f"{sandbox.metadata.namespace}/{sandbox.metadata.name}" if sandbox.id else ""
    return pb.ContainerInfo(
        id=container.id,
        name=container.metadata.name,
        image=container.image.image,
        state=_STATES.get(container.state, "unknown"),
        pod=pod,
        pod_id=container.pod_sandbox_id,
        workload=container.labels.get(desired.WORKLOAD, ""),
        created_unix=container.created_at // 10**9,
        runtime=sandbox.runtime_handler or "runc",
    )
