"""What follows from how a container ended, how workloads stand in words, and what is remembered of what happened."""

from __future__ import annotations

import asyncio

import pytest

from basalt.config.documents.workload import Resources
from machined.wire import cri_pb2 as cri
from machined.workloads import decide, history
from machined.workloads.decide import Ended, back_off_s, ended_of, is_started_again, wait_left_s, words_of_end
from machined.workloads.history import Event, History
from machined.workloads.view import SETTLED, ContainerView, State, stands
from tests.unit.fake_containerd_world import one

SECOND_NS = 10**9
BEGAN = 1_700_000_000 * SECOND_NS


def exited(
    code: int = 0, reason: str = "", *, ran_s: float = 5, started: int = BEGAN, message: str = ""
) -> cri.ContainerStatus:
    return cri.ContainerStatus(
        state=cri.CONTAINER_EXITED,
        created_at=BEGAN - SECOND_NS,
        started_at=started,
        finished_at=BEGAN + round(ran_s * SECOND_NS),
        exit_code=code,
        reason=reason,
        message=message,
    )


def test_the_pause_doubles_up_to_five_minutes() -> None:
    assert [back_off_s(failures) for failures in range(1, 12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert back_off_s(0) == 1
    assert back_off_s(10**6) == 300


@pytest.mark.parametrize(
    ("policy", "code", "unhealthy", "expected"),
    [
        ("always", 0, "", True),
        ("always", 1, "", True),
        ("on-failure", 0, "", False),
        ("on-failure", 1, "", True),
        ("on-failure", 0, "GET /: status 500", True),  # it ended well, but because it was told to
        ("never", 0, "", False),
        ("never", 1, "", False),
        ("never", 0, "GET /: status 500", False),
    ],
)
def test_restart_policies(policy: str, code: int, unhealthy: str, expected: bool) -> None:
    assert is_started_again(policy, Ended(code, "", 1.0, 1, unhealthy)) is expected


class TestEnd:
    def test_short_runs_add_up_and_a_long_one_begins_anew(self) -> None:
        assert ended_of(exited(1), 0, one()) == Ended(1, "exit 1", 5.0, 1)
        assert ended_of(exited(1), 4, one()).failures == 5
        assert ended_of(exited(1, ran_s=599.9), 4, one()).failures == 5
        assert ended_of(exited(1, ran_s=600), 4, one()).failures == 1

    def test_one_that_never_ran_counts_from_when_it_was_made(self) -> None:
        ended = ended_of(exited(128, started=0), 2, one())
        assert (ended.ran_s, ended.failures) == (6.0, 3)

    def test_a_clock_that_was_set_back_makes_no_run_shorter_than_nothing(self) -> None:
        assert ended_of(exited(1, ran_s=-3600), 1, one()) == Ended(1, "exit 1", 0.0, 2)

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (exited(0, "Completed"), "exit 0"),
            (exited(3, "Error"), "exit 3"),
            (exited(128), "exit 128"),
            (exited(129), "exit 129: SIGHUP"),
            (exited(134), "exit 134: SIGABRT"),
            (exited(137, "Error"), "exit 137: SIGKILL"),
            (exited(139), "exit 139: SIGSEGV"),
            (exited(143), "exit 143: SIGTERM"),
            (exited(190), "exit 190"),  # no signal that ends a program by itself
            (exited(255, "Unknown"), "exit 255"),
            (exited(137, "OOMKilled"), "exit 137: out of memory at 512MiB"),
            (exited(0, "OOMKilled"), "exit 0: out of memory at 512MiB"),
            (
                exited(128, "StartError", started=0, message="runc create failed:\n  no such\tfile"),
                "could not be started: runc create failed: no such file",
            ),
            (exited(128, "StartError", started=0), "could not be started: exit 128"),
        ],
    )
    def test_in_words(self, status: cri.ContainerStatus, expected: str) -> None:
        assert words_of_end(status, one(resources=Resources(memory="512MiB"))) == expected

    def test_without_a_limit_of_its_own_it_was_the_node_that_had_no_memory(self) -> None:
        assert words_of_end(exited(137, "OOMKilled"), one()) == "exit 137: the node was out of memory"

    def test_unhealthy_says_more_than_the_signal_that_it_was_stopped_with(self) -> None:
        assert words_of_end(exited(143), one(), "unhealthy: port 80") == "stopped: unhealthy: port 80"
        assert ended_of(exited(0), 0, one(), "unhealthy: port 80").failed


@pytest.mark.parametrize(
    ("now_s", "left_s"),
    [
        (1_700_000_000, 8),
        (1_700_000_003, 5),
        (1_700_000_008, 0),
        (1_700_900_000, 0),  # the clock was set forward, or machined was away
        (1_600_000_000, 8),  # it was set back
    ],
)
def test_a_clock_that_is_stepped_makes_no_pause_longer(now_s: float, left_s: float) -> None:
    assert wait_left_s(8, BEGAN, now_s) == left_s


def test_the_longest_pause_follows_from_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "BACK_OFF_FIRST_S", 0.5)
    monkeypatch.setattr(decide, "BACK_OFF_LONGEST_S", 3.0)
    assert [back_off_s(failures) for failures in (1, 2, 3, 4)] == [0.5, 1, 2, 3]


