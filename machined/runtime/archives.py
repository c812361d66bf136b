"""Images in and out as archives: containerd's transfer service, and the streams it takes a tar from and gives one on.

A stream is a call of its own that both sides find by a name. The receiver of data says how much it will take (WindowUpdate), the
sender sends no more than that (Data), and the end of the data is the end of the sender's half (containerd 1.7,
pkg/transfer/streaming). So whoever is slow holds up the other, and nothing is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import Message

from basalt.errors import BasaltError, RefusedError
from basalt.reference import parse
from machined.runtime.client import METADATA, NotThereError, Runtime, RuntimeRefusedError, explained
from machined.runtime.images import taken_note_of
from machined.wire import cri_pb2 as cri
from machined.wire import images_pb2 as images
from machined.wire import platform_pb2, streaming_pb2
from machined.wire import transfer_pb2 as transfer
from machined.wire import transfer_types_pb2 as types

UNNAMED = "basalt.local/import"
CHUNK_BYTES = 32 * 1024  # what containerd itself sends at a time
WINDOW_BYTES = 2 * CHUNK_BYTES
TAR_END = bytes(1024)
LAST_WAIT_S, REST_WAIT_S = 0.2, 10.0  # after the transfer's end: for more than a whole archive, and for the rest of one
PLATFORM = platform_pb2.Platform(os="linux", architecture="amd64")

_Stream = grpc.aio.StreamStreamCall[any_pb2.Any, any_pb2.Any]


async def import_archive(
    runtime: Runtime,
    chunks: AsyncIterator[bytes],
    reference: str = "",
    must_be_signed: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Take the images of an archive, and unpack what is for this machine; the names under which they are kept.

    :param chunks: an OCI or Docker archive, as it comes.
    :param reference: the name for the one image in it; without it, the archive must name its images itself.
    :param must_be_signed: whether images of a full name are taken with a signature alone; an archive has none that is looked at.
    :raises BasaltError: containerd refused it, *chunks* or *must_be_signed* did; nothing of it is kept by name then.
    """
    name, news = f"import-{secrets.token_hex(8)}", f"progress-{secrets.token_hex(8)}"
    store = types.ImageStore(
        platforms=[PLATFORM], unpacks=[types.UnpackConfiguration(platform=PLATFORM, snapshotter="overlayfs")]
    )
    # What has no full name of its own is kept under this one for a moment: a transfer keeps nothing that has no name.
    store.extra_references.add(
        name=UNNAMED, is_prefix=True, allow_overwrite=True, add_digest=True, skip_named_digest=True
    )
    request = transfer.TransferRequest(
        source=packed(types.ImageImportStream(stream=name)),
        destination=packed(store),
        options=transfer.TransferOptions(progress_stream=news),
    )
    before = await _names(runtime)
    with explained(f"cannot import {reference or 'the archive'}"):
        async with _stream(runtime, name) as stream, _stream(runtime, news) as progress:
            saved = asyncio.ensure_future(_saved(progress))
            sender = asyncio.ensure_future(_send(stream, chunks))
            call = runtime.transfer.Transfer(request, metadata=METADATA)
            ended = asyncio.ensure_future(_ended(call))
            try:
                await asyncio.wait([sender, ended], return_when=asyncio.FIRST_COMPLETED)
                if sender.done() and isinstance(error := sender.exception(), BasaltError | OSError):
                    raise error  # of the caller's own stream: what containerd makes of half an archive is no news
                await call
                names = await saved
            finally:
                call.cancel()
                for task in (sender, ended, saved):
                    task.cancel()
                await asyncio.gather(sender, ended, saved, return_exceptions=True)
    kept = [await _kept(runtime, name) for name in dict.fromkeys(names)]
    announced: list[str] = []
    try:
        named = _named(kept, reference)
        if refused := [full for full, _ in named if must_be_signed(full)]:
            raise RefusedError(
                f"{', '.join(refused)} is not taken from an archive",
                why="the configuration asks for a signature, and an archive brings none",
                remedy="pull it from a registry that has the signature, or import it under another name",
            )
        for full, image in named:
            announced.append(await _announced(runtime, full, image))
    finally:
        for image in kept:  # names that the transfer gave, and that nobody asked for
            if image.name not in announced and image.name not in before:
                await _delete(runtime, image.name)
    return announced


