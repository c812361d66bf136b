"""From kernel entry to the first process: Basalt's kernel and Debian's cloud kernel, by the same method on the same emulator.

Both are started by ``qemu -kernel`` from their bzImage with the same command line and the same disk: ext4 on NVMe, the one pair of disk
and file system that both have built in, so that neither needs an initramfs. The clock is the host's. It starts at the first line that
the kernel's own real-mode code writes to the serial port ("early console in setup code", before it decompresses itself), and stops at
the line that the first process writes. What firmware does before that, and loading the file, is not counted.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from basalt.errors import BasaltError
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Goal, median
from osbuild import paths
from osbuild.lock import apt, debian
from osbuild.lock.blobs import blob
from osbuild.sandbox import Bind, Sandbox
from osbuild.vm import definition
from osbuild.vm.definition import Machine

# "debug" has the real-mode code say that it runs; "quiet" after it silences the kernel itself again (the last one counts), so
# that the speed of an emulated serial port is not what is measured.
CMDLINE = "debug quiet earlyprintk=ttyS0 console=ttyS0,115200 root=/dev/nvme0n1 rootfstype=ext4 ro rootwait init=/init panic=-1"
ENTRY = b"early console in setup code"
FIRST_PROCESS = b"bench: first process"
CLOUD_KERNEL = "linux-image-cloud-amd64"
_DISK_MIB = 16
_TIMEOUT_S = 180
_SOURCE = paths.PROJECT / "benchmarks" / "first_process.c"


def measure(bench: Bench) -> Iterator[Figure]:
    """Turn by turn, so that whatever else the machine does meets both."""
    bench.note("fetching Debian's cloud kernel")
    work = bench.directory / "start"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    kernels = {"basalt": bench.output(bench.graph.kernel) / "bzImage"}
    release, kernels["debian"] = _cloud_kernel(bench, work)
    _make_disk(bench, work)
    accelerator = bench.choose_accelerator()
    command = qemu_command(definition.load("direct"), accelerator)
    sandboxes = {name: _sandbox(bench, work, kernel) for name, kernel in kernels.items()}
    samples: dict[str, list[float]] = {name: [] for name in kernels}
    for turn in range(bench.repeat + 2):
        bench.note(f"starting both kernels, turn {turn + 1}")
        for name, sandbox in sandboxes.items():
            samples[name].append(time_start(sandbox.command(command, cwd="/")))
    ours, theirs = median(samples["basalt"]), median(samples["debian"])
    how = f"host's clock from the kernel's first byte to the first process's line, median of {bench.repeat + 2}"
    yield Figure("kernel entry to first process", ours, "s", how)
    yield Figure("the same, Debian's cloud kernel", theirs, "s", f"{release}, same method")
    yield Figure("kernel start against Debian's", ours / theirs, "x", "quotient of the two", Goal(0.6))


def _cloud_kernel(bench: Bench, work: Path) -> tuple[str, Path]:
    """Release and file of the newest cloud kernel in the archive, verified by apt."""
    private = apt.PrivateApt(bench.store.cache / "apt", apt.find_mirrors())
    with private.locked():
        private.update()
        package = cloud_package(private.resolve([CLOUD_KERNEL], depends=True))
        described = private.describe(package)
    debian.fetch(bench.store.cache, described, private)
    for name, entry in described.items():
        archive = blob(bench.store.cache, entry.sha256)
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(work / name)], check=True, capture_output=True)
        for image in (work / name / "boot").glob("vmlinuz-*"):
            return image.name.removeprefix("vmlinuz-"), image
    raise BasaltError(f"{CLOUD_KERNEL} brings no kernel", why=f"looked in {', '.join(described)}")


def cloud_package(resolved: Mapping[str, str]) -> dict[str, str]:
    """The one package among those that the meta package needs which holds the kernel itself, with its version.

    :raises BasaltError: when there is none, or more than one.
    """
    found = {
        name: version
        for name, version in resolved.items()
        if name.startswith("linux-image-") and name != CLOUD_KERNEL and "cloud-amd64" in name
    }
    if len(found) != 1:
        raise BasaltError(f"{CLOUD_KERNEL} does not lead to one kernel", why=", ".join(found) or "to none")
    return found


def _make_disk(bench: Bench, work: Path) -> None:
    """An ext4 file system that holds the first process and nothing else."""
    root = work / "root"
    for name in ("", "dev"):
        (root / name).mkdir()
    log = work / "log"
    binds = (Bind(work, "/work", writable=True), Bind(_SOURCE, "/first_process.c"))
    compiler = Sandbox(bench.tree("kernel-tools"), binds)
    compiler.run(
        ["gcc", "-Os", "-Wall", "-Werror", "-static", "-s", "-o", "/work/root/init", "/first_process.c"], log=log
    )
    # The image's own mke2fs: no tree of tools has one.
    node = Sandbox(bench.output(bench.graph.root.inputs["part-debian"]) / "tree", binds)
    node.run(["mke2fs", "-q", "-t", "ext4", "-d", "/work/root", "/work/disk", f"{_DISK_MIB}M"], log=log)


def _sandbox(bench: Bench, work: Path, kernel: Path) -> Sandbox:
    binds = [Bind(kernel, "/kernel"), Bind(work / "disk", "/disk")]
    if bench.accelerator == "kvm":
        binds.append(Bind(Path("/dev/kvm"), "/dev/kvm", device=True))
    return Sandbox(bench.tree("vm-tools"), tuple(binds))


def qemu_command(machine: Machine, accelerator: str) -> list[str]:
    """The words of the QEMU command; the same for both kernels.

    :param machine: whose kind, processors and memory are taken.
    """
    kvm = accelerator == "kvm"
    command = ["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-machine", machine.machine]
    command += ["-accel", "kvm" if kvm else "tcg,thread=multi", "-cpu", "host" if kvm else "max"]
    command += [
        "-smp",
        str(machine.cpus),
        "-m",
        str(machine.memory_mib),
        "-no-reboot",
        "-serial",
        "stdio",
        "-kernel",
        "/kernel",
        "-append",
        CMDLINE,
    ]
    command += ["-blockdev", "driver=raw,node-name=disk0,read-only=on,file.driver=file,file.filename=/disk"]
    return [*command, "-device", "nvme,serial=bench,drive=disk0"]


def time_start(command: Sequence[str]) -> float:
    """Run *command* until its output says that the first process runs; seconds since the kernel's first line.

    :raises BasaltError: it ended before, or took too long; with the last of what it printed.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    try:
        entered, ended = _wait_for(process, (ENTRY, FIRST_PROCESS))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    return ended - entered


def _wait_for(process: subprocess.Popen[bytes], marks: Sequence[bytes]) -> list[float]:
    """When each of *marks* was first seen, in their order."""
    assert process.stdout is not None
    output = b""
    times: list[float] = []
    deadline = time.monotonic() + _TIMEOUT_S
    with process.stdout, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(times) < len(marks):
            ready = selector.select(deadline - time.monotonic())
            chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
            now = time.monotonic()
            if not chunk:
                reason = "it ended" if ready else f"it took longer than {_TIMEOUT_S} s"
                tail = output.decode(errors="replace")[-1500:]
                raise BasaltError(f"the console never showed '{marks[len(times)].decode()}'", why=f"{reason}\n{tail}")
            output += chunk
            while len(times) < len(marks) and marks[len(times)] in output:
                output = output.partition(marks[len(times)])[2]
                times.append(now)
    return times
