"""The part of the fake containerd that has images: the CRI's view of them, containerd's own names, downloads, archives in and out."""

# ruff: noqa: N802 - the methods have the contract's names
from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.message import Message

from basalt.reference import parse
from machined.containerd import PAUSE
from machined.wire import content_pb2 as content
from machined.wire import content_pb2_grpc, cri_pb2_grpc, images_pb2_grpc, streaming_pb2_grpc, transfer_pb2_grpc
from machined.wire import cri_pb2 as cri
from machined.wire import images_pb2 as images
from machined.wire import streaming_pb2 as streaming
from machined.wire import transfer_pb2 as transfer
from machined.wire import transfer_types_pb2 as types

if TYPE_CHECKING:
    from tests.unit.fake_containerd import FakeContainerd

Context = grpc.aio.ServicerContext[Any, Any]
SIZE_BYTES = 3 << 20


def digest_of(text: str) -> str:
    """A digest that follows from *text*."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def id_of(digest: str) -> str:
    """The id of the image whose manifest has this digest."""
    return digest_of(f"configuration of {digest}")


class ImageTable:
    """The names that containerd has, and those of them that the CRI has taken note of."""

    def __init__(self) -> None:
        self.names: dict[str, images.Image] = {}
        self.known: set[str] = set()
        self.registry: dict[str, str] = {}  # what can be pulled: digest by full name
        self.downloads: dict[str, content.Status] = {}
        self.note_s = 0.0  # how long the CRI takes to hear of a name

    def put(self, name: str, digest: str = "") -> str:
        """Have an image, as when it was pulled; its digest."""
        digest = digest or digest_of(name)
        self.save(name, digest)
        self.known.add(name)
        return digest

    def save(self, name: str, digest: str) -> None:
        """Have a name that the CRI does not know yet."""
        self.names[name] = images.Image(name=name, target=images.Descriptor(digest=digest, size=SIZE_BYTES))

    def shown(self) -> list[cri.Image]:
        """What the CRI lists."""
        by_digest: dict[str, list[str]] = {}
        for name in sorted(self.known & self.names.keys()):
            by_digest.setdefault(self.names[name].target.digest, []).append(name)
        return [
            cri.Image(
                id=id_of(digest),
                repo_tags=[name for name in names if "@" not in name],
                repo_digests=[name for name in names if "@" in name],
                size=SIZE_BYTES,
                pinned=PAUSE in names,
            )
            for digest, names in by_digest.items()
        ]

    def find(self, text: str) -> cri.Image | None:
        """By id or by name, as the CRI does."""
        for image in self.shown():
            if text in (image.id, image.id.removeprefix("sha256:")):
                return image
        try:
            name = str(parse(text))
        except ValueError:
            return None
        return next((one for one in self.shown() if name in (*one.repo_tags, *one.repo_digests)), None)

    def note(self, name: str) -> None:
        """The CRI hears that something happened to a name, after a moment."""

        def heard() -> None:
            if name in self.names:
                self.known.add(name)
            else:
                self.known.discard(name)

        asyncio.get_running_loop().call_later(self.note_s, heard)


class CriImages(cri_pb2_grpc.ImageServiceServicer):
    """The CRI's images."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._table = fake.images

    async def ListImages(self, request: cri.ListImagesRequest, context: Context) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=self._table.shown())

    async def ImageStatus(self, request: cri.ImageStatusRequest, context: Context) -> cri.ImageStatusResponse:
        return cri.ImageStatusResponse(image=self._table.find(request.image.image))

    async def PullImage(self, request: cri.PullImageRequest, context: Context) -> cri.PullImageResponse:
        name = request.image.image
        if name not in self._table.registry:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f'rpc error: code = NotFound desc = failed to pull and unpack image "{name}": failed to resolve reference '
                f'"{name}": {name}: not found',
            )
        self._table.put(name, self._table.registry[name])
        self._table.put(f"{parse(name).name}@{self._table.registry[name]}", self._table.registry[name])
        return cri.PullImageResponse(image_ref=id_of(self._table.registry[name]))

    async def RemoveImage(self, request: cri.RemoveImageRequest, context: Context) -> cri.RemoveImageResponse:
        if (found := self._table.find(request.image.image)) is not None:
            for name in (*found.repo_tags, *found.repo_digests):
                self._table.names.pop(name)
                self._table.known.discard(name)
        return cri.RemoveImageResponse()


class ImagesService(images_pb2_grpc.ImagesServicer):
    """containerd's names of images."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._table = fake.images

    async def Get(self, request: images.GetImageRequest, context: Context) -> images.GetImageResponse:
        await self._there(request.name, context)
        return images.GetImageResponse(image=self._table.names[request.name])

    async def List(self, request: images.ListImagesRequest, context: Context) -> images.ListImagesResponse:
        return images.ListImagesResponse(images=self._table.names.values())

    async def Create(self, request: images.CreateImageRequest, context: Context) -> images.CreateImageResponse:
        if request.image.name in self._table.names:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f'image "{request.image.name}": already exists')
        self._table.names[request.image.name] = request.image
        self._table.note(request.image.name)
        return images.CreateImageResponse(image=request.image)

    async def Update(self, request: images.UpdateImageRequest, context: Context) -> images.UpdateImageResponse:
        await self._there(request.image.name, context)
        self._table.names[request.image.name] = request.image
        self._table.note(request.image.name)
        return images.UpdateImageResponse(image=request.image)

    async def Delete(self, request: images.DeleteImageRequest, context: Context) -> empty_pb2.Empty:
        await self._there(request.name, context)
        del self._table.names[request.name]
        self._table.note(request.name)
        return empty_pb2.Empty()

    async def _there(self, name: str, context: Context) -> None:
        if name not in self._table.names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'image "{name}": not found')


class ContentService(content_pb2_grpc.ContentServicer):
    """What is being downloaded."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._table = fake.images

    async def ListStatuses(
        self, request: content.ListStatusesRequest, context: Context
    ) -> content.ListStatusesResponse:
        return content.ListStatusesResponse(statuses=self._table.downloads.values())

    async def Abort(self, request: content.AbortRequest, context: Context) -> empty_pb2.Empty:
        if self._table.downloads.pop(request.ref, None) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not found")
        return empty_pb2.Empty()


