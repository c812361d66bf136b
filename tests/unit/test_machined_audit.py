"""The audit log: durable, bounded, readable after a power cut, and never in the way of a reboot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from machined import paths
from machined.audit import FOLLOWER_RECORDS_MAX, UNREADABLE, AuditLog, FellBehindError, Record, files_of


def record(request_id: int | str) -> Record:
    return Record("Zoë", "1f", "192.0.2.1:1", "/x/ApplyConfig", f"{request_id}", "OK", roles=("os:admin",))


def ids(records: list[Record]) -> list[str]:
    return [each.request_id for each in records]


def test_what_is_written_is_read_by_another_process(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit").write(record(1))
    (read,) = AuditLog(tmp_path / "audit").read()
    assert (read.identity, read.roles, read.request_id) == ("Zoë", ("os:admin",), "1")
    assert read.time_unix > 0


def test_the_log_is_bounded_and_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "AUDIT_FILE_BYTES", 2000)
    log = AuditLog(tmp_path / "audit")
    for at in range(200):
        log.write(record(at))
    files = files_of(tmp_path / "audit")
    assert len(files) == paths.AUDIT_FILES + 1
    assert sum(path.stat().st_size for path in files) < (paths.AUDIT_FILES + 1) * 2300
    kept = ids(log.read())
    assert kept == [f"{at}" for at in range(200 - len(kept), 200)]
    assert ids(log.read(tail=3)) == ["197", "198", "199"]


def test_a_line_torn_by_a_power_cut_is_said_and_costs_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    log.write(record(1))
    log.write(record(2))
    (file,) = files_of(tmp_path / "audit")
    file.write_bytes(file.read_bytes()[:-20])
    again = AuditLog(tmp_path / "audit")
    assert [each.outcome for each in again.read()] == ["OK", UNREADABLE]
    again.write(record(3))
    first, torn, last = again.read()
    assert (first.request_id, torn.outcome, last.request_id) == ("1", UNREADABLE, "3")
    assert "no whole record" in torn.detail


def test_a_full_disk_keeps_records_in_memory_and_writes_them_later(tmp_path: Path) -> None:
    said: list[OSError | None] = []
    (tmp_path / "audit").write_text("a file where the directory should be")
    log = AuditLog(tmp_path / "audit", said.append)
    log.write(record(1))
    log.write(record(2))
    assert ids(log.read(tail=2)) == ["1", "2"]
    assert len(said) == 2 and all(said)
    (tmp_path / "audit").unlink()
    log.write(record(3))
    assert said[-1] is None
    assert ids(AuditLog(tmp_path / "audit").read()) == ["1", "2", "3"]


def test_followers_get_what_is_kept_then_what_comes(tmp_path: Path) -> None:
    async def body() -> None:
        log = AuditLog(tmp_path / "audit")
        log.write(record(1))
        log.write(record(2))
        following = log.follow(tail=1)
        assert ids(await anext(following)) == ["2"]
        log.write(record(3))
        assert ids(await anext(following)) == ["3"]
        for at in range(FOLLOWER_RECORDS_MAX + 5):
            log.write(record(at))
        with pytest.raises(FellBehindError):
            await anext(following)

    asyncio.run(body())
