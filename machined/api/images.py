"""ImageService: the images that the node has."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.errors import BasaltError, UsageError
from basalt.machine.v1 import containers_pb2 as pb
from basalt.machine.v1 import containers_pb2_grpc as stubs
from basalt.reference import parse
from machined.api.auditing import note
from machined.api.callers import caller_of, refuse
from machined.runtime.archives import export_archive, import_archive
from machined.runtime.images import Image, Progress

if TYPE_CHECKING:
    from machined.containers import Containers
    from machined.node import Node

Context = grpc.aio.ServicerContext[Any, Any]


async def containers_of(node: Node, context: Context) -> Containers:
    """What the node has to do with containers; an aborted call while its services have not begun."""
    await caller_of(context)
    if node.containers is None:
        await refuse(context, BasaltError("containers cannot be asked for yet", why="the node is still starting"))
    return node.containers


def full_name(reference: str) -> str:
    """The full name of an image as somebody calls it.

    :raises UsageError: it is no name.
    """
    try:
        return str(parse(reference))
    except ValueError as error:
        raise UsageError(
            f"{reference!r} is no image", why=str(error), remedy="such as docker.io/library/nginx:1.27"
        ) from error


async def names_of(containers: Containers) -> dict[str, str]:
    """What to call containers of workloads, by id: ``web/nginx``."""
    return {
        container.id: f"{view.name}/{container.name}"
        for view in containers.workloads.views
        for container in view.containers
        if container.id
    }


class ImageApi(stubs.ImageServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def PullImage(  # noqa: N802 - the contract's name
        self, request: pb.PullImageRequest, context: Context
    ) -> AsyncIterator[pb.PullImageResponse]:
        """Fetch an image."""
        containers = await containers_of(self._node, context)
        try:
            reference = full_name(request.reference)
            async with contextlib.aclosing(containers.images.pull(reference)) as pull:
                async for step in pull:
                    if isinstance(step, Progress):
                        yield pb.PullImageResponse(fetched_bytes=step.fetched_bytes, total_bytes=step.total_bytes)
            image = await containers.images.find(reference)
            yield pb.PullImageResponse(digest=image.digest if image else "", reference=reference)
        except (BasaltError, OSError) as error:
            await refuse(context, error)

    async def ImportImage(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ImportImageRequest], context: Context
    ) -> pb.ImportImageResponse:
        """Take the images of an archive."""
        containers = await containers_of(self._node, context)
        first = await anext(request_iterator, pb.ImportImageRequest())

        async def chunks() -> AsyncIterator[bytes]:
            yield first.chunk
            async for more in request_iterator:
                yield more.chunk

        try:
            reference = full_name(first.reference) if first.reference else ""
            names = await import_archive(containers.runtime, chunks(), reference, containers.images.must_be_signed)
            note(", ".join(names))
            found = [await containers.images.find(name) for name in names]
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        return pb.ImportImageResponse(
            images=[
                _image(image) if image else pb.Image(references=[name])
                for name, image in zip(names, found, strict=True)
            ]
        )

    async def ExportImage(  # noqa: N802
        self, request: pb.ExportImageRequest, context: Context
    ) -> AsyncIterator[pb.ExportImageResponse]:
        """Give images as an archive."""
        containers = await containers_of(self._node, context)
        try:
            if not request.references:
                raise UsageError("no image was named", remedy="osctl image list")
            names = [full_name(reference) for reference in request.references]
            async for chunk in export_archive(containers.runtime, names):
                yield pb.ExportImageResponse(chunk=chunk)
        except (BasaltError, OSError) as error:
            await refuse(context, error)

    async def ListImages(  # noqa: N802
        self, request: pb.ListImagesRequest, context: Context
    ) -> pb.ListImagesResponse:
        """Every image."""
        containers = await containers_of(self._node, context)
        try:
            images = await containers.images.all(await names_of(containers))
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        return pb.ListImagesResponse(
            images=[_image(image) for image in sorted(images, key=lambda image: image.references)]
        )

    async def RemoveImage(  # noqa: N802
        self, request: pb.RemoveImageRequest, context: Context
    ) -> pb.RemoveImageResponse:
        """Remove images."""
        containers = await containers_of(self._node, context)
        removed: list[str] = []
        try:
            for reference in request.references:
                await containers.images.remove(reference, force=request.force, names=await names_of(containers))
                removed.append(reference)
                note(f"removed {reference}")
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        return pb.RemoveImageResponse(removed=removed)

    async def PruneImages(  # noqa: N802
        self, request: pb.PruneImagesRequest, context: Context
    ) -> pb.PruneImagesResponse:
        """Remove what nobody needs."""
        containers = await containers_of(self._node, context)
        named = {
            container.image for config in self._node.configuration.current.workloads for container in config.containers
        }
        try:
            removed = await containers.images.prune(
                lambda image: (
                    any(name in named for name in image.references)
                    or any(name.partition("@")[2] == image.digest for name in named if image.digest)
                ),
                dry_run=request.dry_run,
            )
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        if not request.dry_run:
            note(f"removed {len(removed)}")
        return pb.PruneImagesResponse(
            removed=[_image(image) for image in removed], freed_bytes=sum(image.size_bytes for image in removed)
        )


def _image(image: Image) -> pb.Image:
    return pb.Image(
        references=image.references,
        id=image.id,
        digest=image.digest,
        size_bytes=image.size_bytes,
        used_by=image.used_by,
        pinned=image.pinned,
    )
