"""Where a first configuration and an authority may lie, and which of them counts."""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from basalt import pki
from basalt.config.documents import NetworkConfig
from basalt.errors import BasaltError
from basalt.roles import Role
from machined.configuration import ConfigurationOwner, Requester
from machined.generations import GenerationStore
from machined.paths import Paths
from machined.reconcile import State, Status
from machined.sources import authority, cloud, drives, fetch, finder, readers
from machined.sources.authority import Authority
from machined.sources.drives import Volume
from machined.sources.first import FirstConfiguration
from machined.sources.model import (
    API,
    CIDATA,
    CMDLINE,
    CONFIG_2,
    FW_CFG,
    IMAGE,
    NOTHING,
    SMBIOS,
    STATE,
    Damaged,
    Documents,
    FetchError,
    Material,
    Outcome,
    Remote,
    Report,
)

HOST = b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: %s\n"
SHA256 = "ab" * 32


@pytest.fixture(scope="module")
def ca() -> pki.Identity:
    return pki.make_ca("operators", datetime.timedelta(days=1))


@pytest.fixture
def node(tmp_path: Path) -> Paths:
    node = Paths(str(tmp_path))
    for directory in (node.state, node.image_config.parent, node.fw_cfg_config.parent, node.fw_cfg_client_ca.parent):
        directory.mkdir(parents=True, exist_ok=True)
    node.proc.mkdir()
    (node.proc / "cmdline").write_text("root=/dev/dm-0 quiet\n")
    return node


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


class TestCommandLine:
    def test_words_of_others_are_left_alone(self) -> None:
        assert readers.of_cmdline("root=/dev/dm-0 quiet basalt=1") == NOTHING

    def test_a_url_with_its_pin(self, ca: pki.Identity) -> None:
        words = f"basalt.config=http://10.0.2.2/n.yaml basalt.config.sha256={SHA256.upper()}"
        assert readers.of_cmdline(words).configuration == Remote("http://10.0.2.2/n.yaml", SHA256)
        words = f"basalt.config=https://c.example/ basalt.config.ca={base64_of(ca.certificate_der)}"
        found = readers.of_cmdline(words).configuration
        assert found == Remote("https://c.example/", "", ca.certificate_pem.decode())

    def test_the_last_of_two_counts_as_with_the_kernels_own_words(self) -> None:
        found = readers.of_cmdline("basalt.config=https://a.example basalt.config=https://b.example").configuration
        assert found == Remote("https://b.example")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("basalt.config=http://10.0.2.2/n.yaml", "plain http needs basalt.config.sha256"),
            ("basalt.config=ftp://10.0.2.2/n.yaml", "takes a URL with https://"),
            ("basalt.config=https://[broken/", "without a host"),
            ("basalt.config=https://host:99999/", "without a host"),
            ("basalt.config=https:///n.yaml", "without a host"),
            (f"basalt.config.sha256={SHA256}", "stands without basalt.config=URL"),
            ("basalt.config=https://c.example basalt.config.sha256=abc", "64 hexadecimal digits"),
            ("basalt.config=https://c.example basalt.config.ca=https://ca.example", "base64 of its DER"),
        ],
    )
    def test_what_nothing_vouches_for_is_not_fetched(self, words: str, said: str) -> None:
        found = readers.of_cmdline(words).configuration
        assert isinstance(found, Damaged) and said in found.problem

    def test_a_word_that_nobody_knows_is_told_with_the_one_that_was_meant(self) -> None:
        assert "did you mean basalt.config?" in readers.of_cmdline("basalt.confg=https://c.example").note

    def test_an_authority_is_the_base64_of_its_der(self, ca: pki.Identity) -> None:
        found = readers.of_cmdline(f"basalt.client-ca={base64_of(ca.certificate_der)}").authority
        assert found == ca.certificate_pem
        assert isinstance(readers.of_cmdline("basalt.client-ca=https://ca.example/ca.pem").authority, Damaged)


