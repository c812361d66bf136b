"""What was built, read without booting it: nothing in the root that has no business there, and every promise of the formats kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import ssl
import struct
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from osbuild.lock.model import load_debian
from osbuild.sandbox import Bind, Sandbox
from osbuild.steps.disk import SECTOR_BYTES
from osbuild.steps.trees import tree_step
from osbuild.store import Store
from tests.conftest import BIN, PROJECT, answer

pytestmark = pytest.mark.image


@pytest.fixture(scope="session")
def files(minimal: dict[str, Any]) -> list[dict[str, Any]]:
    """The root's files, as ``osbuild inspect`` lists them."""
    return answer("osbuild", "inspect", minimal["artifacts"]["raw"])


@pytest.fixture(scope="session")
def tools() -> Path:
    """The tree of image tools, built for the image at hand."""
    return Store().path(tree_step(load_debian(), "image-tools").key)


@pytest.fixture(scope="session")
def root(minimal: dict[str, Any], tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system, unpacked from the image itself and not from what was put into it."""
    directory = tmp_path_factory.mktemp("root")
    run_tool(
        tools, directory, minimal, "fsck.erofs", "--extract=/work/tree", "--no-preserve", "--overwrite", "/image/root"
    )
    return directory / "tree"


def run_tool(tools: Path, work: Path, minimal: dict[str, Any], *argv: str) -> str:
    """Run one of the locked tools on the image's artifacts (/image/root, /image/verity, /image/raw)."""
    binds = [Bind(work, "/work", writable=True)]
    binds += [Bind(Path(path), f"/image/{kind}") for kind, path in minimal["artifacts"].items()]
    return Sandbox(tools, tuple(binds)).run(argv, log=work / "log")


def test_image_description_has_every_field(minimal: dict[str, Any]) -> None:
    assert minimal.keys() >= {"profile", "version", "root_hash", "artifacts", "sizes", "kernel", "steps", "seconds"}
    sizes = minimal["sizes"]
    assert sizes["total_bytes"] == sizes["root_bytes"] + sizes["verity_bytes"] + sizes["uki_bytes"]
    assert sizes["root_bytes"] == Path(minimal["artifacts"]["root"]).stat().st_size
    assert sizes["uki_bytes"] == Path(minimal["artifacts"]["uki"]).stat().st_size


def test_listing_names_every_file_with_its_origin_biggest_first(files: list[dict[str, Any]], root: Path) -> None:
    listed = {file["path"] for file in files}
    present = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()}
    assert listed == present
    assert all(file["origin"] for file in files)
    for file in files:
        path = root / file["path"]
        if file["target"]:
            assert str(path.readlink()) == file["target"]
        else:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"], file["path"]
    sizes = [file["size"] for file in files]
    assert sizes == sorted(sizes, reverse=True)


def test_no_shell_no_package_manager_no_setuid_no_documentation(root: Path) -> None:
    forbidden = {"sh", "bash", "dash", "busybox", "login", "sshd", "apt", "dpkg", "pip", "sudo", "su", "execlineb"}
    programs = {path.name for directory in ("usr/bin", "usr/sbin") for path in (root / directory).iterdir()}
    assert not programs & forbidden
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        assert not (root / name).exists()


def test_public_authorities_lie_where_programs_look(root: Path) -> None:
    bundle = (root / "etc/ssl/certs/ca-certificates.crt").read_bytes()
    context = ssl.create_default_context(cadata=bundle.decode())
    assert bundle.count(b"-----BEGIN CERTIFICATE-----") == len(context.get_ca_certs()) > 100
    assert not (root / "usr/share/ca-certificates").exists(), "once is enough"


def test_python_is_bytecode_that_no_clock_can_make_stale(root: Path) -> None:
    assert not list(root.rglob("*.py"))
    compiled = sorted(root.rglob("*.pyc"))
    assert len(compiled) > 400
    for path in compiled:
        (flags,) = struct.unpack("<I", path.read_bytes()[4:8])
        assert flags == 0b01, f"{path}: PEP 552 flags say it is checked against a source or a time"