def a(name: str, state: State, detail: str = "", remedy: str = "") -> ContainerView:
    return ContainerView(name, "app:1", stands=state, detail=detail, remedy=remedy)


class TestView:
    @pytest.mark.parametrize(
        ("containers", "expected"),
        [
            ((), (State.STARTING, "", "")),
            ((a("x", State.RUNNING), a("y", State.RUNNING)), (State.RUNNING, "", "")),
            ((a("x", State.RUNNING), a("y", State.FINISHED, "exit 0")), (State.RUNNING, "", "")),
            ((a("x", State.FINISHED, "exit 0"), a("y", State.FINISHED)), (State.FINISHED, "x: exit 0", "")),
            (
                (a("x", State.RUNNING), a("y", State.STARTING, "not healthy yet")),
                (State.STARTING, "y: not healthy yet", ""),
            ),
            (
                (a("x", State.STARTING, "pulling"), a("y", State.BACK_OFF, "exit 1"), a("z", State.BACK_OFF, "exit 2")),
                (State.BACK_OFF, "y: exit 1; z: exit 2", ""),
            ),
            (
                (
                    a("x", State.BACK_OFF, "exit 1"),
                    a("y", State.FAILED, "cannot pull", "look"),
                    a("z", State.FAILED, "no"),
                ),
                (State.FAILED, "y: cannot pull; z: no", "look"),
            ),
        ],
    )
    def test_the_worst_container_says_how_a_workload_stands(
        self, containers: tuple[ContainerView, ...], expected: tuple[State, str, str]
    ) -> None:
        assert stands(containers) == expected

    def test_who_has_had_its_chance(self) -> None:
        assert {State.RUNNING, State.BACK_OFF, State.FAILED, State.FINISHED} == SETTLED

    def test_what_runs_down_is_said_at_the_moment_of_the_question(self) -> None:
        view = ContainerView("x", "app:1", state="exited", detail="exit 3", stands=State.BACK_OFF, due=118.4)
        assert view.words(100.0) == "back-off 18 s after exit 3"
        assert view.words(200.0) == "back-off 0 s after exit 3"
        failed = ContainerView("x", "app:1", detail="cannot pull app:1", stands=State.FAILED, due=104.0)
        assert failed.words(100.0) == "cannot pull app:1; next try in 4 s"
        final = ContainerView("x", "app:1", state="exited", detail="exit 7", stands=State.FAILED)
        assert final.words(100.0) == "exit 7"

    def test_a_pull_says_how_far_it_has_got_once_that_is_known(self) -> None:
        view = ContainerView("x", "app:1", state="pulling", detail="pulling")
        assert view.words(0.0) == "pulling"
        view.percent = 40
        assert view.words(0.0) == "pulling, 40 %"
        running = ContainerView("x", "app:1", state="running", percent=100, stands=State.RUNNING)
        assert running.words(0.0) == ""


class TestHistory:
    def test_it_keeps_the_last_events_and_tells_them_to_the_log(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(history, "EVENTS_KEPT", 3)

        async def body() -> None:
            kept = History(clock=lambda: 7.0)
            assert (kept.last, kept.events()) == (0, [])
            for number in range(5):
                kept.add("web" if number % 2 else "db", "exited", f"exit {number}", "main" if number else "")
            assert [event.sequence for event in kept.events()] == [3, 4, 5]
            assert kept.last == 5
            assert kept.events(["web"]) == [Event(4, 7.0, "web", "main", "exited", "exit 3")]
            assert [event.sequence for event in kept.events(after=4)] == [5]
            assert kept.events(["nobody"]) == []

        asyncio.run(body())
        assert capsys.readouterr().out.splitlines()[:2] == ["workload db: exit 0", "workload web/main: exit 1"]

    def test_followers_get_batches_of_what_they_want(self) -> None:
        async def body() -> None:
            kept = History()
            kept.add("web", "started", "before")
            follower = kept.follow({"web"}, kept.last)
            waiting = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0)
            kept.add("db", "started", "of another")
            kept.add("web", "started", "first")
            kept.add("web", "exited", "second")
            assert [event.text for event in await asyncio.wait_for(waiting, 5)] == ["first", "second"]
            kept.add("web", "exited", "third")  # nobody waits at this moment
            assert [event.text for event in await asyncio.wait_for(anext(follower), 5)] == ["third"]
            everything = kept.follow((), 1)
            assert [event.sequence for event in await asyncio.wait_for(anext(everything), 5)] == [2, 3, 4, 5]

        asyncio.run(body())

    def test_one_that_is_too_slow_sees_it_in_the_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "EVENTS_KEPT", 2)

        async def body() -> None:
            kept = History()
            kept.add("web", "started", "seen")
            follower = kept.follow((), 0)
            assert [event.sequence for event in await asyncio.wait_for(anext(follower), 5)] == [1]
            for _ in range(5):
                kept.add("web", "exited", "exit 1")
            assert [event.sequence for event in await asyncio.wait_for(anext(follower), 5)] == [5, 6]

        asyncio.run(body())
