"""Images in and out as archives over a fake containerd: names, windows, whose error is told, and where an export ends."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from basalt.errors import BasaltError, RefusedError
from machined.runtime import images
from machined.runtime.archives import UNNAMED, export_archive, import_archive
from machined.runtime.client import NotThereError, Runtime, RuntimeGoneError, RuntimeRefusedError
from tests.unit.fake_containerd import FakeContainerd
from tests.unit.fake_containerd_images import Brought, digest_of
from tests.unit.fake_containerd_world import quick

APP = "docker.io/library/app:1"
DIGEST, OTHER_DIGEST = digest_of("app"), digest_of("other")
STUCK_S = 1.0  # what takes longer would take for ever


def a_tar(size_bytes: int = 100_000) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("blob")
        entry.size = size_bytes
        archive.addfile(entry, io.BytesIO(bytes(range(256)) * (size_bytes // 256 + 1)))
    return buffer.getvalue()


ARCHIVE = a_tar()


class Door:
    """What goes in and out of a fake containerd."""

    def __init__(self, socket: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.fake = FakeContainerd(socket)
        self.table = self.fake.images
        self.archives = self.fake.archives
        self.runtime = Runtime(socket)

    def brings(self, *images: Brought) -> None:
        self.archives.brings = list(images)

    async def take(
        self, reference: str = "", data: bytes = ARCHIVE, piece: int = 20_000, signed: frozenset[str] = frozenset()
    ) -> list[str]:
        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(data), piece):
                yield data[at : at + piece]

        return await asyncio.wait_for(import_archive(self.runtime, chunks(), reference, signed.__contains__), 5)

    async def give(self, *names: str) -> bytes:
        async def read() -> bytes:
            return b"".join([chunk async for chunk in export_archive(self.runtime, names)])

        return await asyncio.wait_for(read(), 5)


Scenario = Callable[[Door], Awaitable[None]]


def play(root: Path, scenario: Scenario) -> None:
    async def body(patch: pytest.MonkeyPatch) -> None:
        door = Door(root / "containerd.sock", patch)
        await door.fake.start()
        try:
            await scenario(door)
            for _ in range(100):
                if not door.archives.streams:
                    break
                await asyncio.sleep(0.005)
            assert not door.archives.streams  # whatever happened, nothing is left open
        finally:
            await door.runtime.close()
            await door.fake.stop()

    with quick() as patch:
        asyncio.run(body(patch))


class TestNames:
    def test_an_archive_names_its_images_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.table.note_s = 0.03  # the CRI takes note of it a moment later
            other = "registry.example:5000/team/other:2"
            door.brings(Brought(DIGEST, APP), Brought(OTHER_DIGEST, other))
            assert await door.take() == [APP, other]
            assert set(door.table.names) == door.table.known == {APP, other}
            assert door.archives.taken == ARCHIVE and not door.archives.overrun

        play(tmp_path, scenario)

    def test_short_names_are_made_full_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST, "app:1"), Brought(OTHER_DIGEST, "team/other"))
            assert await door.take() == [APP, "docker.io/team/other:latest"]
            assert set(door.table.names) == door.table.known == {APP, "docker.io/team/other:latest"}
            assert door.table.names[APP].target.digest == DIGEST

        play(tmp_path, scenario)

    @pytest.mark.parametrize("name", [APP, "app:1"])
    def test_a_name_that_there_is_already_means_the_new_image_from_now_on_against_fake_containerd(
        self, name: str, tmp_path: Path
    ) -> None:
        async def scenario(door: Door) -> None:
            door.table.put(APP, OTHER_DIGEST)
            door.brings(Brought(DIGEST, name))
            assert await door.take() == [APP]
            assert {name: image.target.digest for name, image in door.table.names.items()} == {APP: DIGEST}

        play(tmp_path, scenario)

    @pytest.mark.parametrize(
        ("image", "why"),
        [(Brought(DIGEST, tag="1"), "it has only the tag 1"), (Brought(DIGEST), "neither name nor tag")],
    )
    def test_one_without_a_name_is_refused_and_not_kept_against_fake_containerd(
        self, image: Brought, why: str, tmp_path: Path
    ) -> None:
        async def scenario(door: Door) -> None:
            door.brings(image)
            with pytest.raises(BasaltError, match="the archive does not name its image") as raised:
                await door.take()
            assert why in raised.value.why and raised.value.remedy == "give it one: --reference NAME"
            assert not door.table.names

        play(tmp_path, scenario)

    @pytest.mark.parametrize("image", [Brought(DIGEST, tag="1"), Brought(DIGEST), Brought(DIGEST, "app:1")])
    def test_a_reference_names_it_against_fake_containerd(self, image: Brought, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(image)
            assert await door.take(APP) == [APP]
            assert {name: one.target.digest for name, one in door.table.names.items()} == {APP: DIGEST}
            assert door.table.known == {APP}

        play(tmp_path, scenario)

    def test_a_reference_stands_for_the_archives_own_name_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST, "docker.io/library/own:1"))
            assert await door.take(APP) == [APP]
            assert set(door.table.names) == {APP}

        play(tmp_path, scenario)

    def test_one_reference_cannot_name_several_images_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST), Brought(OTHER_DIGEST))
            with pytest.raises(BasaltError, match=f"several images, and only one can be {APP}"):
                await door.take(APP)
            assert not door.table.names
            door.brings(Brought(DIGEST, tag="1"), Brought(DIGEST, tag="2"))  # two names of one
            assert await door.take(APP) == [APP]
            assert set(door.table.names) == {APP}

        play(tmp_path, scenario)

    def test_nothing_of_a_refused_archive_is_kept_by_name_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST, APP), Brought(OTHER_DIGEST))
            with pytest.raises(BasaltError, match="does not name its image"):
                await door.take()
            assert not door.table.names

        play(tmp_path, scenario)

    def test_a_name_that_is_none_is_told_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST, "App:1"))
            with pytest.raises(BasaltError, match="the archive calls an image App:1: upper-case") as raised:
                await door.take()
            assert raised.value.remedy == "give it another: --reference NAME"

        play(tmp_path, scenario)

    def test_what_must_be_signed_does_not_come_by_an_archive_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST, "app:1"), Brought(OTHER_DIGEST, "other:1"))
            with pytest.raises(RefusedError, match=f"{APP} is not taken from an archive"):
                await door.take(signed=frozenset({APP}))
            assert not door.table.names
            door.brings(Brought(DIGEST, tag="1"))
            assert await door.take("docker.io/library/unsigned:1", signed=frozenset({APP}))

        play(tmp_path, scenario)

    def test_an_archive_for_another_machine_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            with pytest.raises(BasaltError, match="holds no image for this machine"):
                await door.take()

        play(tmp_path, scenario)

    def test_what_the_cri_never_takes_note_of_is_no_success_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.table.note_s = 3600
            door.patch.setattr(images, "KNOWN_LOOKS", 3)
            door.brings(Brought(DIGEST, APP))
            with pytest.raises(RuntimeRefusedError, match="the CRI takes no note of it"):
                await door.take()

        play(tmp_path, scenario)

    def test_nothing_without_a_name_of_its_own_is_left_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.brings(Brought(DIGEST, tag="1"))
            door.fake.refuse("Images.Create", "no room")
            with pytest.raises(RuntimeRefusedError, match="no room"):
                await door.take(APP)
            assert not [name for name in door.table.names if name.startswith(UNNAMED)]

        play(tmp_path, scenario)


class TestStream:
    @pytest.mark.parametrize(("window", "piece"), [(10_000, 33_333), (1, 50), (1 << 20, 100_000), (32 * 1024, 7)])
    def test_no_more_is_sent_than_is_taken_against_fake_containerd(
        self, window: int, piece: int, tmp_path: Path
    ) -> None:
        async def scenario(door: Door) -> None:
            door.archives.window = window
            door.brings(Brought(DIGEST, APP))
            data = ARCHIVE[: 100 if window == 1 else 1000 if piece == 7 else None]
            await door.take(data=data, piece=piece)
            assert door.archives.taken == data and not door.archives.overrun

        play(tmp_path, scenario)

    def test_the_callers_own_error_is_told_and_not_what_containerd_makes_of_half_an_archive_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(door: Door) -> None:
            async def chunks() -> AsyncIterator[bytes]:
                yield ARCHIVE[:1000]
                raise BasaltError("the caller has gone")

            door.brings(Brought(DIGEST, APP))
            with pytest.raises(BasaltError, match="the caller has gone"):
                await asyncio.wait_for(import_archive(door.runtime, chunks()), STUCK_S)
            assert not door.table.names

        play(tmp_path, scenario)

    def test_so_is_one_of_the_system_against_fake_containerd(self, tmp_path: Path) -> None:
        """As when the sandbox's image cannot be read; nothing waits for the rest of it."""

        async def scenario(door: Door) -> None:
            async def chunks() -> AsyncIterator[bytes]:
                yield ARCHIVE[:1000]
                raise FileNotFoundError(2, "No such file or directory", "pause.tar")

            with pytest.raises(FileNotFoundError):
                await asyncio.wait_for(import_archive(door.runtime, chunks()), STUCK_S)

        play(tmp_path, scenario)

    def test_an_archive_that_is_none_is_refused_though_more_of_it_would_come_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(door: Door) -> None:
            sent = 0

            async def chunks() -> AsyncIterator[bytes]:
                nonlocal sent
                while True:
                    sent += 10_000
                    yield bytes(10_000)

            door.archives.fails_after = 50_000
            with pytest.raises(RuntimeRefusedError, match="cannot import the archive: archive/tar: invalid tar header"):
                await asyncio.wait_for(import_archive(door.runtime, chunks()), STUCK_S)
            assert sent < 1_000_000

        play(tmp_path, scenario)

    def test_a_caller_that_goes_away_leaves_nothing_behind_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            async def chunks() -> AsyncIterator[bytes]:
                yield ARCHIVE[:1000]
                await asyncio.Event().wait()

            task = asyncio.create_task(import_archive(door.runtime, chunks()))
            while not door.archives.taken:
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        play(tmp_path, scenario)

    def test_containerd_that_is_away_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            await door.fake.stop()
            with pytest.raises(RuntimeGoneError):
                await door.take()
            with pytest.raises(RuntimeGoneError):
                await door.give(APP)

        play(tmp_path, scenario)


