"""Virtual machines: what QEMU is started with, which process is whose, and what a node says on its console."""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from basalt.errors import BasaltError, ExitCode, UsageError
from osbuild.__main__ import main
from osbuild.commands import vm
from osbuild.commands.vm import Announced
from osbuild.progress import Progress
from osbuild.sandbox import Sandbox
from osbuild.vm import accel, definition, machines, qmp
from osbuild.vm.definition import Launch, Machine, qemu_command
from osbuild.vm.machines import Record

UEFI = Machine("uefi", firmware="ovmf", machine="q35", cpus=2, memory_mib=1024, disk_gib=8, devices=["i6300esb"])
DIRECT = msgspec.structs.replace(UEFI, firmware="none", devices=[], arguments=["-serial", "null"])
LAUNCH = Launch("n1", "tcg", "root=/dev/dm-0 quiet", client_ca=True)


# ---- the command line of QEMU


def option(command: Sequence[str], name: str) -> list[str]:
    """All values of an option."""
    return [value for word, value in itertools.pairwise(command) if word == name]


def test_firmware_boots_from_the_disk_with_variables_of_its_own() -> None:
    command = qemu_command(UEFI, LAUNCH)
    code, variables = option(command, "-drive")
    assert "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd" in code
    assert variables.endswith("file=/vm/firmware-variables.fd")
    assert "virtio-blk-pci,drive=disk0,bootindex=0" in option(command, "-device")
    assert not {"-kernel", "-append"} & set(command)


def test_without_firmware_qemu_loads_the_kernel_with_the_images_own_command_line() -> None:
    command = qemu_command(DIRECT, LAUNCH)
    assert option(command, "-kernel") == ["/image/vmlinux"]
    assert option(command, "-append") == [LAUNCH.cmdline]
    assert "-drive" not in command
    assert "virtio-blk-pci,drive=disk0" in option(command, "-device")


def test_ports_are_the_kernels_choice_so_that_machines_never_collide() -> None:
    (network,) = option(qemu_command(UEFI, LAUNCH), "-netdev")
    assert network == "user,id=net0,hostfwd=tcp:127.0.0.1:0-:50000"


def test_client_ca_is_handed_over_only_when_there_is_one() -> None:
    assert option(qemu_command(UEFI, LAUNCH), "-fw_cfg") == ["name=opt/basalt/client-ca,file=/vm/client-ca.pem"]
    assert "-fw_cfg" not in qemu_command(UEFI, Launch("n1", "tcg", "", client_ca=False))


@pytest.mark.parametrize(("chosen", "accelerator", "cpu"), [("kvm", "kvm", "host"), ("tcg", "tcg,thread=multi", "max")])
def test_accelerator_and_processor_go_together(chosen: str, accelerator: str, cpu: str) -> None:
    command = qemu_command(UEFI, Launch("n1", chosen, "", client_ca=False))
    assert (option(command, "-accel"), option(command, "-cpu")) == ([accelerator], [cpu])


def test_definition_adds_devices_and_words() -> None:
    assert "i6300esb" in option(qemu_command(UEFI, LAUNCH), "-device")
    assert qemu_command(DIRECT, LAUNCH)[-2:] == ["-serial", "null"]


def test_console_and_monitor_lie_in_the_machines_directory() -> None:
    command = qemu_command(UEFI, LAUNCH)
    assert option(command, "-chardev") == ["file,id=console0,path=/vm/console.log,append=on"]
    assert option(command, "-qmp") == ["unix:/vm/qmp.sock,server=on,wait=off"]


# ---- definitions


def test_definitions_of_the_project_are_valid() -> None:
    assert {"direct", "uefi"} <= set(definition.available())
    for name in definition.available():
        assert qemu_command(definition.load(name), LAUNCH)


