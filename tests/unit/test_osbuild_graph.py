"""A build runs what is needed, keeps what was finished, and says what went wrong."""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from basalt.errors import BasaltError, UsageError
from osbuild.graph import Built, Context, Planned, Step, build, plan, topological
from osbuild.sandbox import CommandError
from osbuild.store import Store
from tests.unit.osbuild_steps import Recorded, step, write_name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def run(store: Store, *targets: Step, jobs: int = 2) -> Built:
    return build(store, targets, Recorded(), jobs=jobs)


def workspaces(store: Store) -> list[str]:
    return [path.name for path in (store.root / "work").iterdir()]


def host_as_tools() -> Step:
    """A tools tree that is the host's own."""

    def link(ctx: Context) -> None:
        for name in ("usr", "etc"):
            (ctx.out / name).symlink_to(f"/{name}")

    return step("tools", link)


def fail(ctx: Context) -> None:
    raise UsageError("no such profile")


# ---- which steps run


def test_inputs_are_built_before_their_users_and_found_by_name(store: Store) -> None:
    def join(ctx: Context) -> None:
        (ctx.out / "made").write_text("+".join((ctx.input(name) / "made").read_text() for name in ("a", "b")))

    a, b = step("a"), step("b")
    both = step("both", join, [a, b])
    done = run(store, both)
    assert (store.path(both.key) / "made").read_text() == "a+b"
    assert sorted(done.built) == ["a", "b", "both"]
    assert done.built[-1] == "both"
    assert done.cached == ()


def test_second_build_runs_nothing(store: Store) -> None:
    last = step("last", inputs=[step("first")])
    run(store, last)
    done = run(store, last)
    assert done.built == ()
    assert sorted(done.cached) == ["first", "last"]


def test_changed_step_and_its_users_run_again_and_nothing_else(store: Store) -> None:
    def graph(level: int) -> Step:
        return step("image", inputs=[step("kernel"), step("root", level=level)])

    run(store, graph(6))
    done = run(store, graph(7))
    assert sorted(done.built) == ["image", "root"]
    assert done.cached == ("kernel",)


def test_step_whose_users_are_all_there_is_not_built_again(store: Store) -> None:
    tools = step("tools")
    image = step("image", inputs=[tools])
    run(store, image)
    store.collect(0, keep=frozenset({image.key}))
    assert not store.has(tools.key)
    assert [(planned.step.name, planned.state) for planned in plan(store, [image])] == [
        ("tools", "unneeded"),
        ("image", "cached"),
    ]
    assert run(store, image).built == ()


def test_input_that_was_collected_is_built_for_a_step_that_must_run(store: Store) -> None:
    tools = step("tools")
    run(store, step("image", inputs=[tools], version=1))
    store.collect(0)
    assert run(store, step("image", inputs=[tools], version=2)).built == ("tools", "image")


def test_independent_steps_run_at_the_same_time(store: Store) -> None:
    meeting = threading.Barrier(2, timeout=30)

    def meet(ctx: Context) -> None:
        meeting.wait()

    assert sorted(run(store, step("a", meet), step("b", meet)).built) == ["a", "b"]


def test_no_more_steps_run_at_once_than_jobs_allow(store: Store) -> None:
    alone = threading.Lock()

    def enter(ctx: Context) -> None:
        assert alone.acquire(blocking=False), "two steps at once"
        write_name(ctx)
        alone.release()

    assert len(run(store, *(step(name, enter) for name in "abcd"), jobs=1).built) == 4


def test_what_another_osbuild_built_meanwhile_is_taken(store: Store) -> None:
    wanted = step("wanted", fail)

    class Other(Recorded):
        """Another osbuild, which is faster."""

        def start(self, name: str) -> None:
            super().start(name)
            store.publish(wanted.key, name, store.workspace(wanted.key), {})

    progress = Other()
    build(store, [wanted], progress)
    assert progress.of("done") == ["wanted"]
    assert store.has(wanted.key)


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two different steps are called root"):
        topological([step("root", level=6), step("root", level=7)])
    assert len(topological([step("root", level=6), step("root", level=6)])) == 1


# ---- the plan


def reasons(store: Store, target: Step) -> dict[str, tuple[str, ...]]:
    return {planned.step.name: planned.reasons for planned in plan(store, [target])}


def test_plan_of_an_empty_store(store: Store) -> None:
    target = step("image", inputs=[step("root")])
    assert plan(store, [target]) == [
        Planned(target.inputs["root"], "build", ("never built here",)),
        Planned(target, "build", ("never built here",)),
    ]


def test_plan_names_what_changed(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "template"
    file.write_text("one")
    first = dataclasses.replace(step("image", inputs=[step("root", level=6)], size=1, gone=1), files=[file])
    run(store, first)
    file.write_text("two")
    second = dataclasses.replace(step("image", inputs=[step("root", level=7)], size=2, new=1), files=[file])
    assert reasons(store, second) == {
        "root": ("parameter level",),
        "image": ("file template", "input root", "parameter gone (gone)", "parameter new (new)", "parameter size"),
    }


def test_plan_says_that_code_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, step("image"))
    monkeypatch.setattr("osbuild.graph.code_digest", lambda module: "other")
    assert reasons(store, step("image")) == {"image": ("code",)}


def test_plan_says_that_an_object_was_deleted(store: Store) -> None:
    run(store, step("image"))
    store.collect(0)
    assert reasons(store, step("image")) == {"image": ("deleted from the store",)}


# ---- failure