class TestSmbios:
    def test_strings_of_a_structure(self) -> None:
        structure = bytes([11, 5, 0, 1, 2]) + b"first=1\0second\0\0"
        assert readers.oem_strings(structure) == ("first=1", "second")
        assert readers.oem_strings(bytes([1, 5, 0, 1, 2]) + b"first\0\0") == ()
        assert readers.oem_strings(b"") == ()

    def test_whole_and_in_pieces(self) -> None:
        encoded = base64_of(HOST % b"n1")
        whole = readers.of_oem_strings([f"basalt.config={encoded}", "vendor string"])
        pieces = readers.of_oem_strings([f"basalt.config.2={encoded[20:]}", f"basalt.config.1={encoded[:20]}"])
        assert whole == pieces == Material(Documents(HOST % b"n1", "SMBIOS basalt.config"))

    @pytest.mark.parametrize(
        ("strings", "said"),
        [
            (["basalt.config.1=YQ==", "basalt.config.3=YQ=="], "number 2 is missing"),
            (["basalt.config=YQ==", "basalt.config.1=YQ=="], "whole and in pieces"),
            (["basalt.config=YQ==", "basalt.config=Yg=="], "stands twice"),
            (["basalt.config=apiVersion: v1"], "not the base64"),
        ],
    )
    def test_what_does_not_fit_together_is_not_guessed_at(self, strings: list[str], said: str) -> None:
        found = readers.of_oem_strings(strings).configuration
        assert isinstance(found, Damaged) and said in found.problem

    def test_read_from_the_kernels_tables(self, node: Paths, ca: pki.Identity) -> None:
        for number, text in ((0, b"vendor"), (1, b"basalt.client-ca=" + base64.b64encode(ca.certificate_der))):
            entry = node.dmi_entries / f"11-{number}"
            entry.mkdir(parents=True)
            (entry / "raw").write_bytes(bytes([11, 5, 0, 1, 1]) + text + b"\0\0")
        assert readers.read_smbios(node) == Material(authority=ca.certificate_pem)


class TestFiles:
    def test_image_and_fw_cfg(self, node: Paths) -> None:
        assert readers.read_image(node) == readers.read_fw_cfg(node) == NOTHING
        node.fw_cfg_config.write_bytes(b"documents")
        assert readers.read_fw_cfg(node).configuration == Documents(b"documents", "fw_cfg opt/basalt/config")

    def test_what_is_too_large_is_not_read_to_its_end(self, node: Paths) -> None:
        node.image_config.write_bytes(b"#" * (1024 * 1024 + 1))
        found = readers.read_image(node).configuration
        assert isinstance(found, Damaged) and "larger than" in found.problem