def test_unknown_machine_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        definition.load("uefy")
    assert caught.value.remedy.startswith("Did you mean 'uefi'? Machines: direct, ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("description = ", "Invalid value"),
        ('description = "x"\ncpu = 2\n', "`cpu`"),
        ('description = "x"\nfirmware = "bios"\n', "bios"),
        ('description = "x"\n', "missing required field"),
    ],
)
def test_wrong_definition_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    for name in ("mine", str(tmp_path / "mine.toml")):
        with pytest.raises(UsageError, match=r"mine\.toml is wrong") as caught:
            definition.load(name, tmp_path)
        assert said in caught.value.why


# ---- machines and their processes


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "basalt" / "vm"


def record(name: str = "n1", *, pid: int = 1, started: int = 1, client_ca: bool = False) -> Record:
    return Record(
        name, "minimal", "uefi", UEFI, "tcg", "quiet", "/kernel", "/tools", client_ca, pid, started, "127.0.0.1:40000"
    )


def save(state: Path, saved: Record) -> Record:
    (state / saved.name).mkdir(parents=True, exist_ok=True)
    (state / saved.name / "vm.json").write_bytes(msgspec.json.encode(saved))
    return saved


@pytest.mark.parametrize("name", ["n1", "n", "node-1", "a" * 32, "0"])
def test_names_of_machines(state: Path, name: str) -> None:
    assert machines.directory_of(name) == state / name