def test_failure_stops_the_others_and_keeps_what_was_finished(store: Store) -> None:
    sleeping = threading.Event()

    def sleep(ctx: Context) -> None:
        sleeping.set()
        ctx.run(["sleep", "30"])

    def fail_beside(ctx: Context) -> None:
        assert sleeping.wait(30)
        raise UsageError("the profile is wrong")

    tools = host_as_tools()
    sleeper, failing = step("sleeper", sleep, [tools]), step("failing", fail_beside, [tools])
    user = step("user", inputs=[failing])
    progress = Recorded()
    with pytest.raises(UsageError, match="the profile is wrong"):
        build(store, [sleeper, user], progress)
    assert store.has(tools.key)
    assert not store.has(sleeper.key), "it was left to run to its end"
    assert sorted(progress.of("failed")) == ["failing", "sleeper"]
    assert "user" not in progress.of("start")
    assert workspaces(store) == []


def test_nothing_new_is_started_after_a_failure(store: Store) -> None:
    progress = Recorded()
    with pytest.raises(UsageError):
        build(store, [step("bad", fail), step("next")], progress, jobs=1)
    assert progress.of("start") == ["bad"]


def test_next_run_goes_on_from_the_finished_steps(store: Store) -> None:
    good = step("good")
    with pytest.raises(UsageError):
        run(store, step("bad", fail, [good]))
    assert run(store, step("bad", write_name, [good])).built == ("bad",)


def interrupt_then(action_after: list[str]) -> Step:
    def interrupted(ctx: Context) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        ctx.run(action_after)

    return step("long", interrupted, [host_as_tools()])


def test_ctrl_c_ends_programs_and_discards_their_workspaces(store: Store) -> None:
    long = interrupt_then(["sleep", "30"])
    with pytest.raises(KeyboardInterrupt):
        run(store, long)
    assert not store.has(long.key)
    assert workspaces(store) == []
    assert store.has(long.inputs["tools"].key)


def test_ctrl_c_ends_the_wait_for_another_osbuild(store: Store) -> None:
    wanted = step("wanted", fail)

    class Impatient(Recorded):
        def detail(self, name: str, text: str) -> None:
            assert "another osbuild" in text
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with Store(store.cache).building(wanted.key), pytest.raises(KeyboardInterrupt):
        build(store, [wanted], Impatient())


@pytest.mark.parametrize("kind", ["in python", "in a tool", "while starting"])
def test_full_disk_says_what_to_delete(store: Store, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def fill(ctx: Context) -> None:
        if kind == "in a tool":
            ctx.run(["cp", "/usr/bin/env", "/dev/full"])
        Path("/dev/full").write_bytes(b"x")

    tools = host_as_tools()
    work = store.workspace("f" * 64)
    (work.out / "disk.raw").write_bytes(b"x" * 3 * 2**20)
    store.publish("f" * 64, "disk", work, {})
    filling = step("filling", fill, [tools])
    run(store, tools)
    if kind == "while starting":
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(store, "workspace", lambda key: (_ for _ in ()).throw(full))
    with pytest.raises(BasaltError) as caught:
        run(store, filling)
    error = caught.value
    assert error.what == "step filling failed"
    assert str(store.cache) in error.why
    assert "osbuild cache gc" in error.remedy
    assert "disk 3 MiB" in error.remedy
    assert workspaces(store) == [], "what filled the disk is still there"


def test_other_trouble_with_files_names_step_and_file(store: Store) -> None:
    def read(ctx: Context) -> None:
        Path("/nowhere/at/all").read_text()

    with pytest.raises(BasaltError) as caught:
        run(store, step("reading", read))
    assert caught.value.what == "step reading failed"
    assert caught.value.why == "No such file or directory: /nowhere/at/all"


def test_failing_program_leaves_its_workspace_and_a_command_to_paste(store: Store) -> None:
    def copy(ctx: Context) -> None:
        (ctx.work / "input").write_text("x")
        ctx.run(["cp", "-v", "/work/input", "/work/missing/place"])

    failing = step("copying", copy, [host_as_tools()])
    with pytest.raises(CommandError) as caught:
        run(store, failing)
    error = caught.value
    assert error.what == "step copying: cp failed"
    assert "exit status 1" in error.why
    assert "/work/missing/place" in error.why
    log, again, shell = error.remedy.splitlines()
    assert "cp -v /work/input" in Path(log.removeprefix("Whole log: ")).read_text()
    assert "--shell-at copying" in shell
    pasted = shlex.split(again.removeprefix("Run it again: "))
    repeated = subprocess.run(pasted, capture_output=True, text=True, check=False)
    assert repeated.returncode == error.returncode
    assert "/work/missing/place" in repeated.stderr


def test_workspace_of_a_failed_program_goes_with_the_next_run(store: Store) -> None:
    def one(ctx: Context) -> None:
        ctx.run(["false"])

    failing = step("failing", one, [host_as_tools()])
    for _ in range(2):
        with pytest.raises(CommandError):
            run(store, failing)
        assert len(workspaces(store)) == 1


def test_log_holds_what_the_programs_of_the_last_run_printed(store: Store) -> None:
    def talk(ctx: Context) -> None:
        assert ctx.run(["echo", "one"]) == "one\n"
        assert ctx.run(["cat"], stdin=b"two") == "two"

    talking = step("talking", talk, [host_as_tools()])
    for _ in range(2):
        run(store, talking)
        assert store.log_path("talking", talking.key).read_text() == "$ echo one\none\n$ cat\ntwo"
        store.collect(0)
