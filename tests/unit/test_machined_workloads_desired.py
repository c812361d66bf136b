"""What a WorkloadConfig means for the runtime: the digests that tell a change, and the CRI's messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from basalt import config
from basalt.config.documents import WorkloadConfig
from basalt.config.documents.workload import (
    Container,
    HealthCheck,
    Hugepages,
    PublishedPort,
    Resources,
    SecretMount,
    Security,
    TcpCheck,
    VolumeMount,
    WorkloadNetwork,
    WorkloadSecret,
    WorkloadVolume,
)
from machined.wire import cri_pb2 as cri
from machined.workloads import desired
from machined.workloads.desired import Places, container_digest, handler_of, sandbox_digest
from tests.unit.fake_containerd_world import HOST, IMAGE, one, workload

KEY = b"k" * 32
PLACES = Places(Path("/l/web"), Path("/v/web"), Path("/r/web/memory"), Path("/r/web/secrets"))
DISKS = Path("/m")

MAIN = one(
    mounts=(VolumeMount(volume="data", path="/data"), VolumeMount(volume="fast", path="/fast", read_only=True)),
    secrets=(SecretMount(secret="token", path="/run/token"),),
    env={"A": "1", "B": "2"},
)
WEB = workload(
    "web",
    MAIN,
    one("side"),
    network=WorkloadNetwork(ports=(PublishedPort(container=80),)),
    volumes=(
        WorkloadVolume(name="data"),
        WorkloadVolume(name="fast", medium="memory", size="1MiB"),
        WorkloadVolume(name="other", size="1GiB"),
    ),
    secrets=(WorkloadSecret(name="token", value="s3cr3t"), WorkloadSecret(name="unseen", value="x")),
)


def with_main(**fields: Any) -> WorkloadConfig:
    return structs.replace(WEB, containers=(structs.replace(MAIN, **fields), *WEB.containers[1:]))


def with_volume(name: str, **fields: Any) -> WorkloadConfig:
    volumes = [structs.replace(each, **fields) if each.name == name else each for each in WEB.volumes]
    return structs.replace(WEB, volumes=tuple(volumes))


def with_secret(name: str, value: str) -> WorkloadConfig:
    secrets = [structs.replace(each, value=value) if each.name == name else each for each in WEB.secrets]
    return structs.replace(WEB, secrets=tuple(secrets))


def digests(document: WorkloadConfig, key: bytes = KEY) -> tuple[str, ...]:
    """Of the sandbox and of each container."""
    return sandbox_digest(document, key), *(container_digest(document, each, key) for each in document.containers)


NOTHING, SANDBOX, FIRST, EVERYTHING = (0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)


class TestDigests:
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            (structs.replace(WEB, name="other"), SANDBOX),
            (structs.replace(WEB, network=HOST), SANDBOX),
            (structs.replace(WEB, network=WorkloadNetwork()), SANDBOX),
            (structs.replace(WEB, runtime="crun"), SANDBOX),
            (with_main(security=Security(privileged=True)), EVERYTHING),
            (with_volume("fast", size="2MiB"), EVERYTHING),  # a tmpfs is made once
            (with_volume("data", size="2MiB"), FIRST),
            (with_volume("data", owner="7"), FIRST),
            (with_volume("other", size="2GiB"), NOTHING),  # nobody mounts it
            (with_secret("token", "other"), FIRST),
            (with_secret("unseen", "other"), NOTHING),
            (with_main(image="docker.io/library/app:2"), FIRST),
            (with_main(command=("/bin/true",)), FIRST),
            (with_main(args=("x",)), FIRST),
            (with_main(working_dir="/srv"), FIRST),
            (with_main(env={"A": "1", "B": "3"}), FIRST),
            (with_main(mounts=MAIN.mounts[:1]), FIRST),
            (with_main(secrets=(SecretMount(secret="token", path="/run/token", mode="0440"),)), FIRST),
            (with_main(devices=("vendor.com/class=0",)), FIRST),
            (with_main(resources=Resources(memory="1GiB")), FIRST),
            (with_main(security=Security(user="7")), FIRST),
            (with_main(health=HealthCheck(tcp=TcpCheck(port=80))), NOTHING),
            (structs.replace(WEB, restart="never", start_order=1, stop_grace_s=99), NOTHING),
        ],
    )
    def test_a_change_concerns_what_it_is_about_and_nothing_else(
        self, changed: WorkloadConfig, expected: tuple[int, ...]
    ) -> None:
        differences = zip(digests(WEB), digests(changed), strict=True)
        assert tuple(int(before != after) for before, after in differences) == expected

    def test_a_container_that_comes_or_goes_concerns_no_other(self) -> None:
        more = structs.replace(WEB, containers=(*WEB.containers, one("third")))
        assert digests(more)[:3] == digests(WEB)

    def test_they_are_keyed_for_what_they_cover_may_be_a_short_secret(self) -> None:
        assert not set(digests(WEB)) & set(digests(WEB, b"o" * 32))
        assert digests(WEB) == digests(WEB, bytes(KEY))

    def test_what_is_left_out_is_what_is_said_as_it_would_be_without(self) -> None:
        head = "apiVersion: basalt.dev/v1alpha1\nkind: WorkloadConfig\nname: web\n"
        short = f"{head}containers: [{{name: main, image: app}}]\n"
        long = f"""{head}restart: always