@pytest.mark.parametrize("name", ["", "N1", "-n", "n-", "a" * 33, "a/b", "..", "n 1", "n1\n", "nöde"])
def test_what_is_no_name_of_a_machine(state: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a machine"):
        machines.directory_of(name)


def test_running_process_is_known_by_pid_and_start(state: Path) -> None:
    ours = os.getpid()
    began = machines._start_time(ours)
    assert machines.alive(record(pid=ours, started=began))
    assert not machines.alive(record(pid=ours, started=began - 1)), "the pid was reused"
    assert not machines.alive(record(pid=ours, started=0))


def test_dead_process_is_not_alive_reaped_or_not(state: Path) -> None:
    process = subprocess.Popen(["sleep", "30"])
    known = record(pid=process.pid, started=machines._start_time(process.pid))
    assert machines.alive(known)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert not machines.alive(known)
    process.wait()
    assert not machines.alive(known)


def test_machines_are_listed_and_unknown_ones_name_those_that_are(state: Path) -> None:
    assert machines.records() == []
    with pytest.raises(UsageError, match="there is no virtual machine 'n1'") as caught:
        machines.read("n1")
    assert caught.value.remedy == "Machines: none"
    save(state, record("n2"))
    save(state, record("n1"))
    (state / "failed-start").mkdir()
    assert [each.name for each in machines.records()] == ["n1", "n2"]
    with pytest.raises(UsageError) as caught:
        machines.read("n3")
    assert caught.value.remedy == "Machines: n1, n2"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw image and a tools tree; qemu-img is not run."""
    (tmp_path / "tools/usr/share/OVMF").mkdir(parents=True)
    (tmp_path / "tools/usr/share/OVMF/OVMF_VARS_4M.fd").write_text("variables")
    (tmp_path / "disk.raw").write_bytes(b"x" * 4096)
    monkeypatch.setattr(Sandbox, "run", lambda *args, **more: "")
    return tmp_path / "disk.raw"


def test_new_machine_has_its_own_variables_and_a_disk_that_garbage_collection_cannot_take(
    state: Path, image: Path
) -> None:
    target = machines.create("n1", image, image.parent / "tools", UEFI, b"PEM")
    assert (target / "firmware-variables.fd").read_text() == "variables"
    assert (target / "client-ca.pem").read_bytes() == b"PEM"
    assert target.stat().st_mode & 0o777 == 0o700
    image.unlink()
    assert (target / "base.raw").read_bytes() == b"x" * 4096


def test_image_on_another_file_system_is_copied(state: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    target = machines.create("n1", image, image.parent / "tools", DIRECT, None)
    assert (target / "base.raw").read_bytes() == image.read_bytes()
    assert not (target / "client-ca.pem").exists()


def test_machine_that_exists_is_not_overwritten_and_a_failed_start_is(state: Path, image: Path) -> None:
    (state / "n1").mkdir(parents=True)
    (state / "n1" / "leftover").touch()
    target = machines.create("n1", image, image.parent / "tools", DIRECT, None)
    assert not (target / "leftover").exists()
    save(state, record())
    with pytest.raises(UsageError, match="'n1' exists, stopped already") as caught:
        machines.create("n1", image, image.parent / "tools", DIRECT, None)
    assert "osbuild stop n1" in caught.value.remedy


def pretend(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Run *script* where QEMU would be run."""
    monkeypatch.setattr(Sandbox, "command", lambda self, argv, **more: ["bash", "-c", script])


def start(state: Path) -> Record:
    (state / "n1").mkdir(parents=True)
    return machines.launch("n1", "minimal", "uefi", UEFI, LAUNCH, tools=Path("/tools"), kernel=Path("/kernel"))


def test_qemu_that_dies_at_start_is_quoted(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "echo 'qemu: unknown device virtio-gpu9' >&2; exit 1")
    with pytest.raises(BasaltError) as caught:
        start(state)
    assert caught.value.what == "QEMU ended at its start"
    assert caught.value.why == "qemu: unknown device virtio-gpu9"
    assert machines.records() == []


def test_started_machine_is_recorded_with_its_process_and_port(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, f"cd {state}/n1; echo $$ > qemu.pid; touch qmp.sock; exec sleep 30")
    monkeypatch.setattr(qmp, "forwarded_port", lambda socket, port: 40123)
    started = start(state)
    assert machines.read("n1") == started
    assert started.endpoint == "127.0.0.1:40123"
    assert machines.alive(started)
    machines.power_off(started)
    assert not machines.alive(started)
    machines.power_off(started)  # is not there any more, and that is fine


def test_start_that_is_interrupted_leaves_no_process(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_socket: Path, _port: int) -> int:
        raise KeyboardInterrupt

    (state / "n1").mkdir(parents=True)
    os.mkfifo(state / "n1" / "held")
    reader = os.open(state / "n1" / "held", os.O_RDONLY | os.O_NONBLOCK)
    # As bubblewrap does: QEMU is a child of the process that was started.
    pretend(monkeypatch, f"cd {state}/n1; exec 3>held; sleep 30 & touch qmp.sock; wait")
    monkeypatch.setattr(qmp, "forwarded_port", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machines.launch("n1", "minimal", "uefi", UEFI, LAUNCH, tools=Path("/tools"), kernel=Path("/kernel"))
    hung_up = select.poll()
    hung_up.register(reader, 0)
    assert hung_up.poll(20_000) == [(reader, select.POLLHUP)], "a process is left"
    os.close(reader)
    assert machines.records() == []


def test_running_machine_is_not_started_twice(state: Path) -> None:
    save(state, record(pid=os.getpid(), started=machines._start_time(os.getpid())))
    with pytest.raises(UsageError, match="runs already"):
        machines.restart("n1")


def test_machine_whose_qemu_was_collected_says_so_and_keeps_its_disk(state: Path) -> None:
    save(state, record())
    (state / "n1" / "disk.qcow2").touch()
    with pytest.raises(BasaltError) as caught:
        machines.restart("n1")
    assert caught.value.why == "its QEMU was collected from the store: /tools"
    assert (state / "n1" / "disk.qcow2").exists()


# ---- QMP


def converse(connection: socket.socket, answers: Mapping[str, object]) -> None:
    """QEMU's side of a monitor (QMP specification): a greeting, then an answer to each object; line breaks do not count."""
    version = {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}
    connection.sendall(json.dumps({"QMP": {"version": version, "capabilities": []}}).encode() + b"\r\n")
    text = ""
    while received := connection.recv(4096):
        text = (text + received.decode()).lstrip()
        try:
            asked, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            continue
        text = text[end:]
        said = answers.get(asked["execute"])
        answer = {"return": said} if said is not None else {"error": {"class": "GenericError", "desc": "no such thing"}}
        answer |= {"id": asked["id"]} if "id" in asked else {}
        connection.sendall(json.dumps(answer).encode() + b"\r\n")


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """A QEMU that answers each command from a table, at the end of a path longer than sun_path (unix(7))."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    answers: dict[str, object] = {"qmp_capabilities": {}}
    handle = os.open(directory, os.O_RDONLY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{handle}/qmp.sock")
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                converse(connection, answers)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield directory / "qmp.sock", answers
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)
    os.close(handle)


USERNET = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  12       127.0.0.1 40555       10.0.2.15 50001     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15 50000     0     0
"""


def test_port_that_the_kernel_chose_is_asked_of_qemu(monitor: tuple[Path, dict[str, object]]) -> None:
    path, answers = monitor
    answers["human-monitor-command"] = USERNET
    assert qmp.forwarded_port(path, 50000) == 40123
    with pytest.raises(BasaltError, match="forwards no port to 22"):
        qmp.forwarded_port(path, 22)


def test_refusal_of_qemu_is_an_error_in_words(monitor: tuple[Path, dict[str, object]]) -> None:
    with pytest.raises(BasaltError, match="'eject': no such thing"):
        qmp.execute(monitor[0], "eject")


def test_nobody_behind_the_socket_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match="QEMU does not answer 'quit'"):
        qmp.execute(tmp_path / "qmp.sock", "quit")


# ---- accelerators


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A host with /dev/kvm; the list tells what each probe finds, last first."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accel, "_KVM", tmp_path / "kvm")
    outcomes: list[bool] = []
    monkeypatch.setattr(accel, "probe", lambda tools, kernel: outcomes.pop())
    return outcomes


@pytest.mark.parametrize(("works", "chosen"), [(True, "kvm"), (False, "tcg")])
def test_kvm_is_used_where_it_runs_a_kernel_and_the_answer_is_kept(
    kvm: list[bool], tmp_path: Path, works: bool, chosen: str
) -> None:
    kvm.append(works)
    cache = tmp_path / "cache"
    cache.mkdir()
    for _ in range(2):
        assert accel.choose(Path("/tools/aa"), Path("/kernels/bb"), cache) == chosen
    kvm.append(not works)
    assert accel.choose(Path("/tools/aa"), Path("/kernels/cc"), cache) != chosen, "another kernel is another question"
    assert len(list(cache.glob("kvm-*"))) == 1


def test_without_kvm_machines_are_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path / "missing")
    assert accel.choose(Path("/tools/aa"), Path("/kernels/bb"), tmp_path) == "tcg"