def _named(kept: Sequence[images.Image], reference: str) -> list[tuple[str, images.Image]]:
    """Full name and content of what an archive brought.

    :raises BasaltError: it has no name, several could have *reference*, or its name is none.
    """
    if not kept:
        raise BasaltError("the archive holds no image for this machine", remedy="look at it: skopeo inspect --raw")
    if reference:
        if len({image.target.digest for image in kept}) > 1:
            raise BasaltError(
                f"the archive holds several images, and only one can be {reference}", remedy="leave --reference out"
            )
        return [(reference, kept[0])]
    named = []
    for image in kept:
        if image.name.startswith(UNNAMED):
            tag = image.name.removeprefix(UNNAMED)
            raise BasaltError(
                "the archive does not name its image",
                why=f"it has only the tag {tag[1:]}" if tag.startswith(":") else "it has neither name nor tag",
                remedy="give it one: --reference NAME",
            )
        try:
            named.append((str(parse(image.name)), image))
        except ValueError as error:
            raise BasaltError(
                f"the archive calls an image {image.name}", why=str(error), remedy="give it another: --reference NAME"
            ) from error
    return named


async def _saved(progress: _Stream) -> list[str]:
    """The names that a transfer kept images under, once it has ended."""
    names: list[str] = []
    while isinstance(received := await progress.read(), any_pb2.Any):
        news = types.Progress()
        if unpacked(received, news) and news.event == "saved":
            names.append(news.name)
    return names


async def _names(runtime: Runtime) -> frozenset[str]:
    with explained("cannot list images"):
        answer = await runtime.images.List(images.ListImagesRequest(), metadata=METADATA)
    return frozenset(image.name for image in answer.images)


async def _kept(runtime: Runtime, name: str) -> images.Image:
    with explained(f"cannot find {name}, which was just imported"):
        return (await runtime.images.Get(images.GetImageRequest(name=name), metadata=METADATA)).image


async def _delete(runtime: Runtime, name: str) -> None:
    with contextlib.suppress(NotThereError), explained(f"cannot forget {name}"):
        await runtime.images.Delete(images.DeleteImageRequest(name=name), metadata=METADATA)


async def _announced(runtime: Runtime, full: str, kept: images.Image) -> str:
    """The full name, once *kept* has it and the CRI knows it.

    "app:1" would be found by nobody who asks for app:1. And the transfer service, unlike the image service, tells nobody what it has
    kept; the CRI learns of images by events alone.
    """
    if full == kept.name:
        with explained(f"cannot name {full}"):
            await runtime.images.Update(images.UpdateImageRequest(image=kept), metadata=METADATA)
    else:
        await _delete(runtime, full)
        with explained(f"cannot name {full}"):
            renamed = images.Image(name=full, labels=kept.labels, target=kept.target)
            await runtime.images.Create(images.CreateImageRequest(image=renamed), metadata=METADATA)

    async def is_known() -> bool:
        with explained(f"cannot find {full}, which was just imported"):
            request = cri.ImageStatusRequest(image=cri.ImageSpec(image=full))
            return bool((await runtime.cri_images.ImageStatus(request)).image.id)

    if await taken_note_of(is_known):
        return full
    raise RuntimeRefusedError(
        f"cannot import {full}", why="it was taken, but the CRI takes no note of it", remedy="osctl logs containerd"
    )


