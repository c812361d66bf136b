"""What a virtual machine is handed beside its disk: options read, files laid out, QEMU's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from basalt.errors import UsageError
from osbuild.commands import vm
from osbuild.sandbox import Sandbox
from osbuild.vm import definition, handover
from osbuild.vm.handover import Handover


def test_each_way_becomes_words_of_qemu_without_what_is_handed_over() -> None:
    handed = Handover({"opt/basalt/config": "fw-cfg-0"}, ("oem-string-0", "oem-string-1"), ("config-drive-0.img",))
    words = handed.arguments()
    assert words[:2] == ["-fw_cfg", "name=opt/basalt/config,file=/vm/fw-cfg-0"]
    assert words[2:4] == ["-smbios", "type=11,path=/vm/oem-string-0,path=/vm/oem-string-1"]
    assert "read-only=on" in words[5] and words[7] == "virtio-blk-pci,drive=config0"
    assert Handover().arguments() == []


def test_files_are_copied_so_that_the_machine_starts_again_without_them(tmp_path: Path) -> None:
    directory = tmp_path / "vm"
    directory.mkdir()
    (tmp_path / "node.yaml").write_text("documents")
    (tmp_path / "strings").write_text("basalt.config.1=YQ\n\n  basalt.config.2=Yg==\n")
    (tmp_path / "drive.iso").write_bytes(b"CD001")
    asked = handover.wanted(
        [f"opt/basalt/config={tmp_path}/node.yaml"], str(tmp_path / "strings"), [f"cidata={tmp_path}/drive.iso"]
    )
    handed = handover.prepare(asked, directory, None)
    assert (directory / handed.fw_cfg["opt/basalt/config"]).read_text() == "documents"
    assert [(directory / name).read_text() for name in handed.oem_strings] == [
        "basalt.config.1=YQ",
        "basalt.config.2=Yg==",
    ]
    assert (directory / handed.drives[0]).read_bytes() == b"CD001"


def test_directory_becomes_a_labelled_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Sequence[str]] = []
    monkeypatch.setattr(Sandbox, "run", lambda _self, argv, **_more: ran.append(argv))
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/user-data").touch()
    asked = handover.wanted([], None, [f"cidata={tmp_path}/seed"])
    handed = handover.prepare(asked, tmp_path, tmp_path / "tools")
    assert ran[0][:3] == ["mkfs.fat", "-n", "cidata"]
    assert ran[1][0] == "mcopy" and ran[1][-2:] == ["/in/user-data", "::"]
    assert (tmp_path / handed.drives[0]).stat().st_size == 8 * 2**20


@pytest.mark.parametrize(
    ("fw_cfg", "strings", "drives"),
    [
        (["opt/basalt/config"], None, []),
        (["etc/e820=/dev/null"], None, []),
        (["opt/basalt/config=/nowhere"], None, []),
        ([], "/nowhere", []),
        ([], None, ["a-label-too-long=/"]),
        ([], None, ["cidata=/nowhere"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(
    fw_cfg: list[str], strings: str | None, drives: list[str]
) -> None:
    with pytest.raises(UsageError):
        handover.wanted(fw_cfg, strings, drives)


def test_command_line_can_grow_only_where_qemu_loads_the_kernel() -> None:
    direct, uefi = definition.load("direct"), definition.load("uefi")
    assert vm._more_words("basalt.config=http://10.0.2.2/", direct) == " basalt.config=http://10.0.2.2/"
    assert vm._more_words("", uefi) == ""
    with pytest.raises(UsageError, match="without firmware"):
        vm._more_words("quiet", uefi)
