"""Keepers and their reconciler over a fake containerd: what comes up, what is replaced, what goes, and what is waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from msgspec import structs

from basalt.config.documents.workload import PublishedPort, VolumeMount, WorkloadNetwork, WorkloadVolume
from machined.reconcile import State as Concern
from machined.wire import content_pb2 as content
from machined.wire import cri_pb2 as cri
from machined.workloads import decide, desired, logs, quota, reconciler
from machined.workloads.storage import WorkloadStorage
from machined.workloads.view import State
from tests.unit.fake_containerd_world import IMAGE, World, one, play, workload

CHANGES = ("RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox")
OTHER = "docker.io/library/other:1"


def changes(world: World) -> list[str]:
    """The calls that changed something, in their order."""
    return [method for method, _ in world.fake.calls if method in (*CHANGES, "PullImage", "RemovePodSandbox")]


def looks(world: World) -> list[Any]:
    """What keepers have asked about their own sandboxes, which every look of theirs begins with."""
    return [request for request in world.fake.asked("ListPodSandbox") if request.filter.label_selector]


class TestComing:
    def test_a_workload_comes_up_against_fake_containerd(self, tmp_path: Path) -> None:
        """Image, sandbox, container; and how far that has got can be seen all the while."""

        async def scenario(world: World) -> None:
            world.fake.images.registry[OTHER] = "sha256:" + "0d" * 32
            world.fake.hold("PullImage")
            network = WorkloadNetwork(ports=(PublishedPort(container=80),))
            world.runs(workload("web", one(image=OTHER), one("side"), network=network))
            await world.until(lambda: world.container().state == "pulling")
            assert world.is_(State.STARTING)
            assert world.view().reason == f"main: pulling {OTHER}"
            world.fake.images.downloads["layer"] = content.Status(ref="layer", offset=40, total=100)
            await world.until(lambda: world.container().words(0) == "pulling, 40 %")
            world.fake.let_go("PullImage")
            await world.until_runs("web")
            assert changes(world) == [
                "PullImage",
                "RunPodSandbox",
                *("CreateContainer", "StartContainer") * 2,
            ]
            (request,) = world.fake.asked("RunPodSandbox")
            assert (request.runtime_handler, request.config.hostname) == ("bridge-runc", "web")
            assert world.view().address == "127.0.0.1"
            container, fake = world.container(), world.fake.named("web/main")
            assert (container.state, container.id, container.pid) == ("running", fake.status.id, fake.pid)
            assert (container.restarts, container.run, container.detail) == (0, 1, "")
            assert container.started_unix == fake.status.started_at // 10**9
            assert world.events()[0] == ("pulled", f"has {OTHER}")
            assert world.kinds() == ["pulled", "started", "started"]
            await world.until(lambda: world.status.state is Concern.CONVERGED)

        play(tmp_path, scenario)

    def test_all_workloads_together_leave_room_for_the_nodes_own_programs_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs()
            await world.until(lambda: "workloads" in world.board.entries())
            group = world.node.cgroup_workloads
            assert (group / "memory.max").read_text() == str((1024 - 160) << 20)
            assert (group / "pids.max").read_text() == str(10000 - 2048)
            assert "+memory" in (group / "cgroup.subtree_control").read_text()
            (world.node.proc / "meminfo").write_text("MemTotal: 2048 kB\n")
            world.trigger()
            await world.settled()
            assert (group / "memory.max").read_text() == str(1 << 20)  # of little, half

        play(tmp_path, scenario)

    def test_nothing_is_tried_before_containerd_is_up_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.ready = False
            world.runs(workload())
            await world.settled()
            assert (world.status.state, world.status.reason) == (Concern.WAITING, "containerd is not up")
            assert not world.fake.calls and not world.views
            world.ready = True
            world.trigger()
            await world.until_runs("web")
            world.ready = False
            world.runs()
            await world.settled()
            assert world.status.state is Concern.CONVERGED  # nothing is to be done

        play(tmp_path, scenario)


class TestChange:
    def test_one_container_changed_is_one_container_replaced_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            before = world.fake.running()
            world.fake.calls.clear()
            world.runs(workload("web", one(), one("side", env={"NEW": "1"})))
            await world.until(lambda: world.fake.running().get("web/side") not in (None, before["web/side"]))
            await world.until_runs("web")
            assert world.fake.running()["web/main"] == before["web/main"]
            assert changes(world) == ["StopContainer", "RemoveContainer", "CreateContainer", "StartContainer"]
            assert world.fake.asked("StopContainer")[0].container_id == before["web/side"]
            assert world.fake.asked("StopContainer")[0].timeout == 10
            created = world.fake.named("web/side").config
            assert (created.metadata.attempt, created.annotations[desired.FAILURES]) == (1, "0")

        play(tmp_path, scenario)

    def test_containers_come_and_go_one_by_one_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            before = world.fake.running()
            world.runs(workload("web", one(), one("new")))
            await world.until(lambda: set(world.fake.running()) == {"web/main", "web/new"})
            assert world.fake.running()["web/main"] == before["web/main"]
            await world.until_runs("web")
            assert [view.name for view in world.view().containers] == ["main", "new"]
            assert len(world.fake.containers) == 2

        play(tmp_path, scenario)

    def test_a_change_of_the_whole_replaces_the_whole_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            (before,) = world.fake.sandboxes
            world.fake.calls.clear()
            world.runs(workload("web", one(), one("side"), runtime="crun", stop_grace_s=7))
            await world.until(lambda: before not in world.fake.sandboxes)
            await world.until_runs("web")
            assert changes(world) == [
                *["StopContainer"] * 2,
                "StopPodSandbox",
                "RemovePodSandbox",
                "RunPodSandbox",
                *("CreateContainer", "StartContainer") * 2,
            ]
            assert {request.timeout for request in world.fake.asked("StopContainer")} == {7}
            assert world.fake.asked("RunPodSandbox")[0].runtime_handler == "crun"

        play(tmp_path, scenario)

    def test_what_is_no_part_of_a_container_replaces_none_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            world.fake.calls.clear()
            world.runs(workload(restart="never", stop_grace_s=3, start_order=7))
            await world.settled()
            assert not changes(world)
            world.runs()
            await world.until(lambda: not world.views)
            assert world.fake.asked("StopContainer")[0].timeout == 3

        play(tmp_path, scenario)

    def test_a_container_is_replaced_on_request_whatever_back_off_is_left_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            side = world.fake.running()["web/side"]
            world.patch.setattr(decide, "BACK_OFF_FIRST_S", 300.0)
            world.patch.setattr(decide, "BACK_OFF_LONGEST_S", 300.0)
            world.fake.end("web/main", 1)
            await world.until(lambda: world.is_(State.BACK_OFF))
            world.containers.workloads.restart("web", ["main"])
            await world.until_runs("web")
            assert world.fake.running()["web/side"] == side
            assert ("restarted", "restarted on request") in world.events()
            created = world.fake.named("web/main").config
            assert (created.metadata.attempt, created.annotations[desired.FAILURES]) == (1, "0")

        play(tmp_path, scenario)


class TestGoing:
    def test_what_is_no_longer_configured_goes_but_for_its_data_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.patch.setattr(quota, "limit", lambda directory, size_bytes: None)  # not every file system has them
            container = one(mounts=(VolumeMount(volume="data", path="/data"),))
            world.runs(workload("web", container, volumes=(WorkloadVolume(name="data"),)), workload("db"))
            await world.until_runs("web", "db")
            places, web = WorkloadStorage(world.node).places("web"), world.fake.running()["web/main"]
            (places.volumes / "data/kept").write_text("kept")
            (places.logs / "main/1.log").write_text("kept")
            assert places.secrets.parent.is_dir()
            world.runs(workload("db"))
            await world.until(lambda: "web" not in world.views)
            assert set(world.fake.running()) == {"db/main"}
            assert len(world.fake.sandboxes) == 1
            assert (places.volumes / "data/kept").exists() and (places.logs / "main/1.log").exists()
            assert not places.secrets.parent.exists()
            assert world.events()[-1][0] == "removed"
            assert [(request.container_id, request.timeout) for request in world.fake.asked("StopContainer")] == [
                (web, 10)
            ]
            world.runs(workload("web", container, volumes=(WorkloadVolume(name="data"),)), workload("db"))
            await world.until_runs("web")
            assert world.container().run == 2  # its logs go on

        play(tmp_path, scenario)

    def test_a_workload_that_comes_back_while_it_goes_comes_up_again_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            world.fake.hold("StopContainer")
            world.runs()
            await world.until(lambda: world.fake.asked("StopContainer"))
            assert world.is_(State.STOPPING)
            world.runs(workload())
            await world.settled()
            world.fake.let_go("StopContainer")
            await world.until(lambda: len(world.fake.asked("RunPodSandbox")) == 2)
            await world.until_runs("web")
            assert len(world.fake.sandboxes) == 1

        play(tmp_path, scenario)

    def test_what_an_earlier_boot_left_is_made_anew_or_removed_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload(), workload("gone"))
            await world.until_runs("web", "gone")
            await world.end()
            for container in world.fake.containers.values():
                world.fake.stop_container(container)
            before = set(world.fake.sandboxes)
            world.boot = "boot-2"
            world.runs(workload())
            await world.until(lambda: not before & set(world.fake.sandboxes))
            await world.until_runs("web")
            await world.until(lambda: set(world.views) == {"web"})
            assert set(world.fake.running()) == {"web/main"}
            assert (world.container().restarts, world.container().run) == (0, 2)
            assert "failed" not in world.kinds()
            assert world.events("gone")[-1][0] == "removed"

        play(tmp_path, scenario)

    def test_what_others_have_made_is_left_alone_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            pod = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="pod", uid="1", namespace="kube-system"))
            world.runs()
            runtime = world.containers.runtime.cri
            sandbox = (await runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=pod))).pod_sandbox_id
            await world.settled()
            world.runs(workload())
            await world.until_runs("web")
            assert sandbox in world.fake.sandboxes and set(world.views) == {"web"}

        play(tmp_path, scenario)

    def test_a_sandbox_that_has_gone_by_itself_is_no_failure_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            world.fake.refuse("StopPodSandbox", "sandbox: not found", grpc.StatusCode.NOT_FOUND)
            world.fake.refuse("RemovePodSandbox", "sandbox: not found", grpc.StatusCode.NOT_FOUND)
            world.runs()
            await world.until(lambda: "removed" in world.kinds())
            assert "failed" not in world.kinds()

        play(tmp_path, scenario)

    @pytest.mark.parametrize("way", ["removed", "changed"])
    def test_a_pull_that_takes_long_does_not_hold_up_the_end_against_fake_containerd(
        self, way: str, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.fake.hold("PullImage")
            world.runs(workload("web", one(image=OTHER)))
            await world.until(lambda: world.fake.asked("PullImage"))
            world.runs(*([workload()] if way == "changed" else ()))
            await world.until(lambda: world.is_(State.RUNNING) if way == "changed" else not world.views)

        play(tmp_path, scenario)


class TestEnds:
    def test_one_that_ended_is_started_again_after_a_growing_pause_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.patch.setattr(decide, "BACK_OFF_FIRST_S", 300.0)
            world.patch.setattr(decide, "BACK_OFF_LONGEST_S", 300.0)
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            side = world.fake.running()["web/side"]
            world.fake.end("web/main", 3)
            await world.until(lambda: world.is_(State.BACK_OFF))
            container = world.container()
            assert (container.state, container.exit_code, container.exit_reason) == ("exited", 3, "exit 3")
            assert container.words(time.monotonic()).startswith(("back-off 300 s after", "back-off 299 s after"))
            assert world.view().reason == "main: exit 3"
            await world.until(lambda: world.status.state is Concern.FAILED)
            assert world.status.reason == "web: main: exit 3" and world.status.remedy == "osctl workload get web"
            world.patch.setattr(decide, "BACK_OFF_FIRST_S", 0.01)
            world.patch.setattr(decide, "BACK_OFF_LONGEST_S", 0.02)
            world.fake.announce("/tasks/exit")
            await world.until_runs("web")
            for attempt in (1, 2, 3):
                created = world.fake.named("web/main").config
                assert created.metadata.attempt == world.container().restarts == attempt
                assert created.annotations[desired.FAILURES] == str(attempt)
                assert (created.log_path, world.container().run) == (f"main/{attempt + 1}.log", attempt + 1)
                world.fake.end("web/main", 3)
                await world.until(lambda: world.fake.attempt("web/main") > attempt)  # noqa: B023 - it is awaited here
                await world.until_runs("web")
            assert world.kinds() == ["started", "started", *("exited", "started") * 4]
            assert world.events()[2] == ("exited", "exit 3")
            assert world.events()[5][1].startswith("started again, for the 2nd time")
            assert world.fake.running()["web/side"] == side
            assert len(world.fake.containers) == 2

        play(tmp_path, scenario)

    def test_a_long_run_begins_the_pauses_anew_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            for _ in range(2):
                world.fake.end("web/main", 1)
                await world.until(lambda: not world.is_(State.RUNNING))
                await world.until_runs("web")
            assert world.fake.named("web/main").config.annotations[desired.FAILURES] == "2"
            world.fake.named("web/main").status.started_at -= 700 * 10**9
            world.fake.end("web/main", 1)
            await world.until(lambda: world.fake.attempt("web/main") == 3)
            assert world.fake.named("web/main").config.annotations[desired.FAILURES] == "1"

        play(tmp_path, scenario)

    @pytest.mark.parametrize(
        ("policy", "code", "expected", "concern"),
        [
            ("on-failure", 0, State.FINISHED, Concern.CONVERGED),
            ("never", 0, State.FINISHED, Concern.CONVERGED),
            ("never", 7, State.FAILED, Concern.FAILED),
            ("on-failure", 7, State.RUNNING, Concern.CONVERGED),
            ("always", 0, State.RUNNING, Concern.CONVERGED),
        ],
    )
    def test_the_policy_says_what_follows_against_fake_containerd(
        self, policy: Any, code: int, expected: State, concern: Concern, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload(restart=policy))
            await world.until_runs("web")
            world.fake.end("web/main", code)
            await world.until(lambda: ("exited", f"exit {code}") in world.events())
            await world.until(lambda: world.is_(expected))
            await world.settled()
            assert world.is_(expected) and world.status.state is concern
            again = expected is State.RUNNING
            assert len(world.fake.asked("StartContainer")) == 1 + again
            assert world.kinds().count("exited") == 1
            if not again:
                assert world.container().words(0) == f"exit {code}"

        play(tmp_path, scenario)

    def test_out_of_memory_is_told_so_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload(restart="never"))
            await world.until_runs("web")
            world.fake.end("web/main", 137, decide.OUT_OF_MEMORY)
            await world.until(lambda: world.is_(State.FAILED))
            assert world.container().exit_reason == "exit 137: the node was out of memory"

        play(tmp_path, scenario)

    def test_a_sandbox_that_ended_is_made_anew_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            (before,) = world.fake.sandboxes
            world.fake.lose("web")
            await world.until(lambda: before not in world.fake.sandboxes)
            await world.until_runs("web")
            assert set(world.fake.running()) == {"web/main", "web/side"}
            assert ("failed", "its sandbox ended; it is made anew") in world.events()

        play(tmp_path, scenario)

    def test_nothing_is_said_to_run_while_its_sandbox_cannot_be_made_anew_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            world.fake.refuse("RunPodSandbox", "no address left")
            world.fake.lose("web")
            await world.until(lambda: world.is_(State.FAILED))
            assert (world.container().state, world.container().pid) == ("waiting", 0)

        play(tmp_path, scenario)

    def test_one_that_cannot_be_started_says_why_and_is_tried_again_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.fake.unstartable["main"] = 'exec: "/no/such": no such file or directory'
            world.runs(workload("web", one(), one("side")))
            await world.until(lambda: "web" in world.views and "/no/such" in world.container().detail)
            await world.until(lambda: world.view().state in (State.FAILED, State.BACK_OFF))
            assert "/no/such" in world.view().reason
            await world.until(lambda: "web/side" in world.fake.running())
            await world.until(lambda: len(world.fake.asked("StartContainer")) >= 4)
            told = [text for kind, text in world.events() if kind == "failed"]
            assert told == ['cannot start container main: exec: "/no/such": no such file or directory']  # once
            world.fake.unstartable.clear()
            await world.until_runs("web")

        play(tmp_path, scenario)

    def test_attempts_go_on_when_a_start_fails_against_fake_containerd(
        self, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:

        async def scenario(world: World) -> None:
            world.fake.unstartable["main"] = "no such file"
            world.runs(workload())
            await world.until(lambda: world.fake.asked("StartContainer"))
            for _ in range(1000):
                if len(world.fake.asked("CreateContainer")) >= 3:
                    break
                world.fake.announce("/tasks/exit")  # others' events make it look, as they do on a node
                await asyncio.sleep(0.005)
            attempts = [one.config.metadata.attempt for one in world.fake.asked("CreateContainer")]
            assert attempts == sorted(set(attempts))

        play(tmp_path, scenario)


class TestOrder:
    def test_those_with_a_higher_number_wait_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.images.registry[OTHER] = "sha256:" + "0d" * 32
            world.fake.hold("PullImage")
            db = workload("db", one(image=OTHER), start_order=1)
            world.runs(
                workload("app", start_order=3), workload("web", start_order=2), db, workload("also", start_order=1)
            )
            await world.until_runs("also")
            await world.settled()
            assert world.view("web").reason == "waits for db, which start before it"
            assert world.view("app").reason == "waits for db, web, which start before it"
            assert set(world.fake.running()) == {"also/main"}
            assert world.status.state is Concern.WAITING
            world.fake.let_go("PullImage")
            await world.until_runs("db", "web", "app", "also")
            started = [world.history(name)[-1].sequence for name in ("db", "web", "app")]
            assert started == sorted(started)

        play(tmp_path, scenario)

    @pytest.mark.parametrize("way", ["pull", "exit"])
    def test_nobody_waits_for_one_that_has_failed_once_against_fake_containerd(self, way: str, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            if way == "pull":
                db = workload("db", one(image=OTHER), start_order=1)
            else:
                db = workload("db", start_order=1)
                world.fake.unstartable["main"] = "no such program"
            world.runs(workload("web", one("httpd"), start_order=2), db)
            await world.until_runs("web")
            assert world.view("db").state in (State.FAILED, State.BACK_OFF)

        play(tmp_path, scenario)

    def test_who_is_there_already_waits_for_nobody_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload(start_order=2))
            await world.until_runs("web")
            web = world.fake.running()
            world.runs(workload(start_order=2), workload("db", one(image=OTHER), start_order=1))
            await world.until(lambda: world.is_(State.FAILED, "db"))
            assert world.fake.running() == web and world.is_(State.RUNNING, "web")

        play(tmp_path, scenario)

    def test_nobody_waits_for_what_is_no_longer_configured_against_fake_containerd(
        self, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:

        async def scenario(world: World) -> None:
            world.fake.hold("PullImage")
            world.runs(workload("db", one(image=OTHER), start_order=1), workload(start_order=2))
            await world.until(lambda: world.view().reason.startswith("waits for db"))
            world.runs(workload(start_order=2))
            await world.until(lambda: "db" not in world.views)
            await world.settled()
            assert world.is_(State.RUNNING)

        play(tmp_path, scenario)


class TestImages:
    def test_a_pull_that_fails_says_why_what_to_do_and_when_it_is_tried_again_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            world.runs(workload("web", one(image=OTHER), one("side")))
            await world.until(lambda: world.is_(State.FAILED))
            container = world.container()
            assert container.detail == (
                f'cannot pull {OTHER}: failed to resolve reference "{OTHER}": {OTHER}: not found'
            )
            assert world.view().reason == f"main: {container.detail}"
            assert container.remedy == world.view().remedy == "look at the image's name and tag"
            assert container.words(container.due - 7) == f"{container.detail}; next try in 7 s"
            assert not world.fake.sandboxes  # half a workload is not begun
            assert world.kinds() == ["failed"]
            world.fake.images.registry[OTHER] = "sha256:" + "0d" * 32
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 0.02)
            world.containers.workloads.restart("web", ["main"])
            await world.until_runs("web")
            assert world.container().remedy == world.view().remedy == ""

        play(tmp_path, scenario)

    def test_it_is_tried_again_by_itself_and_told_once_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(image=OTHER)))
            await world.until(lambda: len(world.fake.asked("PullImage")) >= 3)
            assert len(world.events()) == 1
            world.fake.refuse(
                "PullImage", "rpc error: code = Unknown desc = x509: certificate signed by unknown authority"
            )
            await world.until(lambda: len(world.events()) == 2)
            assert world.view().remedy.startswith("give the registry's authority")
            world.fake.images.registry[OTHER] = "sha256:" + "0d" * 32
            world.fake.allow("PullImage")
            await world.until_runs("web")

        play(tmp_path, scenario)

    def test_an_image_that_comes_by_other_ways_is_taken_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(image=OTHER)))
            await world.until(lambda: world.is_(State.FAILED))
            world.fake.images.put(OTHER)
            await world.until_runs("web")

        play(tmp_path, scenario)

    def test_a_container_that_runs_does_not_miss_its_image_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            world.fake.images.names.clear()
            world.fake.announce("/tasks/exit")
            await world.settled()
            assert world.is_(State.RUNNING)
            world.fake.images.registry[IMAGE] = "sha256:" + "0d" * 32
            world.fake.end("web/main", 1)
            await world.until(lambda: world.fake.asked("PullImage"))
            await world.until_runs("web")

        play(tmp_path, scenario)


class TestContainerd:
    def test_while_it_is_away_that_is_said_and_then_all_goes_on_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            before = world.fake.running()
            world.fake.calls.clear()
            await world.fake.stop()
            await world.until(lambda: world.is_(State.STARTING))
            assert world.view().reason == "containerd does not answer"
            assert world.view().remedy == "osctl services; osctl logs containerd"
            await world.until(lambda: world.status.reason == "containerd is not up")
            assert "failed" not in world.kinds()
            await world.fake.start()
            await world.until_runs("web")
            assert world.fake.running() == before and not changes(world)
            await world.until(lambda: world.status.state is Concern.CONVERGED)
            world.fake.end("web/main", 1)  # events are heard again
            await world.until(lambda: world.fake.running() not in ({}, before))

        play(tmp_path, scenario)

    def test_what_ended_in_the_meantime_is_started_again_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload(), workload("db"))
            await world.until_runs("web", "db")
            db = world.fake.running()["db/main"]
            await world.fake.stop()
            world.fake.end("web/main", 1)
            await world.fake.start()
            await world.until(lambda: "web/main" in world.fake.running())
            await world.until_runs("web", "db")
            assert world.fake.running()["db/main"] == db

        play(tmp_path, scenario)

    def test_events_wake_keepers_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload(), workload("db"))
            await world.until_runs("web", "db")
            (request,) = world.fake.asked("Events.Subscribe")
            assert list(request.filters) == ['namespace=="k8s.io",topic~="/tasks/(exit|oom)"']
            await world.settled()
            world.fake.calls.clear()
            world.fake.announce("/tasks/oom")
            await world.until(lambda: len(world.fake.asked("ContainerStatus")) >= 4)  # both, and again a moment later
            await world.settled()
            seen = len(world.fake.calls)
            await world.settled()
            looked = [method for method, _ in world.fake.calls[seen:] if method == "ContainerStatus"]
            assert not looked  # nothing wakes them for nothing

        play(tmp_path, scenario)

    def test_what_it_refuses_is_said_and_tried_again_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.refuse("RunPodSandbox", "rpc error: code = Unknown desc = failed to setup network: no IP left")
            world.runs(workload())
            await world.until(lambda: world.is_(State.FAILED))
            assert world.view().reason == "cannot make the sandbox of web: failed to setup network: no IP left"
            await world.until(lambda: len(world.fake.asked("RunPodSandbox")) >= 3)
            assert len(world.events()) == 1
            world.fake.allow("RunPodSandbox")
            await world.until_runs("web")

        play(tmp_path, scenario)

    def test_others_ends_do_not_cut_its_pause_short_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            world.fake.refuse("RunPodSandbox", "no address left")
            world.runs(workload())
            await world.until(lambda: world.is_(State.FAILED))
            for _ in range(3):
                world.fake.announce("/tasks/exit")
                await world.settled()
            assert len(world.fake.asked("RunPodSandbox")) == 1

        play(tmp_path, scenario)

    def test_a_disk_that_is_not_there_is_said_so_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            volume = WorkloadVolume(name="data", disk="big")
            world.runs(workload("web", one(mounts=(VolumeMount(volume="data", path="/d"),)), volumes=(volume,)))
            await world.until(lambda: world.is_(State.FAILED))
            assert world.view().reason == "volume data is not there: the disk volume big is not mounted"
            assert world.view().remedy == "osctl status says why"
            assert not world.fake.sandboxes

        play(tmp_path, scenario)


class TestMachined:
    def test_one_that_starts_again_takes_over_what_runs_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            configs = (workload("web", one(), one("side")), workload("db", start_order=1))
            world.runs(*configs)
            await world.until_runs("web", "db")
            world.fake.end("web/main", 1)
            await world.until(lambda: world.fake.attempt("web/main") == 1)
            await world.until_runs("web")
            before, views = world.fake.running(), world.view().containers
            await world.end()
            assert world.fake.running() == before
            world.fake.calls.clear()
            world.runs(*configs)
            await world.until_runs("web", "db")
            assert world.fake.running() == before and not changes(world)
            for view, after in zip(views, world.view().containers, strict=True):
                assert structs.replace(after, exit_code=view.exit_code) == structs.replace(
                    view, exit_reason="", finished_unix=0, image_id=after.image_id
                )
            assert world.events() == []

        play(tmp_path, scenario)

    def test_the_pause_goes_on_over_its_restart_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            world.runs(workload())
            await world.until_runs("web")
            world.fake.end("web/main", 3)
            await world.until(lambda: world.is_(State.BACK_OFF))
            await world.end()
            world.fake.named("web/main").status.finished_at -= 100 * 10**9
            world.runs(workload())
            await world.until(lambda: world.is_(State.BACK_OFF))
            assert 195 < world.container().due - time.monotonic() <= 200

        play(tmp_path, scenario)

    def test_a_container_that_was_made_and_never_started_is_made_anew_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.fake.hold("StartContainer")
            world.runs(workload())
            await world.until(lambda: world.fake.asked("StartContainer"))
            await world.end()
            (before,) = world.fake.containers
            world.fake.let_go("StartContainer")
            await asyncio.sleep(0)
            world.fake.containers[before].status.state = cri.CONTAINER_CREATED
            world.runs(workload())
            await world.until_runs("web")
            assert before not in world.fake.containers and len(world.fake.containers) == 1
            assert len(world.fake.sandboxes) == 1
            assert "restarted" not in world.kinds()

        play(tmp_path, scenario)

    def test_a_change_made_while_it_was_away_is_carried_out_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            before = world.fake.running()
            await world.end()
            world.runs(workload("web", one(), one("side", args=("new",))))
            await world.until(lambda: world.fake.running().get("web/side") not in (None, before["web/side"]))
            assert world.fake.running()["web/main"] == before["web/main"]

        play(tmp_path, scenario)

    def test_the_key_of_the_digests_is_its_own_and_lasts_for_the_boot_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            key = world.node.run / "workloads-key"
            assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
            digest = world.fake.named("web/main").config.annotations[desired.SPEC]
            assert digest == desired.container_digest(workload(), one(), key.read_bytes())

        play(tmp_path, scenario)

    def test_a_defect_of_its_own_ends_no_workload_for_good_against_fake_containerd(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def scenario(world: World) -> None:
            def broken(*_: object) -> None:
                raise ValueError("a defect")

            world.runs()
            await world.settled()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(WorkloadStorage, "follow_names", broken)
                world.runs(workload())
                await world.until(lambda: world.fake.sandboxes)
                await world.settled()
            world.trigger()
            await world.until_runs("web")

        play(tmp_path, scenario)
        assert "workload web: internal error: ValueError('a defect')" in capsys.readouterr().out

    def test_logs_that_have_grown_are_renamed_and_reopened_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.patch.setattr(logs, "FILE_BYTES_MAX", 10)
            world.runs(workload("web", one(), one("side")))
            await world.until_runs("web")
            directory = world.containers.workloads.logs("web", "main")
            (directory / "1.log").write_text("x" * 10)
            world.trigger()
            await world.until(lambda: world.fake.asked("ReopenContainerLog"))
            assert [path.name for path in directory.iterdir()] == ["1.log.1"]
            (request,) = world.fake.asked("ReopenContainerLog")
            assert request.container_id == world.fake.running()["web/main"]

        play(tmp_path, scenario)


class TestShutdown:
    def test_everything_is_stopped_with_its_grace_and_stays_so_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            world.runs(
                workload("web", one(), one("side"), stop_grace_s=3),
                workload("db", stop_grace_s=60),
                workload("broken", one(image=OTHER)),
            )
            await world.until_runs("web", "db")
            await world.until(lambda: world.is_(State.FAILED, "broken"))
            await world.settled()
            world.fake.images.registry[OTHER] = "sha256:" + "0d" * 32
            running = world.fake.running()
            world.fake.calls.clear()
            await world.containers.workloads.stop_all()
            assert not world.fake.running()
            stopped = {request.container_id: request.timeout for request in world.fake.asked("StopContainer")}
            assert stopped == {running["web/main"]: 3, running["web/side"]: 3, running["db/main"]: 60}
            world.trigger()
            await world.settled()
            world.fake.announce("/tasks/exit")
            await world.settled()
            assert set(changes(world)) == {"StopContainer"}
            assert world.status.state is Concern.CONVERGED

        play(tmp_path, scenario)

    def test_a_look_that_is_under_way_starts_nothing_again_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            await world.settled()
            looking, go_on = threading.Event(), threading.Event()

            def held_up(self: object) -> None:
                looking.set()
                go_on.wait(5)

            world.patch.setattr(reconciler.WorkloadsReconciler, "_prepare_cgroup", held_up)
            world.trigger()
            await world.until(looking.is_set)
            await world.containers.workloads.stop_all()
            go_on.set()
            await world.settled()
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "workload web"]
            assert not world.fake.running()

        play(tmp_path, scenario)

    def test_one_that_does_not_end_holds_up_the_shutdown_for_a_while_only_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.patch.setattr(reconciler, "STOP_ALL_S", 0.05)
            world.runs(workload())
            await world.until_runs("web")
            world.fake.hold("StopContainer")
            await asyncio.wait_for(world.containers.workloads.stop_all(), 5)
            world.fake.let_go("StopContainer")

        play(tmp_path, scenario)

    def test_containerd_that_is_away_holds_up_nothing_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload())
            await world.until_runs("web")
            await world.fake.stop()
            await asyncio.wait_for(world.containers.workloads.stop_all(), 5)

        play(tmp_path, scenario)