class TestDrives:
    @pytest.mark.parametrize(
        ("volumes", "expected"),
        [
            ([], None),
            ([Volume("vdb", "vdb", "CIDATA", "vfat")], "vdb"),
            ([Volume("sr0", "sr0", "cidata", "iso9660")], "sr0"),
            ([Volume("vdb1", "vdb", "cidata ", "vfat")], "vdb1"),
            ([Volume("vdb", "vdb", "cidata", "ext4")], None),
            ([Volume("vdb", "vdb", "cidata2", "vfat")], None),
            ([Volume("sda", "sda", "cidata", "iso9660"), Volume("sda1", "sda", "cidata", "iso9660")], "sda"),
            ([Volume("vdb", "vdb", "cidata", "vfat"), Volume("vdc", "vdc", "cidata", "vfat")], Damaged),
        ],
    )
    def test_one_drive_with_exactly_that_label(self, volumes: list[Volume], expected: Any) -> None:
        found = drives.pick(CIDATA, volumes)
        if expected is Damaged:
            assert isinstance(found, Damaged) and "vdb, vdc" in found.problem
        else:
            assert (found.device if isinstance(found, Volume) else found) == expected

    def test_the_disk_booted_from_is_never_looked_at(self, tmp_path: Path) -> None:
        for path, partition in (
            ("vda", ""),
            ("vda/vda1", "1"),
            ("vdb", ""),
            ("vdb/vdb1", "1"),
            ("dm-0", ""),
            ("sr0", ""),
        ):
            place = tmp_path / "devices" / path
            place.mkdir(parents=True)
            (place / "size").write_text("0\n" if path == "sr0" else "2048\n")
            if partition:
                (place / "partition").write_text(partition)
        (tmp_path / "class/block").mkdir(parents=True)
        for path in ("vda", "vda/vda1", "vdb", "vdb/vdb1", "dm-0", "sr0"):
            (tmp_path / "class/block" / Path(path).name).symlink_to(tmp_path / "devices" / path)
        assert drives.candidates(tmp_path, "vda") == (("vdb", "vdb"), ("vdb1", "vdb"))

    def test_files_are_plain_and_bounded(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("key")
        (tmp_path / "user-data").write_text("documents")
        assert drives.read_files(tmp_path, ("user-data", "meta-data", "a/b")) == {"user-data": b"documents"}
        (tmp_path / "meta-data").symlink_to("secret")
        with pytest.raises(OSError, match="meta-data"):
            drives.read_files(tmp_path, ("meta-data",))
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(BasaltError, match="no plain file"):
            drives.read_files(tmp_path, ("fifo",))

    def test_what_blkid_says(self) -> None:
        said = drives.parse_blkid("DEVNAME=/dev/vdb\nLABEL=CIDATA\nTYPE=vfat\n\n")
        assert (said["LABEL"], said["TYPE"]) == ("CIDATA", "vfat")


class TestClouds:
    def test_cidata(self, ca: pki.Identity) -> None:
        files = {
            cloud.USER_DATA: HOST % b"n1",
            cloud.META_DATA: b"instance-id: i-1\nlocal-hostname: edge-7.example.org\n",
            cloud.CLIENT_CA: ca.certificate_pem,
        }
        found = cloud.material(CIDATA, files, {})
        assert found.configuration == Documents(HOST % b"n1", "cidata user-data", "edge-7")
        assert found.authority == ca.certificate_pem

    @pytest.mark.parametrize("files", [{}, {"user-data": b" \n"}, {"meta-data": b"local-hostname: n1\n"}])
    def test_drive_without_documents_holds_no_configuration(self, files: Mapping[str, bytes]) -> None:
        found = cloud.material(CIDATA, files, {})
        assert found.configuration is None and "no user-data" in found.note

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"user-data": b"#cloud-config\nusers: []\n"}, "for cloud-init"),
            ({"user-data": b"#!/bin/sh\n"}, "for cloud-init"),
            ({"user-data": HOST % b"n1", "meta-data": b"local-hostname: [\n"}, "meta-data"),
        ],
    )
    def test_what_is_not_for_this_node_is_told(self, files: Mapping[str, bytes], said: str) -> None:
        found = cloud.material(CIDATA, files, {}).configuration
        assert isinstance(found, Damaged) and said in found.problem

    def test_config_2_brings_network_and_hostname(self) -> None:
        files = {
            cloud.OS_META_DATA: b'{"hostname": "vm-1.novalocal", "uuid": "u"}',
            cloud.OS_NETWORK_DATA: b'{"links": [{"id": "a", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:01"}],'
            b' "networks": [{"link": "a", "type": "ipv4_dhcp"}], "services": []}',
        }
        found = cloud.material(CONFIG_2, files, {}).configuration
        assert isinstance(found, Documents)
        assert (found.data, found.hostname) == (b"", "vm-1")
        assert isinstance(found.network, NetworkConfig) and found.network.links[0].dhcp4

    def test_broken_network_data_is_told(self) -> None:
        found = cloud.material(CONFIG_2, {cloud.OS_NETWORK_DATA: b"{"}, {}).configuration
        assert isinstance(found, Damaged) and "network_data.json" in found.problem


class TestAuthority:
    def test_none_anywhere(self) -> None:
        found = authority.choose({IMAGE: NOTHING, FW_CFG: NOTHING})
        assert (found.pem, found.source) == (b"", "")
        assert found.reasons == "STATE: none; image: none; fw_cfg: none"

    def test_the_first_source_wins_and_the_others_are_not_asked(self, ca: pki.Identity) -> None:
        found = authority.choose(
            {IMAGE: NOTHING, CMDLINE: Material(authority=ca.certificate_pem), FW_CFG: Material(authority=b"other")},
            (CIDATA,),
        )
        assert (found.source, found.pem) == (CMDLINE, ca.certificate_pem)
        assert [report.outcome for report in found.reports] == [
            Outcome.NONE,
            Outcome.NONE,
            Outcome.USED,
            Outcome.NOT_ASKED,
            Outcome.NOT_ASKED,
        ]

    def test_a_source_that_holds_nonsense_is_passed_over(self, ca: pki.Identity) -> None:
        client = pki.issue_client(ca, "ada", [Role.ADMIN], datetime.timedelta(days=1))
        found = authority.choose(
            {
                IMAGE: Material(authority=b"nonsense"),
                CMDLINE: Material(authority=client.certificate_pem),
                FW_CFG: Material(authority=ca.certificate_pem),
            }
        )
        assert found.source == FW_CFG
        assert [report.outcome for report in found.reports[1:3]] == [Outcome.INVALID, Outcome.INVALID]

    def test_pinned_once_and_for_all(self, node: Paths, ca: pki.Identity) -> None:
        assert authority.pinned(node) is None
        authority.pin(node, ca.certificate_pem)
        found = authority.pinned(node)
        assert found and (found.source, found.pem) == (STATE, ca.certificate_pem)

    @pytest.mark.parametrize("damage", [b"", b"nonsense"])
    def test_a_damaged_pin_locks_the_node(self, node: Paths, ca: pki.Identity, damage: bytes) -> None:
        """Whoever can damage STATE must not be able to choose the authority by it."""
        authority.pin(node, ca.certificate_pem)
        (node.trust / authority.PINNED_NAME).write_bytes(damage)
        found = authority.pinned(node)
        assert found and (found.pem, found.damaged) == (b"", True)


