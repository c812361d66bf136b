"""Containers' logs: lines of the CRI's format, the files of a run, and what makes room for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from machined.workloads import logs
from machined.workloads.logs import Line, files_of, next_run, parse_line, read, rotate, runs_of

MOMENT = 1_700_000_000.0  # 2023-11-14T22:13:20Z
STAMP = b"2023-11-14T22:13:20.123456789Z"


class TestLine:
    @pytest.mark.parametrize(
        ("stamp", "expected"),
        [
            (b"2023-11-14T22:13:20Z", MOMENT),
            (b"2023-11-14T22:13:20.5Z", MOMENT + 0.5),
            (b"2023-11-14T22:13:20.123456789Z", MOMENT + 0.123456789),
            (b"2023-11-14T22:13:20.000000001+00:00", MOMENT + 1e-9),
            (b"2023-11-15T00:13:20.25+02:00", MOMENT + 0.25),
            (b"2023-11-14T16:43:20.999999999-05:30", MOMENT + 0.999999999),
        ],
    )
    def test_stamps_have_nanoseconds_and_offsets(self, stamp: bytes, expected: float) -> None:
        line = parse_line(stamp + b" stdout F hello  world")
        assert line is not None
        assert line.time_unix == pytest.approx(expected, abs=1e-6)
        assert line == Line(line.time_unix, False, b"hello  world")

    @pytest.mark.parametrize(
        ("rest", "error", "text", "partial"),
        [
            (b" stderr F oops", True, b"oops", False),
            (b" stdout P begun", False, b"begun", True),
            (b" stdout P:tag begun", False, b"begun", True),
            (b" stdout F ", False, b"", False),
            (b" stdout F", False, b"", False),
            (b" stdout F  indented", False, b" indented", False),
            (b" stdout F \xff\x00\r", False, b"\xff\x00\r", False),
        ],
    )
    def test_parts(self, rest: bytes, error: bool, text: bytes, partial: bool) -> None:
        line = parse_line(STAMP + rest)
        assert line is not None
        assert (line.error, line.text, line.partial) == (error, text, partial)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"\0\0\0\0",
            b"world",
            STAMP,
            STAMP[:12] + b" stdout F x",
            STAMP + b" stdout",
            STAMP + b" stdout X text",
            STAMP + b" stdlog F text",
            b"yesterday stdout F text",
            b"2023-13-14T22:13:20Z stdout F text",
            b"2023-11-14T22:13:20.x1Z stdout F text",
            b"\xff stdout F text",
        ],
    )
    def test_torn_ones_are_none(self, raw: bytes) -> None:
        assert parse_line(raw) is None


def line(text: str) -> bytes:
    return STAMP + b" stdout F " + text.encode() + b"\n"


class TestRead:
    def test_whole_lines_and_the_offsets_behind_them(self, tmp_path: Path) -> None:
        path = tmp_path / "1.log"
        path.write_bytes(line("one") + b"torn by a power cut\n" + line("two") + STAMP + b" stdout F thr")
        found = list(read(path))
        assert [one.text for one, _ in found] == [b"one", b"two"]
        offset = found[-1][1]
        assert path.read_bytes()[offset:] == STAMP + b" stdout F thr"
        with path.open("ab") as stream:
            stream.write(b"ee\n" + line("four"))
        assert [one.text for one, _ in read(path, offset)] == [b"three", b"four"]
        assert [one.text for one, _ in read(path, found[0][1])] == [b"two", b"three", b"four"]

    def test_lines_may_lie_across_what_is_read_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "READ_BYTES", 7)
        path = tmp_path / "1.log"
        path.write_bytes(line("a" * 50) + line("b") + line(""))
        assert [(one.text, offset) for one, offset in read(path)] == [
            (b"a" * 50, len(line("a" * 50))),
            (b"b", len(line("a" * 50) + line("b"))),
            (b"", path.stat().st_size),
        ]


class TestRuns:
    def test_numbers_go_on_and_the_oldest_make_room(self, tmp_path: Path) -> None:
        directory = tmp_path / "web/main"
        for expected in range(1, 8):
            assert next_run(directory) == expected
            (directory / f"{expected}.log").write_bytes(line("x"))
            (directory / f"{expected}.log.1").write_bytes(line("x"))
            assert len(runs_of(directory)) <= logs.RUNS_KEPT
        assert runs_of(directory) == [3, 4, 5, 6, 7]
        assert {path.name.partition(".")[0] for path in directory.iterdir()} == {"3", "4", "5", "6", "7"}

    def test_they_are_numbers_and_nothing_else(self, tmp_path: Path) -> None:
        for name in ("9.log", "10.log", "10.log.1", "11.log.2", "x.log", "12.txt"):
            (tmp_path / name).touch()
        assert runs_of(tmp_path) == [9, 10, 11]
        assert next_run(tmp_path) == 12

    def test_there_are_none_of_a_container_that_was_never_made(self, tmp_path: Path) -> None:
        assert runs_of(tmp_path / "none") == []


class TestRotation:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "FILE_BYTES_MAX", 100)

    def test_a_small_file_stays(self, tmp_path: Path) -> None:
        (tmp_path / "1.log").write_bytes(b"x" * 99)
        assert not rotate(tmp_path, 1)
        assert not rotate(tmp_path, 2)
        assert [path.name for path in tmp_path.iterdir()] == ["1.log"]

    def test_full_ones_are_kept_up_to_a_bound(self, tmp_path: Path) -> None:
        for number in range(5):
            (tmp_path / "1.log").write_bytes(b"%d" % number * 100)
            assert rotate(tmp_path, 1)
            assert not rotate(tmp_path, 1)  # containerd has not made the new one yet
        assert [path.name for path in files_of(tmp_path, 1)] == ["1.log.2", "1.log.1"]
        assert [path.read_bytes()[:1] for path in files_of(tmp_path, 1)] == [b"3", b"4"]

    def test_runs_do_not_touch_one_another(self, tmp_path: Path) -> None:
        for run in (1, 11):
            (tmp_path / f"{run}.log").write_bytes(b"x" * 100)
        assert rotate(tmp_path, 1)
        assert [path.name for path in files_of(tmp_path, 11)] == ["11.log"]

    def test_a_run_is_read_over_its_rotations(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "FILE_BYTES_MAX", 50)
        (tmp_path / "1.log").write_bytes(line("one") + line("two"))
        rotate(tmp_path, 1)
        (tmp_path / "1.log").write_bytes(line("three") + line("four"))
        rotate(tmp_path, 1)
        (tmp_path / "1.log").write_bytes(line("five"))
        texts = [one.text for path in files_of(tmp_path, 1) for one, _ in read(path)]
        assert texts == [b"one", b"two", b"three", b"four", b"five"]
