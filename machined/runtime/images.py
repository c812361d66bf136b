"""Images: pulled, listed, removed. They belong to containerd; what is known here is asked from it each time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import grpc
import grpc.aio
from msgspec import Struct

from basalt.errors import RefusedError
from basalt.publickeys import key_id, load
from basalt.reference import parse
from machined.runtime.client import (
    METADATA,
    PULL_REMEDIES,
    NotThereError,
    Runtime,
    RuntimeRefusedError,
    explained,
)
from machined.runtime.signatures import Signatures
from machined.wire import content_pb2 as content
from machined.wire import cri_pb2 as cri
from machined.wire import images_pb2 as images

KNOWN_LOOKS, KNOWN_LOOK_S = 300, 0.1  # for the CRI to take note of something that came about without it
SIGNED_BY = "basalt.dev/signed-by"  # label of an image's name: ids of the keys by which it was seen to be signed
PROGRESS_S = 0.5  # between two looks at how far a download has got


class Progress(Struct, frozen=True):
    """How far a pull has got. *total_bytes* is what is known so far; 0 before the manifest is."""

    fetched_bytes: int = 0
    total_bytes: int = 0

    @property
    def percent(self) -> int | None:
        """None while nothing is known."""
        return self.fetched_bytes * 100 // self.total_bytes if self.total_bytes else None


class Meter:
    """Adds up downloads that come and go in containerd's content store.

    The store lists what is under way. What has vanished from the list has arrived, for a download that fails ends the pull.
    """

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}

    def read(self, statuses: Iterable[content.Status]) -> Progress:
        """The sum, after another look."""
        under_way = {status.ref: status for status in statuses}
        self._totals.update({ref: status.total for ref, status in under_way.items() if status.total})
        fetched = sum(under_way[ref].offset if ref in under_way else total for ref, total in self._totals.items())
        return Progress(fetched, sum(self._totals.values()))


@dataclass
class Pull:
    """A pull that goes on. *waiting*: how many wait for it."""

    task: asyncio.Task[str]
    meter: Meter
    waiting: int = 0


class Image(Struct, frozen=True):
    """An image that the node has."""

    id: str
    references: tuple[str, ...]
    digest: str
    size_bytes: int
    pinned: bool
    used_by: tuple[str, ...] = ()


class Images:
    """The images of one containerd."""

    def __init__(self, runtime: Runtime, signatures: Signatures) -> None:
        self._runtime = runtime
        self._signatures = signatures
        self._pulls: dict[str, Pull] = {}

    async def pull(self, reference: str) -> AsyncGenerator[Progress | str]:
        """Fetch an image; progress while it goes on, at the end the id. Several callers for one image share one pull.

        A pull ends when nobody waits for it any longer.

        :raises BasaltError: it cannot be had, and why.
        """
        pull = self._pulls.get(reference)
        if pull is None:
            task = asyncio.get_running_loop().create_task(self._pull(reference), name=f"pull {reference}")
            pull = self._pulls[reference] = Pull(task, Meter())
        pull.waiting += 1
        try:
            while True:
                done, _ = await asyncio.wait([pull.task], timeout=PROGRESS_S)
                if done:
                    yield pull.task.result()
                    return
                yield await self._progress(pull.meter)
        finally:
            pull.waiting -= 1
            if not pull.waiting:
                pull.task.cancel()
            if (pull.task.done() or not pull.waiting) and self._pulls.get(reference) is pull:
                del self._pulls[reference]

    async def _pull(self, reference: str) -> str:
        verified = await self._signatures.verified(reference)
        # What was verified is a digest: the tag may mean something else by now.
        wanted = f"{parse(reference).name}@{verified.digest}" if verified else reference
        try:
            with explained(f"cannot pull {reference}", PULL_REMEDIES, about=(wanted, reference)):
                answer = await self._runtime.cri_images.PullImage(
                    cri.PullImageRequest(image=cri.ImageSpec(image=wanted))
                )
        except RuntimeRefusedError:
            await self._forget_bad_downloads()
            raise
        if verified:
            await self._name(reference, wanted, {SIGNED_BY: ",".join(verified.keys)})
        return answer.image_ref

    async def _name(self, reference: str, present: str, labels: dict[str, str]) -> None:
        """Give the image *present* the name *reference* and these labels."""
        with explained(f"cannot name {reference}"):
            request = images.GetImageRequest(name=present)
            image = (await self._runtime.images.Get(request, metadata=METADATA)).image
            named = images.Image(name=reference, labels={**image.labels, **labels}, target=image.target)
            try:
                await self._runtime.images.Create(images.CreateImageRequest(image=named), metadata=METADATA)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                await self._runtime.images.Update(images.UpdateImageRequest(image=named), metadata=METADATA)

        async def is_named() -> bool:
            found = await self.find(reference)
            return found is not None and found.digest == image.target.digest

        if not await taken_note_of(is_named):
            raise RuntimeRefusedError(
                f"cannot name {reference}", why="the CRI takes no note of it", remedy="osctl logs containerd"
            )

    async def at_hand(self, reference: str) -> Image | None:
        """The image of this full name, if the node has it and, where signatures are asked for, has seen one by a key that still counts."""
        image = await self.find(reference)
        policy = self._signatures.policy_for(reference)
        if image is None or policy is None:
            return image
        with explained(f"cannot look at {reference}"):
            try:
                request = images.GetImageRequest(name=reference)
                labels = (await self._runtime.images.Get(request, metadata=METADATA)).image.labels
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                raise
        seen = labels.get(SIGNED_BY, "").split(",")
        return image if any(key_id(load(key)) in seen for key in policy.keys) else None

    def must_be_signed(self, reference: str) -> bool:
        """Whether an image of this full name is taken only with a signature."""
        return self._signatures.policy_for(reference) is not None

    async def _forget_bad_downloads(self) -> None:
        """Throw away what was fetched to its end and yet is not what was asked for.

        containerd 1.7 keeps it, finds it complete at the next try, and fails for ever without asking the registry again.
        """
        with explained("cannot clear the content store"):
            statuses = (
                await self._runtime.content.ListStatuses(content.ListStatusesRequest(), metadata=METADATA)
            ).statuses
        for status in statuses:
            if status.total and status.offset >= status.total:
                with contextlib.suppress(RuntimeRefusedError), explained("cannot clear the content store"):
                    await self._runtime.content.Abort(content.AbortRequest(ref=status.ref), metadata=METADATA)

    async def _progress(self, meter: Meter) -> Progress:
        with explained("cannot see how far the download has got"):
            answer = await self._runtime.content.ListStatuses(content.ListStatusesRequest(), metadata=METADATA)
        return meter.read(answer.statuses)

    async def find(self, reference: str) -> Image | None:
        """The image of this name, digest or id, if the node has it."""
        with explained(f"cannot look for {reference}"):
            request = cri.ImageStatusRequest(image=cri.ImageSpec(image=reference))
            answer = await self._runtime.cri_images.ImageStatus(request)
        return _image(answer.image, (), await self._digests()) if answer.image.id else None

    async def all(self, names: Mapping[str, str] | None = None) -> list[Image]:
        """Every image, with the containers that use it.

        :param names: what to call a container, by its id; an id stands for itself.
        """
        digests = await self._digests()
        with explained("cannot list images"):
            answer = await self._runtime.cri_images.ListImages(cri.ListImagesRequest())
            containers = await self._runtime.cri.ListContainers(cri.ListContainersRequest())
        used: dict[str, set[str]] = {}
        for container in containers.containers:
            used.setdefault(container.image_ref, set()).add((names or {}).get(container.id, container.id[:12]))
        return [_image(image, sorted(used.get(image.id, ())), digests) for image in answer.images]

    async def _digests(self) -> dict[str, str]:
        """What each name means: the digest of a manifest or index. The CRI tells it only of images that came by it."""
        with explained("cannot list images"):
            answer = await self._runtime.images.List(images.ListImagesRequest(), metadata=METADATA)
        return {image.name: image.target.digest for image in answer.images}

    async def remove(self, reference: str, *, force: bool, names: Mapping[str, str] | None = None) -> Image:
        """Remove one image; of one that has several names and is called by one of them, that name.

        :raises NotThereError: there is none of that name.
        :raises RefusedError: containers use it and *force* was not given, or the runtime itself needs it.
        """
        known = await self.find(reference)
        image = next((image for image in await self.all(names) if known and image.id == known.id), None)
        if image is None:
            raise NotThereError(f"there is no image {reference}", remedy="osctl image list")
        if image.pinned:
            raise RefusedError(f"{reference} is not removed", why="every sandbox is made from it")
        named = next((name for name in image.references if name in (reference, full_name(reference))), "")
        if named and len(image.references) > 1:
            await self._remove_name(named)
            return image
        if image.used_by and not force:
            raise RefusedError(
                f"{reference} is in use", why=f"by {', '.join(image.used_by)}", remedy="--force removes it all the same"
            )
        with explained(f"cannot remove {reference}"):
            await self._runtime.cri_images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=image.id)))
        return image

    async def _remove_name(self, name: str) -> None:
        with explained(f"cannot remove {name}"):
            await self._runtime.images.Delete(images.DeleteImageRequest(name=name, sync=True), metadata=METADATA)

        async def is_gone() -> bool:
            return not any(name in image.references for image in await self.all())

        await taken_note_of(is_gone)

    async def prune(self, keep: Callable[[Image], bool], *, dry_run: bool) -> list[Image]:
        """Remove every image that no container uses, that the runtime does not need, and that *keep* does not want."""
        removed = []
        for image in await self.all():
            if image.used_by or image.pinned or keep(image):
                continue
            if not dry_run:
                try:
                    await self.remove(image.id, force=False)
                except (RefusedError, NotThereError):
                    continue  # taken into use or removed by somebody else in between
            removed.append(image)
        return removed


def _image(image: cri.Image, used_by: Iterable[str], digests: Mapping[str, str]) -> Image:
    references = tuple(image.repo_tags) or tuple(image.repo_digests)
    known = [*(digests.get(name, "") for name in references), *(name.partition("@")[2] for name in image.repo_digests)]
    digest = next((digest for digest in known if digest), "")
    return Image(image.id, references, digest, image.size, image.pinned, tuple(used_by))


def full_name(reference: str) -> str:
    """The full form of a name; empty when it is none, such as an id."""
    try:
        return str(parse(reference))
    except ValueError:
        return ""


async def taken_note_of(seen: Callable[[], Awaitable[bool]]) -> bool:
    """Wait until the CRI shows what came about without it, of which it learns by an event; whether it does within reason."""
    for _ in range(KNOWN_LOOKS):
        if await seen():
            return True
        await asyncio.sleep(KNOWN_LOOK_S)
    return False