@dataclass
class Brought:
    """An image of an archive: its name (io.containerd.image.name), its tag (org.opencontainers.image.ref.name), or neither."""

    digest: str
    name: str = ""
    tag: str = ""


@dataclass
class Archives:
    """How archives are taken and given, and what was taken."""

    brings: list[Brought] = field(default_factory=list)  # what is in the archive that comes
    window: int = 64 * 1024  # bytes that are granted at a time
    fails_after: int | None = None  # bytes after which the archive is refused
    given: bytes = b""  # what is sent for every export
    ends_stream: bool = False  # containerd 1.7 leaves the stream of an export open
    failure: str = ""  # of an export, once all was sent
    taken: bytes = b""
    overrun: bool = False  # more came than was granted, or more was granted than could be taken
    streams: dict[str, _Stream] = field(default_factory=dict)


class _Stream:
    """One end of a stream that a transfer refers to by name."""

    def __init__(self, requests: AsyncIterator[any_pb2.Any]) -> None:
        self._requests = requests
        self.sent: asyncio.Queue[any_pb2.Any | None] = asyncio.Queue()

    def send(self, message: Message) -> None:
        self.sent.put_nowait(any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString()))

    def end(self) -> None:
        self.sent.put_nowait(None)

    async def receive(self, into: Message) -> bool:
        """Whether there was another message before the end."""
        received = await anext(self._requests, None)
        if received is None:
            return False
        assert received.type_url == into.DESCRIPTOR.full_name
        into.ParseFromString(received.value)
        return True


class StreamingService(streaming_pb2_grpc.StreamingServicer):
    """Streams by their names."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake
        self._streams = fake.archives.streams

    async def Stream(
        self, request_iterator: AsyncIterator[any_pb2.Any], context: Context
    ) -> AsyncIterator[any_pb2.Any]:
        stream, init = _Stream(aiter(request_iterator)), streaming.StreamInit()
        assert await stream.receive(init)
        self._streams[init.id] = stream
        try:
            yield any_pb2.Any(type_url="google.protobuf.Empty")
            while (message := await self._fake.unless_gone(stream.sent.get(), context)) is not None:
                yield message
        finally:
            del self._streams[init.id]


class TransferService(transfer_pb2_grpc.TransferServicer):
    """Archives in and out."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._archives = fake.archives
        self._table = fake.images

    async def Transfer(self, request: transfer.TransferRequest, context: Context) -> empty_pb2.Empty:
        source, store, destination = types.ImageImportStream(), types.ImageStore(), types.ImageExportStream()
        if request.source.type_url == source.DESCRIPTOR.full_name:
            source.ParseFromString(request.source.value)
            store.ParseFromString(request.destination.value)
            progress = self._archives.streams[request.options.progress_stream]
            try:
                await self._take(self._archives.streams[source.stream], context)
                for name in self._save(store):
                    progress.send(types.Progress(event="saved", name=name))
            finally:
                progress.end()
        else:
            store.ParseFromString(request.source.value)
            destination.ParseFromString(request.destination.value)
            for name in (store.name, *(reference.name for reference in store.extra_references)):
                if name not in self._table.names:
                    await context.abort(grpc.StatusCode.NOT_FOUND, f'image "{name}": not found')
            await self._give(self._archives.streams[destination.stream], context)
        return empty_pb2.Empty()

    async def _take(self, stream: _Stream, context: Context) -> None:
        archives, data, granted = self._archives, types.Data(), self._archives.window
        archives.taken = b""
        stream.send(types.WindowUpdate(update=granted))
        while await stream.receive(data):
            archives.taken += data.data
            granted -= len(data.data)
            archives.overrun |= granted < 0
            if archives.fails_after is not None and len(archives.taken) >= archives.fails_after:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "archive/tar: invalid tar header")
            if granted <= 0:
                granted = archives.window
                stream.send(types.WindowUpdate(update=granted))

    def _save(self, store: types.ImageStore) -> list[str]:
        """containerd 1.7, pkg/transfer/image/imagestore.go: names as they are, tags and digests behind the prefix."""
        (prefix,) = [one for one in store.extra_references if one.is_prefix and one.add_digest]
        names = []
        for image in self._archives.brings:
            unnamed = f"{prefix.name}:{image.tag}" if image.tag else f"{prefix.name}@{image.digest}"
            names.append(image.name or unnamed)
            self._table.save(names[-1], image.digest)
        return names

    async def _give(self, stream: _Stream, context: Context) -> None:
        left, window, update = memoryview(self._archives.given), 0, types.WindowUpdate()
        while left:
            while window <= 0:
                if not await stream.receive(update):
                    return
                window += update.update
                self._archives.overrun |= window > 1 << 20
            part = bytes(left[: min(window, 32 * 1024)])
            stream.send(types.Data(data=part))
            left, window = left[len(part) :], window - len(part)
        if self._archives.failure:
            await context.abort(grpc.StatusCode.UNKNOWN, self._archives.failure)
        if self._archives.ends_stream:
            stream.end()
