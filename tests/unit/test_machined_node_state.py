"""Identity, the authority for first contact, and the boot's small facts."""

from __future__ import annotations

import datetime
import json
import os
import struct
from pathlib import Path

import pytest
from cryptography import x509

from basalt import pki
from basalt.errors import BasaltError
from machined import identity
from machined.bootloader import LOADER_GUID, CountedEntry, booted_entry, loader_times, parse_entry, read_variable, rearm
from machined.console import Console
from machined.image import read_image, root_hash, slot_of
from machined.stages import Stages, read_init_times
from machined.storage import apply_last_known_time, save_time


class TestIdentity:
    def test_made_once_and_kept(self, tmp_path: Path) -> None:
        assert identity.load(tmp_path / "identity") is None
        made = identity.make(1_700_000_000)
        identity.keep(made, tmp_path / "identity")
        assert identity.load(tmp_path / "identity") == made
        assert oct((tmp_path / "identity/key.pem").stat().st_mode & 0o777) == oct(0o600)
        certificate = x509.load_pem_x509_certificate(made.certificate_pem)
        assert certificate.not_valid_before_utc == datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)
        assert certificate.not_valid_after_utc.year == 9999
        assert made.fingerprint == pki.fingerprint(pki.pem_to_der(made.certificate_pem))
        assert "PRIVATE" not in repr(made)
        assert made.node_id not in made.machine_id

    @pytest.mark.parametrize("missing", ["key.pem", "certificate.pem", "node-id"])
    def test_an_interrupted_making_begins_again_and_damage_is_said(self, tmp_path: Path, missing: str) -> None:
        identity.keep(identity.make(0), tmp_path)
        (tmp_path / missing).unlink()
        if missing == "node-id":  # written last: without it, the making never ended
            assert identity.load(tmp_path) is None
        else:
            with pytest.raises(BasaltError, match="damaged"):
                identity.load(tmp_path)

    @pytest.mark.parametrize("name", ["key.pem", "certificate.pem"])
    def test_damage_within_a_file_is_found_and_leaves_the_id(self, tmp_path: Path, name: str) -> None:
        made = identity.make(0)
        identity.keep(made, tmp_path)
        text = bytearray((tmp_path / name).read_bytes())
        text[60:160] = b"\0" * 100
        (tmp_path / name).write_bytes(text)
        with pytest.raises(BasaltError, match="damaged"):
            identity.load(tmp_path)
        assert identity.kept_id(tmp_path) == made.node_id
        assert identity.make(0, identity.kept_id(tmp_path)).node_id == made.node_id

    def test_a_damaged_id_is_not_gone_on_with(self, tmp_path: Path) -> None:
        assert identity.kept_id(tmp_path) == ""
        for damage in (b"\0" * 33, b"../../x", b"\xff", b""):
            (tmp_path / "node-id").write_bytes(damage)
            assert identity.kept_id(tmp_path) == ""
            with pytest.raises(BasaltError):
                identity.load(tmp_path)

    def test_a_certificate_that_is_none(self, tmp_path: Path) -> None:
        identity.keep(identity.make(0), tmp_path)
        (tmp_path / "certificate.pem").write_bytes(b"\0" * 200)
        with pytest.raises(BasaltError, match="damaged"):
            identity.load(tmp_path)


class TestBootCounting:
    @pytest.mark.parametrize(
        ("name", "entry"),
        [
            ("basalt_0.1.0+3-0.efi", CountedEntry("basalt_0.1.0", 3, 0)),
            ("basalt_0.1.0-rc.1+0-3.efi", CountedEntry("basalt_0.1.0-rc.1", 0, 3)),
            ("basalt_0.1.0.efi", None),
            ("other_0.1.0+3-0.efi", None),
            ("basalt_0.1.0+12-0.efi", None),
            ("basalt_0.1.0+3-0.efi.new", None),
        ],
    )
    def test_names(self, name: str, entry: CountedEntry | None) -> None:
        assert parse_entry(name) == entry
        if entry:
            assert entry.name == name
            assert len(entry.armed.name) == len(name)

    def test_rearming_touches_the_running_entry_alone(self, tmp_path: Path) -> None:
        folder = tmp_path / "EFI/Linux"
        folder.mkdir(parents=True)
        for name in ("basalt_0.1.0+2-1.efi", "basalt_0.2.0+0-3.efi", "basalt_0.1.0.efi", "readme"):
            (folder / name).write_text(name)
        assert rearm(tmp_path, "EFI/Linux/basalt_0.1.0+3-0.efi") == "basalt_0.1.0+3-0.efi"
        assert sorted(path.name for path in folder.iterdir()) == [
            "basalt_0.1.0+3-0.efi",
            "basalt_0.1.0.efi",
            "basalt_0.2.0+0-3.efi",
            "readme",
        ]
        assert (folder / "basalt_0.1.0+3-0.efi").read_text() == "basalt_0.1.0+2-1.efi"
        assert rearm(tmp_path, "EFI/Linux/basalt_0.1.0+2-1.efi") is None  # it has all its tries
        assert rearm(tmp_path, "EFI/Linux/basalt_0.1.0.efi") is None  # not counted

    def test_the_loaders_variables(self, tmp_path: Path) -> None:
        def variable(name: str, text: str) -> None:
            (tmp_path / f"{name}-{LOADER_GUID}").write_bytes(struct.pack("=I", 6) + (text + "\0").encode("utf-16-le"))

        assert loader_times(tmp_path) is None
        assert booted_entry(tmp_path) is None
        variable("LoaderTimeInitUSec", "2000000")
        variable("LoaderTimeExecUSec", "2500000")
        variable("LoaderBootCountPath", "\\EFI\\Linux\\basalt_0.1.0+2-1.efi")
        times = loader_times(tmp_path)
        assert times is not None
        assert (times.loader_started_usec, times.kernel_started_usec) == (2000000, 2500000)
        assert booted_entry(tmp_path) == "EFI/Linux/basalt_0.1.0+2-1.efi"
        variable("LoaderTimeInitUSec", "soon")
        assert loader_times(tmp_path) is None
        assert read_variable(tmp_path, "Nothing") is None


