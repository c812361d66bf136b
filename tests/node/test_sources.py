"""A node's first configuration from every place it may come from, and what the node says where none can be used."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from basalt import contexts, pki
from osbuild.lock.model import load_debian
from osbuild.sandbox import Bind, Sandbox
from osbuild.steps.trees import tree_step
from osbuild.store import Store
from osbuild.vm import machines
from tests.conftest import command
from tests.node import iso
from tests.node.conftest import HERE, Boot, Node, until

pytestmark = pytest.mark.node

HOST = "apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: {}\n"
CARD = "52:54:00:12:34:56"  # QEMU's first


def outcomes(node: Node, of: str = "configuration") -> dict[str, tuple[str, str]]:
    """Source → what came of it, and why."""
    rows = node.ask("get", "provenance")[of]
    return {row["source"]: (row["outcome"], row.get("detail", "")) for row in rows}


def test_smbios_and_command_line(boot: Boot, tmp_path: Path) -> None:
    """The configuration in two OEM strings, the authority on the command line; a drive that comes later is not asked."""
    encoded = base64.b64encode(HOST.format("oem").encode()).decode()
    (tmp_path / "strings").write_text(f"basalt.config.1={encoded[:40]}\nbasalt.config.2={encoded[40:]}\n")
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/user-data").write_text(HOST.format("drive"))
    der = pki.pem_to_der(contexts.client_ca_pem(contexts.ensure_context()))
    node = boot(
        "--no-client-ca",
        "--oem-strings",
        tmp_path / "strings",
        "--config-drive",
        f"cidata={tmp_path}/seed",
        "--cmdline",
        f"basalt.client-ca={base64.b64encode(der).decode()} basalt.confg=typo",
    )
    contexts.add_node(node.name, node.endpoint, node.facts["fingerprint"], default=True)
    assert node.ask("status")["hostname"] == "oem"
    found = outcomes(node)
    assert found["SMBIOS"][0] == "used" and found["cidata"][0] == "not-asked"
    assert "did you mean basalt.config?" in found["kernel command line"][1]
    authority = outcomes(node, "authority")
    assert (authority["image"][0], authority["kernel command line"][0]) == ("none", "used")
    assert "first boot (SMBIOS)" in json.dumps(node.ask("config", "history"))


def test_image_comes_before_what_a_hypervisor_hands_over(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "baked.yaml").write_text(HOST.format("baked"))
    (tmp_path / "handed.yaml").write_text(HOST.format("handed"))
    node = boot("--config", tmp_path / "baked.yaml", "--fw-cfg", f"opt/basalt/config={tmp_path}/handed.yaml")
    assert node.ask("status")["hostname"] == "baked"
    found = outcomes(node)
    assert (found["image"][0], found["fw_cfg"][0]) == ("used", "not-asked")
    node.osctl("reboot", "--wait")
    found = outcomes(node)
    assert (found["STATE"][0], found["image"][0]) == ("used", "not-asked")
    assert "first boot (image)" in found["STATE"][1]


def test_config_2_with_network_data(boot: Boot, tmp_path: Path) -> None:
    """What OpenStack says of the machine becomes its configuration: DHCP, a VLAN with a static address, DNS, hostname."""
    latest = tmp_path / "drive/openstack/latest"
    latest.mkdir(parents=True)
    (latest / "meta_data.json").write_text(json.dumps({"hostname": "vm-7.novalocal", "uuid": "u"}))
    (latest / "network_data.json").write_text(
        json.dumps(
            {
                "links": [
                    {"id": "card", "type": "phy", "ethernet_mac_address": CARD, "mtu": None},
                    {"id": "tagged", "type": "vlan", "vlan_link": "card", "vlan_id": 5, "vlan_mac_address": CARD},
                ],
                "networks": [
                    {"id": "n0", "link": "card", "type": "ipv4_dhcp"},
                    {
                        "id": "n1",
                        "link": "tagged",
                        "type": "ipv4",
                        "ip_address": "192.0.2.5",
                        "netmask": "255.255.255.0",
                    },
                ],
                "services": [{"type": "dns", "address": "10.0.2.3"}],
            }
        )
    )
    node = boot("--config-drive", f"config-2={tmp_path}/drive")
    node.until_converged("network")
    status = node.ask("status")
    assert status["hostname"] == "vm-7"
    assert {"10.0.2.15/24", "192.0.2.5/24"} <= {address["address"] for address in status["addresses"]}
    links = {link["name"]: link for link in node.ask("get", "links")}
    assert links["eth0.5"]["vlan_id"] == 5 and links["eth0.5"]["parent"] == "eth0"
    assert outcomes(node)["config-2"][0] == "used"


def test_invalid_drive_stops_the_search_until_the_api_ends_it(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "cidata.iso").write_bytes(
        iso.image("cidata", {"user-data": HOST.replace("hostname", "hostnam").encode()})
    )
    latest = tmp_path / "drive/openstack/latest"
    latest.mkdir(parents=True)
    (latest / "user_data").write_text(HOST.format("other"))
    node = boot("--config-drive", f"cidata={tmp_path}/cidata.iso", "--config-drive", f"config-2={tmp_path}/drive")
    assert node.facts["mode"] == "first-contact"
    found = outcomes(node)
    assert found["cidata"][0] == "invalid" and "hostnam" in found["cidata"][1]
    assert found["config-2"][0] == "not-asked"
    said = node.concerns()["configuration"]
    assert said.state == "failed" and "user-data:3" in said.reason
    assert "hostnam" in node.console()
    node.configure(tmp_path)
    assert outcomes(node)["API"][0] == "used"
    assert node.ask("status")["hostname"] == "tested"


class Server:
    """An HTTP server that refuses until it is told to answer."""

    def __init__(self, documents: bytes) -> None:
        self.answers = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if outer.answers.is_set() else 503)
                self.end_headers()
                self.wfile.write(documents if outer.answers.is_set() else b"")

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(HOST.format("fetched").encode())
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_url_is_fetched_once_it_answers_and_not_again_after_state_is_lost(boot: Boot, server: Server) -> None:
    """Then STATE is destroyed and the power goes: first contact, with the reason, and not the configuration of years ago."""
    digest = hashlib.sha256(HOST.format("fetched").encode()).hexdigest()
    words = f"basalt.config=http://10.0.2.2:{server.http.server_port}/node.yaml basalt.config.sha256={digest}"
    node = boot("--cmdline", words, profile=HERE / "faulty.toml", machine=HERE / "faulty-machine.toml")
    assert node.facts["mode"] == "first-contact"
    assert outcomes(node)["kernel command line"][0] == "unreachable"
    server.answers.set()
    until(lambda: node.ask("status")["mode"] == "configured", node.concerns)
    assert node.ask("status")["hostname"] == "fetched"
    assert outcomes(node)["kernel command line"][0] == "used"

    mounts = (line.split() for line in node.fault(read="/proc/mounts")["text"].splitlines())
    device = next(fields[0] for fields in mounts if fields[1] == "/state")
    geometry = f"/sys/class/block/{Path(device).name}"
    start, size = (int(node.fault(read=f"{geometry}/{name}")["text"]) * 512 for name in ("start", "size"))
    command("osbuild", "stop", node.name, "--keep")
    _scribble(node, start, size)
    node.facts = json.loads(command("osbuild", "start", node.name, "-o", "json").stdout)
    assert node.facts["mode"] == "first-contact"
    state = node.concerns()["state"]
    assert state.state == "failed" and "not available" in state.reason
    found = outcomes(node)
    assert found["STATE"][0] == "invalid" and found["kernel command line"][0] == "not-asked"
    assert node.concerns()["configuration"].state == "failed"
    assert "basalt: configuration: " in node.console()
    read = node.fault(read=device)["text"]
    assert set(read) == {"\x01"}, "a STATE that cannot be read is never made anew"


def _scribble(node: Node, start: int, size: int) -> None:
    """Overwrite a part of a stopped machine's disk."""
    directory = machines.directory_of(node.name)
    tools = Store().path(tree_step(load_debian(), "vm-tools").key)
    sandbox = Sandbox(tools, (Bind(directory, "/vm", writable=True),))
    order = ["qemu-io", "-c", f"write -P 1 {start} {size}", "/vm/disk.qcow2"]
    sandbox.run(order, log=directory / "qemu-io.log", cwd="/vm")


