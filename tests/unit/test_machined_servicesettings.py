"""ServiceConfig: limits, environment, and which deaths are news. s6 itself is on nodes only: a recording stand-in takes the orders."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from basalt.config.documents import Configuration, ServiceConfig
from machined import paths
from machined.launch import environment
from machined.reconcile import State
from machined.s6 import ServiceStatus, Supervisor
from machined.services import Service, find
from machined.servicesettings import ServiceKeeper, limits_of, same_limit, settings_of

DEATH = b"\0" * 14


class RecordingSupervisor(Supervisor):
    """Takes orders instead of s6."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.orders: list[str] = []
        self.wanted = False

    async def status(self, service: Service) -> ServiceStatus:
        return ServiceStatus(service.name, self.wanted, self.wanted, True, 1, 1, 0)

    async def start(self, name: str) -> None:
        self.orders.append("start")
        self.wanted = True

    async def stop(self, name: str, timeout_ms: int) -> None:
        self.orders.append("stop")
        self.wanted = False

    async def restart(self, name: str) -> None:
        self.orders.append("restart")


class Bench:
    """A keeper below a scratch directory."""

    def __init__(self, root: Path) -> None:
        self.where = paths.Paths(str(root))
        self.supervisor = RecordingSupervisor()
        self.configuration = Configuration()
        self.service = find("chronyd")
        (self.where.services / "chronyd/supervise").mkdir(parents=True)
        self.cgroup = self.where.cgroup_system / "chronyd"
        self.cgroup.mkdir(parents=True)
        (self.cgroup / "memory.max").write_text("max\n")
        (self.cgroup / "cpu.weight").write_text("100\n")
        self.keeper = self.again()

    def again(self) -> ServiceKeeper:
        return ServiceKeeper(self.where, self.supervisor, config=lambda: self.configuration)

    def keep(self, configuration: str = "", *, wanted: bool = True) -> list[str]:
        assert self.service is not None
        self.supervisor.orders.clear()
        asyncio.run(self.keeper.keep(self.service, wanted=wanted, configuration=configuration))
        return list(self.supervisor.orders)

    def die(self, times: int, ago_s: float = 0) -> None:
        tally = self.where.services / "chronyd/supervise/death_tally"
        tally.write_bytes((tally.read_bytes() if tally.exists() else b"") + DEATH * times)
        os.utime(tally, (time.time() - ago_s,) * 2)

    def look(self) -> tuple[State, str]:
        status = asyncio.run(self.keeper.reconcile())
        return status.state, status.reason


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def chronyd(**fields: object) -> Configuration:
    return Configuration(services=(ServiceConfig(name="chronyd", **fields),))  # type: ignore[arg-type]


def test_restarted_exactly_when_what_it_was_started_with_changes(bench: Bench) -> None:
    assert bench.keep("one") == ["start"]
    assert bench.keep("one") == []
    assert bench.keep("two") == ["restart"]
    bench.configuration = chronyd(environment={"HTTPS_PROXY": "http://p"})
    assert bench.keep("two") == ["restart"]
    bench.keeper = bench.again()  # machined was restarted: nothing is forgotten
    assert bench.keep("two") == []
    bench.configuration = chronyd(cpu_weight=7)
    assert bench.keep("two") == ["restart"]  # for the environment that is gone, not for the limit
    assert bench.keep("two", wanted=False) == ["stop"]
    assert bench.keep("two", wanted=False) == []
    assert bench.keep("two") == ["start"]


def test_the_environment_is_for_root_alone_and_reaches_the_launcher(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.configuration = chronyd(environment={"A_TOKEN": "hush"})
    bench.keep()
    path = bench.where.service_inputs / "chronyd.environment"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads(path.read_text()) == {"A_TOKEN": "hush"}
    assert "hush" not in (bench.where.service_inputs / "chronyd.started").read_text()
    monkeypatch.setattr(paths, "SERVICE_INPUTS", str(bench.where.service_inputs))
    assert environment("chronyd") == {"PATH": "/usr/bin:/usr/sbin", "LANG": "C.UTF-8", "HOME": "/", "A_TOKEN": "hush"}
    assert "A_TOKEN" not in environment("gateway")


def test_limits_are_written_where_they_differ_and_go_back_to_the_defaults(bench: Bench) -> None:
    bench.configuration = chronyd(memory_max="64MiB", cpu_weight=200)
    assert bench.look() == (State.CONVERGED, "")
    assert (bench.cgroup / "memory.max").read_text() == str(64 << 20)
    assert (bench.cgroup / "cpu.weight").read_text() == "200"
    bench.configuration = Configuration()
    bench.look()
    assert (bench.cgroup / "memory.max").read_text() == "max"
    assert (bench.cgroup / "cpu.weight").read_text() == "100"


def test_limits_of_nothing_are_the_kernels_defaults() -> None:
    assert limits_of(None) == {"memory.max": "max", "cpu.weight": "100"}
    assert settings_of(chronyd(enabled=False), "containerd") is None
    assert same_limit("69632", "70000") and not same_limit("65536", "70000") and same_limit("max", "max")


def test_a_death_is_told_and_then_forgotten(bench: Bench) -> None:
    assert bench.look() == (State.CONVERGED, "")
    bench.die(1)
    state, reason = bench.look()
    assert state is State.WAITING and "chronyd: it ended and was started again, 1 times" in reason
    bench.die(2)
    state, reason = bench.look()
    assert state is State.FAILED and "keeps ending: 3 times" in reason
    bench.keeper = bench.again()
    bench.die(0, ago_s=3600)
    assert bench.look()[0] is State.CONVERGED


def test_a_restart_of_our_own_is_no_news(bench: Bench) -> None:
    bench.keep("one")
    bench.keep("two")
    bench.die(1)
    assert bench.look()[0] is State.CONVERGED
    bench.die(1)
    assert bench.look()[0] is State.WAITING
