"""Images over a fake containerd: pulled, looked for, removed; and what containerd's errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from basalt.errors import BasaltError, RefusedError
from machined.containerd import PAUSE
from machined.runtime.client import (
    PULL_REMEDIES,
    NotThereError,
    Runtime,
    RuntimeGoneError,
    RuntimeRefusedError,
    explained,
    remedy_of,
    short,
)
from machined.runtime.images import Images, Meter, Progress, full_name
from machined.runtime.signatures import Signatures
from machined.wire import content_pb2 as content
from machined.wire import cri_pb2 as cri
from tests.unit.fake_containerd import FakeContainerd
from tests.unit.fake_containerd_images import SIZE_BYTES, digest_of, id_of
from tests.unit.fake_containerd_world import quick

APP = "docker.io/library/app:1"
OTHER = "registry.example:5000/team/other:2"
PULLING = (
    'failed to pull and unpack image "docker.io/library/app:1": failed to resolve reference "docker.io/library/app:1"'
)


def rpc_error(code: grpc.StatusCode, details: str | None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, None)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "details", "kind", "why"),
        [
            (
                grpc.StatusCode.UNAVAILABLE,
                "failed to connect to all addresses",
                RuntimeGoneError,
                "containerd does not answer",
            ),
            (grpc.StatusCode.NOT_FOUND, 'image "a": not found', NotThereError, 'image "a": not found'),
            (grpc.StatusCode.UNKNOWN, "no  such\n thing", RuntimeRefusedError, "no such thing"),
            (grpc.StatusCode.DEADLINE_EXCEEDED, None, RuntimeRefusedError, "DEADLINE_EXCEEDED"),
        ],
    )
    def test_each_is_one_of_ours(self, code: grpc.StatusCode, details: str | None, kind: type, why: str) -> None:
        with pytest.raises(BasaltError) as raised, explained("cannot do it"):
            raise rpc_error(code, details)
        assert type(raised.value) is kind
        assert str(raised.value) == f"cannot do it: {why}"

    def test_others_pass(self) -> None:
        with pytest.raises(ValueError, match="ours"), explained("cannot do it"):
            raise ValueError("ours")

    @pytest.mark.parametrize(
        ("details", "expected"),
        [
            ("rpc error: code = NotFound desc = sandbox gone", "sandbox gone"),
            (
                f"rpc error: code = Unknown desc = {PULLING}: no",
                'failed to resolve reference "docker.io/library/app:1": no',
            ),
            ('failed to pull image "a": no', "no"),
            ("plain\twords", "plain words"),
        ],
    )
    def test_the_frames_around_the_words_are_left_out(self, details: str, expected: str) -> None:
        assert short(details) == expected

    @pytest.mark.parametrize(
        ("details", "remedy"),
        [
            (f'{PULLING}: failed to do request: Head "https://r": tls: failed to verify certificate: x509: signed by '
             "unknown authority", "authorities"),
            (f"{PULLING}: pull access denied, repository does not exist or may require authorization: server message: "
             "insufficient_scope: authorization failed", "credentials"),
            (f"{PULLING}: unexpected status from HEAD request to https://r/v2/: 401 Unauthorized", "credentials"),
            (f"{PULLING}: docker.io/library/app:1: not found", "name and tag"),
            (f'{PULLING}: failed to do request: Head "https://r": dial tcp: lookup r on 10.0.2.3:53: no such host', "DNS"),
            (f'{PULLING}: failed to do request: Head "https://r": dial tcp 192.0.2.1:443: connect: connection refused',
             "the way to it"),
            (f'{PULLING}: failed to do request: Head "https://r": dial tcp 192.0.2.1:443: i/o timeout', "the way to it"),
            ("failed to extract layer sha256:00: write /var/lib: no space left on device", "image prune"),
            ('failed commit on ref "layer-sha256:00": unexpected commit digest sha256:11, expected sha256:00: failed '
             "precondition", "fetched again"),
            ('failed commit on ref "layer-sha256:00": "layer-sha256:00" failed size validation: 7 != 8', "fetched again"),
            ("something else", ""),
        ],
    )  # fmt: skip
    def test_what_to_do_about_a_pull_that_failed(self, details: str, remedy: str) -> None:
        found = remedy_of(details, PULL_REMEDIES)
        assert remedy in found if remedy else found == ""

    @pytest.mark.parametrize(
        "name",
        [f"docker.io/library/app@sha256:{'0403' * 16}", "docker.io/library/app:1.401", "r.example/certificates:1"],
    )
    def test_an_images_name_says_nothing_about_the_failure(self, name: str) -> None:
        details = f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
        assert "name and tag" in remedy_of(details, PULL_REMEDIES, about=(name,))


def status(ref: str, offset: int, total: int) -> content.Status:
    return content.Status(ref=ref, offset=offset, total=total)


class TestMeter:
    def test_downloads_come_and_go_and_the_sum_does_not_go_back(self) -> None:
        meter = Meter()
        assert meter.read([]) == Progress()
        assert meter.read([status("manifest", 0, 0)]) == Progress()
        assert meter.read([status("a", 10, 100), status("b", 0, 50)]) == Progress(10, 150)
        assert meter.read([status("b", 25, 50), status("c", 5, 50)]) == Progress(130, 200)  # a has arrived
        assert meter.read([]) == Progress(200, 200)

    def test_percent_is_not_known_before_a_size_is(self) -> None:
        assert Progress().percent is None
        assert Progress(1, 3).percent == 33
        assert Progress(3, 3).percent == 100


class Store:
    """The images of a fake containerd."""

    def __init__(self, socket: Path) -> None:
        self.fake = FakeContainerd(socket)
        self.table = self.fake.images
        self.runtime = Runtime(socket)
        self.images = Images(self.runtime, Signatures(lambda: None))

    async def pull(self, name: str) -> list[Progress | str]:
        return [step async for step in self.images.pull(name)]

    async def use(self, name: str) -> str:
        """Have a container made from an image; its id."""
        pod = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="web"))
        sandbox = await self.runtime.cri.RunPodSandbox(cri.RunPodSandboxRequest(config=pod))
        config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="main"), image=cri.ImageSpec(image=name))
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox.pod_sandbox_id, config=config)
        made: str = (await self.runtime.cri.CreateContainer(request)).container_id
        return made


Scenario = Callable[[Store], Awaitable[None]]


def play(root: Path, scenario: Scenario) -> None:
    async def body() -> None:
        store = Store(root / "containerd.sock")
        await store.fake.start()
        try:
            await scenario(store)
        finally:
            await store.runtime.close()
            await store.fake.stop()

    with quick():
        asyncio.run(body())


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    pytest.fail("it did not come about")


class TestPull:
    def test_progress_and_then_the_id_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.registry[APP] = digest_of("app")
            store.fake.hold("PullImage")
            steps: list[Progress | str] = []

            async def pull() -> None:
                async for step in store.images.pull(APP):
                    steps.append(step)

            task = asyncio.create_task(pull())
            await until(lambda: store.fake.asked("PullImage"))
            store.table.downloads["a"] = status("a", 40, 100)
            await until(lambda: Progress(40, 100) in steps)
            store.table.downloads["a"] = status("a", 90, 100)
            await until(lambda: Progress(90, 100) in steps)
            store.fake.let_go("PullImage")
            await asyncio.wait_for(task, 5)
            assert steps[-1] == id_of(digest_of("app"))
            assert all(isinstance(step, Progress) for step in steps[:-1])

        play(tmp_path, scenario)

    def test_who_wants_the_same_image_shares_the_pull_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.registry[APP] = digest_of("app")
            store.fake.hold("PullImage")
            callers = [asyncio.create_task(store.pull(APP)) for _ in range(3)]
            await until(lambda: store.fake.asked("PullImage"))
            await asyncio.sleep(0.02)
            store.fake.let_go("PullImage")
            ends = [(await asyncio.wait_for(caller, 5))[-1] for caller in callers]
            assert ends == [id_of(digest_of("app"))] * 3
            assert len(store.fake.asked("PullImage")) == 1
            await store.pull(APP)  # and a later one is one of its own
            assert len(store.fake.asked("PullImage")) == 2

        play(tmp_path, scenario)

    def test_one_that_nobody_waits_for_any_longer_ends_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.registry[APP] = digest_of("app")
            store.fake.hold("PullImage")
            callers = [asyncio.create_task(store.pull(APP)) for _ in range(2)]
            await until(lambda: store.fake.asked("PullImage"))
            await asyncio.sleep(0.02)
            callers[0].cancel()
            await asyncio.sleep(0.02)
            assert not callers[1].done()
            callers[1].cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            assert not [
                task for task in asyncio.all_tasks() if task.get_name() == f"pull {APP}" and not task.cancelling()
            ]
            store.fake.let_go("PullImage")
            assert (await store.pull(APP))[-1] == id_of(digest_of("app"))

        play(tmp_path, scenario)

    def test_a_failure_reaches_everybody_who_waits_with_a_remedy_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.fake.hold("PullImage")
            callers = [asyncio.create_task(store.pull(APP)) for _ in range(2)]
            await until(lambda: store.fake.asked("PullImage"))
            await asyncio.sleep(0.02)
            store.fake.let_go("PullImage")
            for caller in callers:
                with pytest.raises(
                    NotThereError, match=r"^cannot pull docker\.io/library/app:1: failed to resolve"
                ) as raised:
                    await asyncio.wait_for(caller, 5)
                assert raised.value.remedy == "look at the image's name and tag"

        play(tmp_path, scenario)

    def test_what_was_fetched_whole_and_is_wrong_is_thrown_away_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            for one in (
                status("wrong", 100, 100),
                status("longer", 101, 100),
                status("half", 40, 100),
                status("?", 7, 0),
            ):
                store.table.downloads[one.ref] = one
            store.fake.refuse("PullImage", "unexpected commit digest sha256:1, expected sha256:2: failed precondition")
            with pytest.raises(RuntimeRefusedError, match="unexpected commit digest"):
                await store.pull(APP)
            assert set(store.table.downloads) == {"half", "?"}  # which go on at the next try

        play(tmp_path, scenario)

    def test_containerd_that_is_away_or_goes_away_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.fake.hold("PullImage")
            caller = asyncio.create_task(store.pull(APP))
            await until(lambda: store.fake.asked("PullImage"))
            await store.fake.stop()
            with pytest.raises(RuntimeGoneError):
                await asyncio.wait_for(caller, 5)
            with pytest.raises(RuntimeGoneError):
                await store.pull(APP)

        play(tmp_path, scenario)


class TestList:
    def test_names_digests_and_who_uses_them_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            for name in (APP, OTHER):
                store.table.registry[name] = digest_of(name)
                await store.pull(name)
            store.table.put("docker.io/library/app:latest", digest_of(APP))
            container = await store.use(APP)
            found = {image.digest: image for image in await store.images.all({container: "web/main"})}
            app, other = found[digest_of(APP)], found[digest_of(OTHER)]
            assert app.references == (APP, "docker.io/library/app:latest")
            assert (app.id, app.size_bytes, app.pinned) == (id_of(digest_of(APP)), SIZE_BYTES, False)
            assert app.used_by == ("web/main",)
            assert (other.references, other.used_by) == ((OTHER,), ())
            (anonymous,) = [image for image in await store.images.all() if image.used_by]
            assert anonymous.used_by == (container[:12],)

        play(tmp_path, scenario)

    def test_one_without_a_name_is_called_by_its_digest_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            digest = digest_of("app")
            store.table.put(f"docker.io/library/app@{digest}", digest)
            (image,) = await store.images.all()
            assert (image.references, image.digest) == ((f"docker.io/library/app@{digest}",), digest)

        play(tmp_path, scenario)

    @pytest.mark.parametrize("called", [APP, "app:1", id_of(digest_of("app")), f"app@{digest_of('app')}"])
    def test_an_image_is_found_by_name_digest_and_id_against_fake_containerd(self, called: str, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.registry[APP] = digest_of("app")
            assert await store.images.find(called) is None
            await store.pull(APP)
            image = await store.images.find(called)
            assert image is not None and (image.references, image.digest) == ((APP,), digest_of("app"))

        play(tmp_path, scenario)


class TestRemove:
    def test_of_several_names_the_one_that_was_said_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.note_s = 0.03  # the CRI learns of it by an event
            digest = store.table.put(APP)
            store.table.put("docker.io/library/app:latest", digest)
            await store.use(APP)  # which goes on: the content stays
            await store.images.remove("app", force=False)
            (image,) = await store.images.all()
            assert image.references == (APP,)

        play(tmp_path, scenario)

    @pytest.mark.parametrize("called", [APP, "app:1", id_of(digest_of(APP))])
    def test_with_the_last_name_goes_the_image_against_fake_containerd(self, called: str, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.put(APP)
            removed = await store.images.remove(called, force=False)
            assert removed.references == (APP,) and not store.table.names

        play(tmp_path, scenario)

    def test_by_its_id_go_all_names_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            digest = store.table.put(APP)
            store.table.put("docker.io/library/app:latest", digest)
            await store.images.remove(id_of(digest), force=False)
            assert not store.table.names

        play(tmp_path, scenario)

    def test_one_in_use_stays_unless_it_is_forced_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.put(APP)
            container = await store.use(APP)
            with pytest.raises(RefusedError, match="app:1 is in use: by web/main") as raised:
                await store.images.remove(APP, force=False, names={container: "web/main"})
            assert "--force" in raised.value.remedy
            await store.images.remove(APP, force=True)
            assert not store.table.names and container in store.fake.containers

        play(tmp_path, scenario)

    def test_the_runtimes_own_stays_even_then_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            store.table.put(PAUSE)
            with pytest.raises(RefusedError, match="every sandbox is made from it"):
                await store.images.remove(PAUSE, force=True)

        play(tmp_path, scenario)

    def test_one_that_is_not_there_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            with pytest.raises(NotThereError, match="there is no image app:1"):
                await store.images.remove("app:1", force=True)

        play(tmp_path, scenario)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_prune_takes_what_nobody_needs_against_fake_containerd(self, dry_run: bool, tmp_path: Path) -> None:
        async def scenario(store: Store) -> None:
            for name in (PAUSE, APP, OTHER, "docker.io/library/kept:1", "docker.io/library/old:1"):
                store.table.put(name)
            await store.use(APP)
            removed = await store.images.prune(
                lambda image: "docker.io/library/kept:1" in image.references, dry_run=dry_run
            )
            assert {name for image in removed for name in image.references} == {OTHER, "docker.io/library/old:1"}
            left = {PAUSE, APP, "docker.io/library/kept:1"}
            assert set(store.table.names) == (left | {OTHER, "docker.io/library/old:1"} if dry_run else left)

        play(tmp_path, scenario)


@pytest.mark.parametrize(("text", "expected"), [("app", "docker.io/library/app:latest"), ("a" * 64, ""), ("UPPER", "")])
def test_full_names(text: str, expected: str) -> None:
    assert full_name(text) == expected