@pytest.mark.parametrize(
    ("script", "works"),
    [
        ("echo 'VFS: Unable to mount root fs on unknown-block(0,0)'", True),
        ("echo 'KVM internal error. Suberror: 1'; echo 'emulation failure'; exit 1", False),
        ("exec sleep 30", False),
    ],
)
def test_probe_believes_only_a_kernel_that_got_as_far_as_its_root(
    monkeypatch: pytest.MonkeyPatch, script: str, works: bool
) -> None:
    pretend(monkeypatch, script)
    monkeypatch.setattr(accel, "_PROBE_TIMEOUT_S", 30 if works else 0.5)
    assert accel.probe(Path("/tools"), Path("/kernel")) is works


# ---- the console

ANNOUNCEMENTS: Sequence[tuple[str, Mapping[str, object]]] = (
    ("basalt: api ready on :50000 mode=first-contact", {"mode": "first-contact"}),
    ("[    7.123456] basalt: api ready on :50000 mode=configured", {"mode": "configured"}),
    ("basalt: fingerprint SHA256:00ff", {"fingerprint": "SHA256:00ff"}),
    ("basalt: version 0.1.0", {"version": "0.1.0"}),
    ("basalt: address eth0 10.0.2.15/24", {"addresses": ["eth0 10.0.2.15/24"]}),
    ("basalt: init 0.1.0 minimal", {}),
    ("basalt: fingerprint", {}),
    ("basalt: ", {}),
    ("api ready on :50000 mode=configured", {}),
    ("", {}),
)