class TestChoice:
    DOCUMENTS = Material(Documents(b"x", "x"))
    BROKEN = Material(Damaged("broken"))

    @pytest.mark.parametrize(
        ("found", "source"),
        [
            ({}, None),
            ({IMAGE: NOTHING, FW_CFG: NOTHING}, None),
            ({IMAGE: NOTHING, FW_CFG: DOCUMENTS, SMBIOS: DOCUMENTS}, FW_CFG),
            ({IMAGE: NOTHING, FW_CFG: BROKEN, SMBIOS: DOCUMENTS}, FW_CFG),
        ],
    )
    def test_the_first_that_has_something_usable_or_not(
        self, found: Mapping[str, Material], source: str | None
    ) -> None:
        choice = finder.choose(found)
        assert (choice.source if choice else None) == source

    def test_every_source_is_reported_in_order(self) -> None:
        winner = Report(FW_CFG, Outcome.INVALID, "broken")
        reports = finder.tell({CMDLINE: Material(note="odd word")}, winner, "it is empty")
        assert [report.source for report in reports] == list(finder.ORDER)
        assert [report.outcome.value for report in reports] == [
            "none", "none", "none", "invalid", "not-asked", "not-asked", "not-asked", "not-asked",
        ]  # fmt: skip
        assert reports[2].detail == "odd word"
        by_api = finder.replaced_by_api(reports, "generation 1")
        assert by_api[-1] == Report(API, Outcome.USED, "generation 1") and by_api[:-1] == reports[:-1]


class World:
    """The search in a scratch directory, with what it said."""

    def __init__(self, node: Paths) -> None:
        self.posts: list[Status] = []
        self.said: list[str] = []
        self.found: list[Authority] = []
        self.pinned = 0
        self.owner = ConfigurationOwner(
            GenerationStore(node.configurations),
            on_change=lambda _: self.first.configured(f"generation {self.owner.number}"),
        )
        self.first = FirstConfiguration(
            node,
            self.owner,
            boot_disk=lambda: "vda",
            post=self.posts.append,
            say=self.said.append,
            authority_found=self.found.append,
        )

    def outcomes(self) -> dict[str, str]:
        return {report.source: report.outcome.value for report in self.first.reports}


def play(node: Paths, scenario: Callable[[World], Awaitable[None]]) -> World:
    async def body() -> World:
        world = World(node)
        await scenario(world)
        return world

    return asyncio.run(body())


async def begin(world: World) -> None:
    await world.first.find_authority()
    world.owner.load()
    await world.first.begin("")