startOrder: 100
stopGraceS: 10
runtime: runc
network: {{mode: bridge, ports: []}}
volumes: []
secrets: []
containers:
- name: main
  image: docker.io/library/app:latest
  command: []
  args: []
  env: {{}}
  mounts: []
  secrets: []
  devices: []
  resources: {{pids: 4096, hugepages: []}}
  security: {{readOnlyRoot: false, noNewPrivileges: true, seccomp: default, privileged: false}}
"""
        (left_out,), (said,) = (config.parse(text.encode(), "node.yaml").workloads for text in (short, long))
        assert digests(left_out) == digests(said)

    def test_the_order_of_variables_is_no_change(self) -> None:
        assert digests(with_main(env={"B": "2", "A": "1"})) == digests(WEB)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"network": HOST}, "runc"),
        ({"network": HOST, "runtime": "crun"}, "crun"),
        ({"network": WorkloadNetwork()}, "bridge-runc"),
        ({"network": WorkloadNetwork(), "runtime": "crun"}, "bridge-crun"),
    ],
)
def test_the_handler_decides_about_the_network_too(fields: dict[str, Any], expected: str) -> None:
    assert handler_of(workload(**fields)) == expected


def sandbox(document: WorkloadConfig) -> cri.PodSandboxConfig:
    return desired.sandbox_config(document, PLACES, boot="boot-1", key=KEY)


def made(container: Container, document: WorkloadConfig | None = None) -> cri.ContainerConfig:
    whole = document or workload("web", container)
    return desired.container_config(whole, container, PLACES, DISKS, attempt=3, failures=2, run=7, key=KEY)


class TestSandbox:
    def test_of_a_bridge(self) -> None:
        ports = (
            PublishedPort(container=80, host=8080),
            PublishedPort(container=53, protocol="udp", address="192.0.2.1"),
        )
        document = structs.replace(WEB, network=WorkloadNetwork(ports=ports))
        found = sandbox(document)
        assert (found.metadata.name, found.metadata.uid, found.metadata.namespace) == ("web", "basalt-web", "basalt")
        assert (found.hostname, found.log_directory) == ("web", "/l/web")
        assert list(found.port_mappings) == [
            cri.PortMapping(protocol=cri.TCP, container_port=80, host_port=8080),
            cri.PortMapping(protocol=cri.UDP, container_port=53, host_port=53, host_ip="192.0.2.1"),
        ]
        assert dict(found.labels) == {desired.WORKLOAD: "web"}
        assert dict(found.annotations) == {desired.SPEC: sandbox_digest(document, KEY), desired.BOOT: "boot-1"}
        assert found.linux.cgroup_parent == "/workloads/web"
        context = found.linux.security_context
        assert context.namespace_options == cri.NamespaceOption(network=cri.POD, pid=cri.CONTAINER, ipc=cri.POD)
        assert not context.privileged
        assert context.seccomp.profile_type == cri.SecurityProfile.RuntimeDefault

    def test_of_the_nodes_own_network(self) -> None:
        found = sandbox(structs.replace(WEB, network=HOST))
        assert found.hostname == ""  # the node's; the CRI refuses another
        assert found.linux.security_context.namespace_options.network == cri.NODE
        assert not found.port_mappings

    def test_it_is_privileged_when_a_container_is(self) -> None:
        document = workload("web", one(), one("deep", security=Security(privileged=True)))
        assert sandbox(document).linux.security_context.privileged


class TestContainer:
    def test_it_says_whose_it_is_and_what_machined_has_to_know_again(self) -> None:
        found = made(MAIN, WEB)
        assert (found.metadata.name, found.metadata.attempt, found.log_path) == ("main", 3, "main/7.log")
        assert dict(found.labels) == {desired.WORKLOAD: "web", desired.CONTAINER: "main"}
        assert dict(found.annotations) == {
            desired.SPEC: container_digest(WEB, MAIN, KEY),
            desired.FAILURES: "2",
            desired.RUN: "7",
        }
        assert [(each.container_path, each.host_path, each.readonly) for each in found.mounts] == [
            ("/data", "/v/web/data", False),
            ("/fast", "/r/web/memory/fast", True),
            ("/run/token", "/r/web/secrets/main/0", True),
        ]

    def test_a_volume_may_lie_on_a_further_disk(self) -> None:
        document = with_volume("data", disk="big")
        assert made(document.containers[0], document).mounts[0].host_path == "/m/big/workloads/web/data"

    def test_what_it_runs(self) -> None:
        found = made(
            one(command=("/bin/a", ""), args=("-x",), working_dir="/srv", env={"B": "2", "A": ""}, devices=("v.c/c=0",))
        )
        assert (found.image.image, list(found.command), list(found.args)) == (IMAGE, ["/bin/a", ""], ["-x"])
        assert found.working_dir == "/srv"
        assert [(each.key, each.value) for each in found.envs] == [("A", ""), ("B", "2")]
        assert [each.name for each in found.CDI_devices] == ["v.c/c=0"]
        plain = made(one())
        assert (list(plain.command), list(plain.args), plain.working_dir) == ([], [], "")

    @pytest.mark.parametrize(
        ("user", "number", "group", "name"),
        [
            (None, None, None, ""),
            ("1000", 1000, None, ""),
            ("0", 0, None, ""),
            ("1000:2000", 1000, 2000, ""),
            ("www", None, None, "www"),
            ("www:100", None, None, "www:100"),
            ("1000:staff", None, None, "1000:staff"),
        ],
    )
    def test_user(self, user: str | None, number: int | None, group: int | None, name: str) -> None:
        context = made(one(security=Security(user=user))).linux.security_context
        assert (context.run_as_user.value if context.HasField("run_as_user") else None) == number
        assert (context.run_as_group.value if context.HasField("run_as_group") else None) == group
        assert context.run_as_username == name

    def test_security_by_default(self) -> None:
        context = made(one()).linux.security_context
        assert context.no_new_privs and not context.privileged and not context.readonly_rootfs
        assert context.seccomp.profile_type == cri.SecurityProfile.RuntimeDefault
        assert {"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/scsi"} <= set(context.masked_paths)
        assert {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq"} <= set(context.readonly_paths)
        assert not set(context.masked_paths) & set(context.readonly_paths)
        assert not context.capabilities.add_capabilities and not context.capabilities.drop_capabilities

    def test_security_as_it_is_said(self) -> None:
        security = Security(
            add_capabilities=("NET_ADMIN",),
            drop_capabilities=("ALL",),
            read_only_root=True,
            no_new_privileges=False,
            seccomp="unconfined",
        )
        context = made(one(security=security)).linux.security_context
        # the CRI has them without CAP_
        assert list(context.capabilities.add_capabilities) == ["NET_ADMIN"]
        assert list(context.capabilities.drop_capabilities) == ["ALL"]
        assert context.readonly_rootfs and not context.no_new_privs
        assert context.seccomp.profile_type == cri.SecurityProfile.Unconfined

    def test_a_privileged_one_sees_everything(self) -> None:
        context = made(one(security=Security(privileged=True))).linux.security_context
        assert context.privileged
        assert not context.masked_paths and not context.readonly_paths
        assert not context.no_new_privs  # which would take away what setuid programs need

    def test_namespaces_are_those_of_its_sandbox(self) -> None:
        assert made(one()).linux.security_context.namespace_options.network == cri.NODE
        bridge = workload("web", one(), network=WorkloadNetwork())
        assert made(one(), bridge).linux.security_context.namespace_options.network == cri.POD

    def test_resources_without_a_word(self) -> None:
        resources = made(one()).linux.resources
        assert (resources.cpu_period, resources.cpu_quota, resources.memory_limit_in_bytes) == (0, 0, 0)
        assert dict(resources.unified) == {"pids.max": "4096", "memory.oom.group": "1"}
        assert not resources.hugepage_limits

    @pytest.mark.parametrize(
        ("cpu", "quota_usec"),
        [("1", 100_000), ("0.5", 50_000), ("0.29", 29_000), ("2.125", 212_500), ("64", 6_400_000)],
    )
    def test_processor_time(self, cpu: str, quota_usec: int) -> None:
        resources = made(one(resources=Resources(cpu=cpu))).linux.resources
        assert (resources.cpu_period, resources.cpu_quota) == (100_000, quota_usec)

    @pytest.mark.parametrize("cpu", ["0.001", "0.009"])
    def test_what_may_be_configured_of_processor_time_can_be_had(self, cpu: str) -> None:
        head = "apiVersion: basalt.dev/v1alpha1\nkind: WorkloadConfig\nname: web\n"
        text = f"{head}containers: [{{name: main, image: app, resources: {{cpu: '{cpu}'}}}}]\n"
        try:
            (document,) = config.parse(text.encode(), "node.yaml").workloads
        except config.ConfigError:
            return
        assert made(document.containers[0], document).linux.resources.cpu_quota >= 1000

    def test_other_resources(self) -> None:
        pages = (Hugepages(page="2MiB", limit="64MiB"), Hugepages(page="1GiB", limit="2GiB"))
        resources = made(
            one(resources=Resources(memory="512MiB", cpu_weight=7, pids=3, hugepages=pages))
        ).linux.resources
        assert resources.memory_limit_in_bytes == 512 << 20
        assert dict(resources.unified) == {"pids.max": "3", "memory.oom.group": "1", "cpu.weight": "7"}
        assert [(limit.page_size, limit.limit) for limit in resources.hugepage_limits] == [
            ("2MB", 64 << 20),
            ("1GB", 2 << 30),
        ]