@pytest.mark.parametrize(("line", "known"), ANNOUNCEMENTS)
def test_console_lines_are_understood(line: str, known: Mapping[str, object]) -> None:
    announced = Announced()
    announced.take(line)
    assert announced == Announced(**known)


def test_console_is_read_in_whole_lines_as_they_come(state: Path) -> None:
    ours = record(pid=os.getpid(), started=machines._start_time(os.getpid()))
    console = save(state, ours) and state / "n1" / "console.log"
    console.write_bytes(b"old\none\ntw")
    stopped = threading.Event()
    lines = machines.console_lines(ours, 4, stopped.is_set)
    assert next(lines) == b"one"
    with console.open("ab") as stream:
        stream.write(b"o\nlast words")
    assert next(lines) == b"two"
    stopped.set()
    assert list(lines) == [b"last words"]


def test_console_of_a_machine_that_ended_is_read_to_its_end(state: Path) -> None:
    save(state, record())
    (state / "n1" / "console.log").write_bytes(b"one\nKernel panic")
    assert list(machines.console_lines(record(), 0, lambda: False)) == [b"one", b"Kernel panic"]


def test_node_that_announces_its_api_is_ready(state: Path) -> None:
    save(state, record())
    (state / "n1" / "console.log").write_text(
        "\x1b[2J\x1b[01;01Hbasalt: init 0.1.0 minimal\r\nbasalt: api ready on :50000 mode=locked\r\nbasalt: fingerprint SHA256:aa\r\nmore\n"
    )
    result = vm._until_ready(record(), 0, 60, Progress(), quiet=True)
    assert (result["mode"], result["fingerprint"], result["endpoint"]) == ("locked", "SHA256:aa", "127.0.0.1:40000")
    assert "refuses everyone" in vm._as_text(result)


def test_node_that_does_not_come_up_shows_the_end_of_its_console(state: Path) -> None:
    save(state, record())
    (state / "n1" / "console.log").write_text("".join(f"line {number}\n" for number in range(100)) + "Kernel panic\n")
    with pytest.raises(BasaltError) as caught:
        vm._until_ready(record(), 0, 60, Progress(), quiet=True)
    assert "'n1' did not come up" in caught.value.what
    assert caught.value.why.splitlines()[0] == "it ended"
    assert caught.value.why.splitlines()[-1] == "Kernel panic"
    assert "line 85" not in caught.value.why
    assert "osbuild console n1" in caught.value.remedy


def test_ctrl_c_while_waiting_for_a_node_ends_its_machine_and_keeps_its_console(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(["sleep", "30"])
    running = save(state, record(pid=process.pid, started=machines._start_time(process.pid)))
    (state / "n1" / "console.log").write_text("basalt: init 0.1.0 minimal\n")

    def interrupted(*_args: object) -> Iterator[bytes]:
        raise KeyboardInterrupt

    monkeypatch.setattr(machines, "restart", lambda name: running)
    monkeypatch.setattr(machines, "console_lines", interrupted)
    assert main(["start", "n1", "--progress", "none"]) == ExitCode.INTERRUPTED
    assert not machines.alive(running)
    assert (state / "n1" / "console.log").exists()
    process.wait()


def test_node_that_stays_silent_is_given_up(state: Path) -> None:
    ours = save(state, record(pid=os.getpid(), started=machines._start_time(os.getpid())))
    (state / "n1" / "console.log").write_text("basalt: init 0.1.0 minimal\n")
    with pytest.raises(BasaltError) as caught:
        vm._until_ready(ours, 0, 0, Progress(), quiet=True)
    assert caught.value.why.startswith("no answer within 0 s")