class TestExport:
    @pytest.mark.parametrize(
        "ends_stream",
        [
            False,
            True,
        ],
    )
    @pytest.mark.parametrize("size_bytes", [10, 1_000_000])
    def test_it_ends_with_the_tar_whether_the_stream_does_or_not_against_fake_containerd(
        self, size_bytes: int, ends_stream: bool, tmp_path: Path
    ) -> None:
        async def scenario(door: Door) -> None:
            door.table.put(APP)
            door.archives.given = a_tar(size_bytes)
            door.archives.ends_stream = ends_stream
            assert await door.give(APP) == door.archives.given
            assert not door.archives.overrun

        play(tmp_path, scenario)

    def test_several_images_are_one_archive_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.table.put(APP)
            door.archives.given = ARCHIVE
            with pytest.raises(NotThereError, match=r"cannot export docker\.io/library/app:1, other:1: .*not found"):
                await door.give(APP, "other:1")
            door.table.save("other:1", OTHER_DIGEST)
            assert await door.give(APP, "other:1") == ARCHIVE

        play(tmp_path, scenario)

    def test_a_refused_one_says_so_also_after_the_first_bytes_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            with pytest.raises(NotThereError, match="not found"):
                await door.give(APP)
            door.table.put(APP)
            door.archives.given, door.archives.failure = ARCHIVE[:50_000], "content sha256:11: not found"
            with pytest.raises(RuntimeRefusedError, match="content sha256:11"):
                await door.give(APP)

        play(tmp_path, scenario)

    def test_half_an_archive_is_none_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.table.put(APP)
            door.archives.given = ARCHIVE[:50_000]
            with pytest.raises(RuntimeRefusedError, match="the archive is not complete"):
                await door.give(APP)

        play(tmp_path, scenario)

    def test_a_slow_caller_holds_it_up_and_one_that_goes_ends_it_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.table.put(APP)
            door.archives.given = a_tar(4_000_000)
            export = export_archive(door.runtime, [APP])
            read = 0
            async for chunk in export:
                read += len(chunk)
                await asyncio.sleep(0.002)
                if read > 200_000:
                    break
            await export.aclose()  # type: ignore[attr-defined]
            assert not door.archives.overrun

        play(tmp_path, scenario)

    def test_containerd_that_goes_away_in_the_middle_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(door: Door) -> None:
            door.table.put(APP)
            door.archives.given = a_tar(4_000_000)
            export = export_archive(door.runtime, [APP])
            await anext(export)
            await door.fake.stop()
            await asyncio.sleep(0.05)
            with pytest.raises(RuntimeGoneError):
                async for _ in export:
                    pass

        play(tmp_path, scenario)