def _set_clock(node: Node, base: str) -> None:
    """What the machine's hardware clock says at the next start; the record is all that ``osbuild start`` goes by."""
    record = machines.read(node.name)
    rest = [word for word in record.definition.arguments if not word.startswith("base=") and word != "-rtc"]
    arguments = [*rest, *(["-rtc", f"base={base}"] if base else [])]
    changed = msgspec.structs.replace(
        record, definition=msgspec.structs.replace(record.definition, arguments=arguments)
    )
    (machines.directory_of(node.name) / "vm.json").write_bytes(msgspec.json.encode(changed))


@pytest.fixture
def old_clock(tmp_path: Path) -> Path:
    """A machine whose clock stopped in 2010."""
    definition = (HERE / "../../qemu/direct.toml").resolve().read_text()
    (tmp_path / "old.toml").write_text(definition + 'arguments = ["-rtc", "base=2010-01-01"]\n')
    return tmp_path / "old.toml"


def test_clocks_of_2010_and_2040(boot: Boot, old_clock: Path, tmp_path: Path) -> None:
    """Behind: the node starts from its image's build time, and lets its operator in. Ahead: both sides say what is wrong."""
    (tmp_path / "node.yaml").write_text(HOST.format("handed"))
    node = boot("--fw-cfg", f"opt/basalt/config={tmp_path}/node.yaml", machine=old_clock)
    assert node.ask("status")["hostname"] == "handed"
    assert outcomes(node)["fw_cfg"][0] == "used"
    assert "clock was before the image's build time" in node.console()
    assert node.concerns()["clock"].state == "converged"

    command("osbuild", "stop", node.name, "--keep")
    _set_clock(node, "2040-01-01")
    refused = command("osbuild", "start", node.name, expect=3)
    assert "the clocks differ" in refused.stderr and "2040-01-01" in refused.stderr
    assert f"{pki.clock(pki.utc_now())[:4]}-" in refused.stderr
    assert "basalt: clock: the clock says 2040-01-01" in node.console()

    command("osbuild", "stop", node.name, "--keep")
    _set_clock(node, "")
    node.facts = json.loads(command("osbuild", "start", node.name, "-o", "json").stdout)
    assert node.concerns()["clock"].state == "converged", "a doubtful time was not noted as the last one known"