async def export_archive(runtime: Runtime, references: Sequence[str]) -> AsyncIterator[bytes]:
    """The images as one OCI archive.

    :raises BasaltError: there is no such image, or its content is not all there.
    """
    name = f"export-{secrets.token_hex(8)}"
    first, *others = references
    store = types.ImageStore(name=first, platforms=[PLATFORM])
    store.extra_references.extend(types.ImageReference(name=other) for other in others)
    destination = types.ImageExportStream(stream=name, platforms=[PLATFORM])
    request = transfer.TransferRequest(source=packed(store), destination=packed(destination))
    with explained(f"cannot export {', '.join(references)}"):
        async with _stream(runtime, name) as stream:
            call = runtime.transfer.Transfer(request, metadata=METADATA)
            try:
                async for chunk in _receive(stream, call):
                    yield chunk
                await call
            finally:
                call.cancel()


@contextlib.asynccontextmanager
async def _stream(runtime: Runtime, name: str) -> AsyncIterator[_Stream]:
    """A stream that containerd knows by *name* once the first message of its own has come."""
    call: _Stream = runtime.streams.Stream(None, metadata=METADATA)
    try:
        await call.write(packed(streaming_pb2.StreamInit(id=name)))
        if not isinstance(await call.read(), any_pb2.Any):
            raise RuntimeRefusedError("containerd ended a stream before it began")
        yield call
    finally:
        call.cancel()


async def _send(stream: _Stream, chunks: AsyncIterator[bytes]) -> None:
    window = 0
    async for chunk in chunks:
        view = memoryview(chunk)
        while view:
            while window <= 0:
                update = types.WindowUpdate()
                if not unpacked(await stream.read(), update):
                    return  # containerd has what it wants, or gives up: its answer to the transfer says which
                window += update.update
            part = bytes(view[: min(window, CHUNK_BYTES)])
            await stream.write(packed(types.Data(data=part)))
            window -= len(part)
            view = view[len(part) :]
    await stream.done_writing()


async def _receive(stream: _Stream, call: Any) -> AsyncIterator[bytes]:
    """What containerd sends until its transfer has ended.

    It never ends the stream (containerd 1.7): the answer to the transfer says that all was sent, and a tar's two empty blocks that all
    was received.
    """
    await stream.write(packed(types.WindowUpdate(update=WINDOW_BYTES)))
    ended = asyncio.ensure_future(_ended(call))
    reading: asyncio.Future[Any] = asyncio.ensure_future(stream.read())
    tail = b""
    try:
        while True:
            await asyncio.wait([reading, ended], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                if await call.code() is not grpc.StatusCode.OK:
                    return  # it failed, and no more will come
                complete = tail == TAR_END
                await asyncio.wait([reading], timeout=LAST_WAIT_S if complete else REST_WAIT_S)
                if not reading.done():
                    if complete:
                        return
                    raise RuntimeRefusedError("the archive is not complete", why="containerd sent no end of it")
            data = types.Data()
            try:
                if not unpacked(await reading, data):
                    return
            except grpc.aio.AioRpcError:
                return  # the stream has broken: what the transfer says of it is told
            reading = asyncio.ensure_future(stream.read())
            # Where the stream has ended, what it still holds is read all the same.
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await stream.write(packed(types.WindowUpdate(update=len(data.data))))
            tail = (tail + data.data)[-len(TAR_END) :]
            yield data.data
    finally:
        reading.cancel()
        ended.cancel()


async def _ended(call: Any) -> None:
    await call.code()


def packed(message: Message) -> any_pb2.Any:
    """An Any as containerd's typeurl writes it: the message's full name, without the usual prefix."""
    return any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def unpacked(received: any_pb2.Any | object, into: Message) -> bool:
    """Read *received* into *into*; False when it is something else, or the stream's end."""
    if not isinstance(received, any_pb2.Any) or received.type_url.rpartition("/")[2] != into.DESCRIPTOR.full_name:
        return False
    into.ParseFromString(received.value)
    return True
