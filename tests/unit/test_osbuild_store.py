"""The store keeps what was finished, whole, whoever dies or builds beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from basalt.errors import BasaltError, UsageError
from osbuild import store as store_module
from osbuild.store import Store, parse_size, tree_size

KEY = "a" * 64
OTHER = "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def publish(store: Store, key: str, name: str = "step", *, size: int = 10, used: float | None = None) -> Path:
    """Put an object of *size* bytes into *store*, last used at *used*."""
    work = store.workspace(key)
    (work.out / "data").write_bytes(b"x" * size)
    path = store.publish(key, name, work, {"code": key})
    if used is not None:
        os.utime(store.root / "meta" / f"{key}.json", (used, used))
    return path


def names(store: Store, below: str) -> list[str]:
    return sorted(path.name for path in (store.root / below).iterdir())


def build_and_die(cache: Path) -> None:
    """Body of a child process: get half way, then die as by the kernel's hand."""
    store = Store(cache)
    with store.building(KEY) as ours:
        assert ours
        work = store.workspace(KEY)
        (work.out / "half").write_text("done")
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_builder_leaves_no_object_and_its_workspace_is_swept_by_the_next(store: Store) -> None:
    child = multiprocessing.get_context("fork").Process(target=build_and_die, args=(store.cache,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not store.has(KEY)
    assert names(store, "objects") == []
    (leftover,) = names(store, "work")
    with store.building(KEY) as ours:  # its lock went with it
        assert ours
        work = store.workspace(KEY)
        assert leftover not in names(store, "work")
        assert list(work.out.iterdir()) == []


def test_object_appears_whole_with_its_name_and_its_workspace_goes(store: Store) -> None:
    work = store.workspace(KEY)
    (work.out / "data").write_text("content")
    (work.scratch / "temporary").write_text("x")
    assert not store.has(KEY)
    path = store.publish(KEY, "step", work, {"code": "1"})
    assert store.has(KEY)
    assert [file.name for file in path.iterdir()] == ["data"]
    assert names(store, "work") == []


def test_power_cut_before_the_rename_leaves_no_object(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work = store.workspace(KEY)

    def power_cut(*_args: object, **_more: object) -> None:
        raise SystemExit("power cut")

    with monkeypatch.context() as cut:
        cut.setattr(Path, "rename", power_cut)
        with pytest.raises(SystemExit):
            store.publish(KEY, "step", work, {})
    assert not store.has(KEY)
    assert store.entries() == []
    assert store.latest("step") == {}


def test_second_builder_of_a_key_waits_and_finds_the_object(store: Store) -> None:
    second_waits = threading.Event()
    must_build: list[bool] = []

    def second() -> None:
        with Store(store.cache).building(KEY, waiting=second_waits.set) as ours:
            must_build.append(ours)

    with store.building(KEY) as ours:
        assert ours
        thread = threading.Thread(target=second)
        thread.start()
        assert second_waits.wait(30)
        assert must_build == []
        publish(store, KEY)
    thread.join(30)
    assert must_build == [False]


def test_second_builder_takes_over_when_the_first_fails(store: Store) -> None:
    second_waits = threading.Event()
    must_build: list[bool] = []

    def second() -> None:
        with Store(store.cache).building(KEY, waiting=second_waits.set) as ours:
            must_build.append(ours)

    with store.building(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        assert second_waits.wait(30)
    thread.join(30)
    assert must_build == [True]


def test_waiting_for_another_builder_can_be_cancelled(store: Store) -> None:
    cancelled = threading.Event()
    with (
        store.building(KEY),
        pytest.raises(BasaltError, match="cancelled"),
        Store(store.cache).building(KEY, cancelled=cancelled, waiting=cancelled.set),
    ):
        pytest.fail("two builders of one key")


def test_builders_of_different_keys_do_not_wait(store: Store) -> None:
    with store.building(KEY) as one, store.building(OTHER) as other:
        assert one
        assert other


def test_collector_deletes_what_was_not_used_for_longest_and_spares_what_is_kept(store: Store) -> None:
    keys = [str(number) * 64 for number in range(4)]
    for age, key in enumerate(keys):
        publish(store, key, size=64 * 1024, used=1000 + age)
    one = store.entries()[0].size_bytes
    removed = store.collect(2 * one, keep=frozenset({keys[0]}))
    assert [entry.key for entry in removed] == [keys[1], keys[2]]
    assert names(store, "objects") == [keys[0], keys[3]]
    assert names(store, "meta") == [f"{keys[0]}.json", f"{keys[3]}.json"]


def test_collector_deletes_nothing_below_the_limit(store: Store) -> None:
    publish(store, KEY)
    assert store.collect(2**30) == []
    assert store.has(KEY)


def test_asking_for_an_object_counts_as_use(store: Store) -> None:
    publish(store, KEY, used=1000)
    publish(store, OTHER, used=2000)
    assert [entry.key for entry in store.entries()] == [KEY, OTHER]
    assert store.has(KEY)
    assert [entry.key for entry in store.entries()] == [OTHER, KEY]


def test_collector_refuses_while_a_build_runs(store: Store) -> None:
    publish(store, KEY)
    with store.using(), pytest.raises(BasaltError) as caught:
        Store(store.cache).collect(0)
    assert "a build is running" in caught.value.why
    assert store.has(KEY)
    assert [entry.key for entry in store.collect(0)] == [KEY]


def test_collector_sweeps_workspaces_of_dead_builders(store: Store) -> None:
    store.workspace(KEY)
    store.collect(2**30)
    assert names(store, "work") == []


def test_object_that_lost_its_record_is_collected_first(store: Store) -> None:
    publish(store, KEY, used=1000)
    publish(store, OTHER, used=2000)
    (store.root / "meta" / f"{OTHER}.json").write_text("{")
    assert [(entry.key, entry.name) for entry in store.entries()] == [(OTHER, "unknown"), (KEY, "step")]


def test_components_of_the_last_build_are_remembered_by_step(store: Store) -> None:
    assert store.latest("step") == {}
    publish(store, KEY)
    publish(store, OTHER)
    assert store.latest("step") == {"code": OTHER}
    (store.root / "latest" / "step.json").write_text("not json")
    assert store.latest("step") == {}


def test_sparse_file_counts_what_it_holds(tmp_path: Path) -> None:
    with (tmp_path / "disk.raw").open("wb") as stream:
        stream.truncate(2**30)
        stream.write(b"x" * 4096)
    assert 0 < tree_size(tmp_path) < 2**20


# Root may write anywhere, so this runs without the capability that says so (capabilities(7): 1 and 2 are CAP_DAC_*).
AS_ORDINARY_USER = """
import ctypes, os, sys
from pathlib import Path
if len(sys.argv) == 2:
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-c", os.environ["SCRIPT"], sys.argv[1], "again"])
from osbuild.store import remove_tree
top = Path(sys.argv[1])
try:
    (top / "locked" / "new").write_text("x")
    sys.exit("the directory was not read-only")
except PermissionError:
    remove_tree(top)
"""


def test_read_only_directories_are_removed_too(tmp_path: Path) -> None:
    top = tmp_path / "object"
    (top / "locked" / "deeper").mkdir(parents=True)
    (top / "locked" / "deeper" / "file").write_text("x")
    for directory in (top / "locked" / "deeper", top / "locked", top):
        directory.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", AS_ORDINARY_USER, str(top)],
        env=os.environ | {"SCRIPT": AS_ORDINARY_USER},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not top.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("0", 0),
        ("24G", 24 * 2**30),
        ("512M", 512 * 2**20),
        ("1.5k", 1536),
        ("2GiB", 2 * 2**30),
        ("2gb", 2 * 2**30),
        (" 1T ", 2**40),
    ],
)
def test_sizes_are_read_in_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "24X", "-5G", "inf", "nan", "1e999", "24 G G"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "24G" in caught.value.remedy


def test_limit_comes_from_the_environment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSBUILD_CACHE_LIMIT", raising=False)
    assert store.limit_bytes == store_module.DEFAULT_LIMIT_BYTES
    monkeypatch.setenv("OSBUILD_CACHE_LIMIT", "2G")
    assert store.limit_bytes == 2 * 2**30


def test_store_that_cannot_be_made_names_the_variable_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BasaltError) as caught:
        Store(tmp_path / "file" / "cache")
    assert "OSBUILD_CACHE" in caught.value.remedy