def test_builders_and_operators_code_stays_out(root: Path) -> None:
    packages = root / "usr/lib/python3/dist-packages"
    assert (packages / "machined/init.pyc").exists()
    for name in ("osbuild", "osctl", "basalt/client", "basalt/contexts.pyc", "rich", "jinja2"):
        assert not (packages / name).exists()


_IMPORT_ALL = """
import importlib, pkgutil
import grpc.aio, cryptography.x509, msgspec, yaml, basalt, machined
for package in (basalt, machined):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


def test_every_program_starts(root: Path, tools: Path, tmp_path: Path) -> None:
    """Each ELF program finds its libraries inside the root, run there and nowhere else."""
    for name, arguments in {
        "containerd": ["--version"], "containerd-shim-runc-v2": ["-v"], "runc": ["--version"],
        "python3.13": ["-I", "-c", _IMPORT_ALL],
    }.items():  # fmt: skip
        directory = "usr/sbin" if name == "runc" else "usr/bin"
        Sandbox(root).run([f"/{directory}/{name}", *arguments], log=tmp_path / "log", cwd="/")
    for name in ("chronyd", "mke2fs", "sfdisk"):
        flag = "--version" if name != "mke2fs" else "-V"
        Sandbox(root).run([f"/usr/sbin/{name}", flag], log=tmp_path / "log", cwd="/")


def test_hash_tree_verifies_the_root(minimal: dict[str, Any], tools: Path, tmp_path: Path) -> None:
    run_tool(tools, tmp_path, minimal, "veritysetup", "verify", "/image/root", "/image/verity", minimal["root_hash"])


def test_one_flipped_bit_breaks_the_verification(minimal: dict[str, Any], tools: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "root"
    damaged.write_bytes(Path(minimal["artifacts"]["root"]).read_bytes())
    with damaged.open("r+b") as stream:
        stream.seek(damaged.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(Exception, match="veritysetup failed"):
        run_tool(tools, tmp_path, minimal, "veritysetup", "verify", "/work/root", "/image/verity", minimal["root_hash"])


def test_disk_follows_the_discoverable_partitions_specification(
    minimal: dict[str, Any], tools: Path, tmp_path: Path
) -> None:
    table = json.loads(run_tool(tools, tmp_path, minimal, "sfdisk", "--json", "/image/raw"))["partitiontable"]
    parts = {part["name"]: part for part in table["partitions"]}
    assert list(parts) == ["ESP", "root-A", "verity-A", "root-B", "verity-B"]
    assert parts["ESP"]["size"] * SECTOR_BYTES == 2**30
    root_hash = minimal["root_hash"]
    assert parts["root-A"]["uuid"].lower() == str(uuid.UUID(root_hash[:32]))
    assert parts["verity-A"]["uuid"].lower() == str(uuid.UUID(root_hash[-32:]))
    assert parts["root-A"]["size"] == parts["root-B"]["size"]
    raw = Path(minimal["artifacts"]["raw"])
    with raw.open("rb") as stream:
        stream.seek(parts["root-A"]["start"] * SECTOR_BYTES)
        assert stream.read(65536) == Path(minimal["artifacts"]["root"]).read_bytes()[:65536]
    assert raw.stat().st_blocks * 512 < 2 * minimal["sizes"]["total_bytes"], "the image is sparse"


def test_boot_entry_is_counted(minimal: dict[str, Any], tools: Path, tmp_path: Path) -> None:
    esp = "/image/raw@@1M"
    listed = run_tool(tools, tmp_path, minimal, "mdir", "-b", "-i", esp, "::EFI/Linux")
    assert f"basalt_{minimal['version']}+3-0.efi" in listed
    run_tool(
        tools,
        tmp_path,
        minimal,
        "mcopy",
        "-i",
        esp,
        f"::EFI/Linux/basalt_{minimal['version']}+3-0.efi",
        "/work/copied.efi",
    )
    assert (tmp_path / "copied.efi").read_bytes() == Path(minimal["artifacts"]["uki"]).read_bytes()


def test_root_hash_is_in_the_signed_command_line(minimal: dict[str, Any]) -> None:
    cmdline = Path(minimal["artifacts"]["cmdline"]).read_text().strip()
    assert minimal["root_hash"] in cmdline
    assert "init=/init" in cmdline and "panic=" in cmdline
    assert cmdline.encode() in Path(minimal["artifacts"]["uki"]).read_bytes()


def test_bill_of_materials_accounts_for_every_file(minimal: dict[str, Any], files: list[dict[str, Any]]) -> None:
    bill = json.loads(Path(minimal["artifacts"]["sbom"]).read_text())
    sums = {file["fileName"].removeprefix("./"): file["checksums"][0]["checksumValue"] for file in bill["files"]}
    assert sums == {file["path"]: file["sha256"] for file in files if not file["target"]}
    contained = {row["relatedSpdxElement"] for row in bill["relationships"] if row["relationshipType"] == "CONTAINS"}
    assert contained == {file["SPDXID"] for file in bill["files"]}


def test_no_secret_is_in_the_root(root: Path) -> None:
    for path in root.rglob("*"):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        # Programs and modules name the header that they look for; a key in a file begins a line with it.
        assert not re.search(rb"^-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{16}", content, re.MULTILINE), path


def test_nothing_changed_builds_nothing(minimal: dict[str, Any], tmp_path: Path) -> None:
    again = answer(
        "osbuild",
        "image",
        "--profile",
        "minimal",
        "--format",
        "raw,qcow2",
        "--output",
        Path(minimal["artifacts"]["raw"]).parent,
    )
    assert again["steps"]["built"] == 0
    assert again["root_hash"] == minimal["root_hash"]


def test_qcow2_holds_the_same_disk(minimal: dict[str, Any], tools: Path, tmp_path: Path) -> None:
    run_tool(tools, tmp_path, minimal, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", "/image/raw", "/image/qcow2")


def test_two_builds_from_nothing_give_the_same_bytes() -> None:
    """Every step but the kernel; ``osbuild verify --all`` takes the kernel too."""
    assert answer("osbuild", "verify", "--profile", "minimal")["identical"]


def test_kernel_meets_its_policy(minimal: dict[str, Any]) -> None:
    report = answer("osbuild", "kernel", "--profile", "minimal")
    assert report["verdict"]["ok"]
    assert report["builtin"] == minimal["kernel"]["builtin"]
    assert not report["verdict"]["stale"], "an exception that nobody needs is to be removed"


def test_interrupted_build_leaves_nothing_half_done(minimal: dict[str, Any], tmp_path: Path) -> None:
    """SIGINT in the middle of a step: no stray process, no workspace, and the next run goes on from the finished steps."""
    options = ["--profile", "minimal"]
    env = {
        "SOURCE_DATE_EPOCH": str(1_700_000_000 + os.getpid())
    }  # another time stamp everywhere: base and root must be made anew
    keys = {row["key"] for row in answer("osbuild", "plan", *options, env=env)}
    process = subprocess.Popen(
        [BIN / "osbuild", "--progress", "json", "image", *options, "--output", tmp_path / "out"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
        env=os.environ | env,
    )  # fmt: skip
    assert process.stderr
    seen = set()
    for line in process.stderr:
        event = json.loads(line)
        seen.add((event.get("step"), event["event"], event.get("text", "")))
        # base is long, and os short and made beside it.
        if ("base", "detail", "mkfs.erofs") in seen and any(step == "os" and kind == "done" for step, kind, _ in seen):
            process.send_signal(signal.SIGINT)
            break
    process.communicate()
    assert process.returncode == 130
    assert not [path for path in (Store().root / "work").iterdir() if path.name.partition(".")[0] in keys]
    assert not (tmp_path / "out").exists()
    # A sandbox's command line names the workspaces that it may write to.
    commands = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [key for key in keys if f"work/{key}" in commands]
    again = {row["step"]: row["state"] for row in answer("osbuild", "plan", *options, env=env)}
    assert (again["os"], again["base"]) == ("cached", "build"), "what had finished was kept, and the rest will be made"