def test_console_lines_are_those_that_osbuild_reads(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_text("")
    console = Console(path)
    console.state_ready()
    console.version("0.1.0")
    console.fingerprint("SHA256:ab")
    console.address("eth0", "192.0.2.5/24")
    console.api_ready(50000, "configured")
    console.api_ready(50000, "locked")
    lines = path.read_text().splitlines()
    assert lines[:6] == [
        "basalt: state ready",
        "basalt: version 0.1.0",
        "basalt: fingerprint SHA256:ab",
        "basalt: address eth0 192.0.2.5/24",
        "basalt: api ready on :50000 mode=configured",
        "basalt: api ready on :50000 mode=locked",
    ]
    assert "--client-ca" in lines[6]
    Console(tmp_path / "nothing" / "here").state_ready()  # a node without a console is a node


def test_what_the_image_and_the_command_line_say(tmp_path: Path) -> None:
    path = tmp_path / "image.json"
    path.write_text(json.dumps({"version": "1.2.3", "profile": "minimal", "arch": "x86_64", "build_epoch": 5}))
    assert read_image(path).version == "1.2.3"
    assert read_image(tmp_path / "nothing").version == "unknown"
    digest = "ab" * 32
    line = (
        'root=/dev/dm-0 dm-mod.create="root,,0,ro,0 100 verity 1 PARTUUID=x PARTUUID=y 4096 4096 12 1 sha256 '
        f'{digest} 00ff 2 restart_on_corruption ignore_zero_blocks"'
    )
    assert root_hash(line) == digest
    assert root_hash("root=/dev/sda2") == ""
    assert [slot_of(label) for label in ("root-A", "root-B", "ESP", "")] == ["A", "B", "", ""]


def test_init_reads_the_same_image_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/init reads image.json by hand: it must agree with json on everything that osbuild writes there."""
    from machined import init, paths

    path = tmp_path / "image.json"
    monkeypatch.setattr(paths, "IMAGE_INFO", str(path))
    values = {"version": "0.1.0-rc.1+g1", "profile": "gpu-node", "build_epoch": 1700000000, "arch": "x86_64"}
    for indent in (None, 1):
        path.write_text(json.dumps(values, indent=indent) + "\n")
        assert init.image_info() == {name: str(value) for name, value in values.items()}


def test_stages_of_a_boot_survive_a_restart_and_are_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    stages = Stages(path)
    stages.record("init", 100, 250)
    stages.record("machined", 250, 900)
    again = Stages(path)
    again.record("machined", 5000, 9000)
    assert [(stage.name, stage.start_usec, stage.duration_usec) for stage in again.all] == [
        ("init", 100, 150),
        ("machined", 250, 650),
    ]
    path.write_text("garbage")
    assert Stages(path).all == ()
    (tmp_path / "times").write_text("5 9\n")
    assert read_init_times(tmp_path / "times") == (5, 9)
    assert read_init_times(tmp_path / "nothing") is None


def test_the_clock_never_goes_back_before_the_last_known_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    stamp = tmp_path / "clock"
    assert not apply_last_known_time(stamp)
    save_time(stamp)
    os.utime(stamp, (1000, 1000))
    assert not apply_last_known_time(stamp)
    set_to: list[float] = []
    monkeypatch.setattr(time, "clock_settime", lambda _, value: set_to.append(value))
    ahead = time.time() + 10_000
    os.utime(stamp, (ahead, ahead))
    assert apply_last_known_time(stamp)
    assert set_to == [pytest.approx(ahead)]