class TestFirstConfiguration:
    def test_image_wins_over_fw_cfg_and_becomes_generation_one(self, node: Paths) -> None:
        node.image_config.write_bytes(HOST % b"baked")
        node.fw_cfg_config.write_bytes(HOST % b"handed")
        world = play(node, begin)
        assert world.owner.number == 1 and world.owner.current.machine
        assert world.owner.current.machine.hostname == "baked"
        assert world.owner.show().generation.applied_by == "first boot (image)"
        assert (world.outcomes()[IMAGE], world.outcomes()[FW_CFG], world.outcomes()[API]) == (
            "used",
            "not-asked",
            "not-asked",
        )
        again = play(node, begin)
        assert (again.owner.number, again.outcomes()[STATE], again.outcomes()[IMAGE]) == (1, "used", "not-asked")

    def test_invalid_source_stops_the_search_and_says_why(self, node: Paths) -> None:
        node.image_config.write_bytes(b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostnam: n1\n")
        node.fw_cfg_config.write_bytes(HOST % b"handed")
        world = play(node, begin)
        assert not world.owner.configured
        assert (world.outcomes()[IMAGE], world.outcomes()[FW_CFG]) == ("invalid", "not-asked")
        assert world.posts[-1].state is State.FAILED and "hostnam" in world.posts[-1].reason
        assert any("hostnam" in line for line in world.said), "the console is all that an operator without an API has"

    def test_state_that_cannot_be_used_is_not_answered_by_an_old_configuration(self, node: Paths) -> None:
        node.image_config.write_bytes(HOST % b"baked")

        async def scenario(world: World) -> None:
            await world.first.find_authority()
            await world.first.begin("STATE is not available: bad magic")

        world = play(node, scenario)
        assert not world.owner.configured
        assert (world.outcomes()[STATE], world.outcomes()[IMAGE]) == ("invalid", "not-asked")
        assert "bad magic" in world.posts[-1].reason

    def test_api_ends_the_search_for_an_url(self, node: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
        """An apply while the URL is being fetched: what was fetched afterwards does not replace it."""
        (node.proc / "cmdline").write_text(f"basalt.config=http://10.0.2.2/ basalt.config.sha256={SHA256}")
        fetching = asyncio.Event()

        async def scenario(world: World) -> None:
            loop = asyncio.get_running_loop()

            def slow(_: Remote) -> bytes:
                loop.call_soon_threadsafe(fetching.set)
                asyncio.run_coroutine_threadsafe(applied.wait(), loop).result()
                return HOST % b"fetched"

            applied = asyncio.Event()
            monkeypatch.setattr(fetch, "fetch", slow)
            monkeypatch.setattr("machined.sources.first.FETCH_FIRST_S", 0.001)
            await begin(world)
            search = asyncio.ensure_future(world.first.run())
            await fetching.wait()
            await world.owner.apply(HOST % b"by-hand", "node.yaml", Requester("ada"))
            applied.set()
            await search

        world = play(node, scenario)
        assert world.owner.number == 1 and world.owner.current.machine
        assert world.owner.current.machine.hostname == "by-hand"
        assert (world.outcomes()[API], world.outcomes()[CMDLINE]) == ("used", "unreachable")

    def test_unreachable_url_is_tried_again_until_it_answers(
        self, node: Paths, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (node.proc / "cmdline").write_text(f"basalt.config=http://10.0.2.2/ basalt.config.sha256={SHA256}")
        answers: list[bytes | FetchError] = [FetchError("no route"), FetchError("no route"), HOST % b"fetched"]

        def answer(_: Remote) -> bytes:
            result = answers.pop(0)
            if isinstance(result, FetchError):
                raise result
            return result

        async def scenario(world: World) -> None:
            monkeypatch.setattr(fetch, "fetch", answer)
            monkeypatch.setattr("machined.sources.first.FETCH_FIRST_S", 0.001)
            await begin(world)
            await world.first.run()

        world = play(node, scenario)
        assert not answers and world.outcomes()[CMDLINE] == "used"
        assert any("no route" in status.reason and status.state is State.WAITING for status in world.posts)

    def test_drive_that_is_plugged_in_later_is_found(
        self, node: Paths, monkeypatch: pytest.MonkeyPatch, ca: pki.Identity
    ) -> None:
        looks = [{}, {}, {CIDATA: Material(Documents(HOST % b"stick", "cidata user-data"), ca.certificate_pem)}]

        async def read_drives(*_: object) -> Mapping[str, Material]:
            return looks.pop(0)

        async def scenario(world: World) -> None:
            monkeypatch.setattr(drives, "read_drives", read_drives)
            monkeypatch.setattr("machined.sources.first.DRIVES_AGAIN_S", 0.001)
            await begin(world)
            assert world.posts[-1].state is State.WAITING
            await world.first.run()

        world = play(node, scenario)
        assert world.owner.configured and world.outcomes()[CIDATA] == "used"
        assert [found.source for found in world.found] == [CIDATA], "the node is no longer locked"


class TestHostname:
    def test_of_the_cloud_fills_what_the_documents_leave_out(self) -> None:
        from machined.sources.compose import configuration_of

        def name(data: bytes, hostname: str) -> str:
            machine = configuration_of(Documents(data, "user-data", hostname)).machine
            return machine.hostname if machine else ""

        without = b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nlabels: {a: b}\n"
        other = b"apiVersion: basalt.dev/v1alpha1\nkind: TimeConfig\n"
        assert name(without, "cloud") == name(other, "cloud") == name(b"", "cloud") == "cloud"
        assert name(HOST % b"own", "cloud") == "own"
        assert name(other, "") == ""

    def test_wrong_one_is_a_problem_like_any_other(self) -> None:
        from basalt.config import ConfigError
        from machined.sources.compose import configuration_of

        for data in (b"", b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\n"):
            with pytest.raises(ConfigError, match="hostname"):
                configuration_of(Documents(data, "user-data", "My Server"))
