"""What a RegistryConfig becomes for containerd: hosts.toml files and credentials, read back as TOML."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

from basalt.config.documents import RegistryAuth, RegistryAuthority, RegistryConfig, RegistryMirror
from machined import paths
from machined.containerd import containerd_toml
from machined.registries import RegistriesReconciler, certificate_name, plan

FILES = Path("/run/basalt/registries")


def hosts(config: RegistryConfig) -> dict[str, dict[str, Any]]:
    return {name: tomllib.loads(text) for name, text in plan(config, FILES).hosts.items()}


def ca(*pems: str) -> list[str]:
    return [str(FILES / ".authorities" / certificate_name(pem)) for pem in pems]


def test_mirrors_are_asked_in_order_and_the_registry_last() -> None:
    mirror = RegistryMirror(
        registry="docker.io", endpoints=("https://b.example/x", "http://a.example:5000", "https://b.example/x")
    )
    found = hosts(RegistryConfig(mirrors=(mirror,)))["docker.io"]
    assert list(found["host"]) == ["https://b.example/x", "http://a.example:5000"]
    assert all(host == {"capabilities": ["pull", "resolve"]} for host in found["host"].values())
    assert "server" not in found  # containerd then takes the registry itself


def test_without_fallback_the_last_mirror_is_the_end() -> None:
    mirror = RegistryMirror(
        registry="*", endpoints=("https://a.example", "https://b.example/v2/p"), fallback=False, override_path=True
    )
    found = hosts(RegistryConfig(mirrors=(mirror,)))["_default"]
    assert found["server"] == "https://b.example/v2/p"
    assert found["override_path"] is True
    assert found["capabilities"] == ["pull", "resolve"]
    assert found["host"] == {"https://a.example": {"capabilities": ["pull", "resolve"], "override_path": True}}


def test_authorities_stand_where_their_host_is_spoken_to() -> None:
    config = RegistryConfig(
        mirrors=(RegistryMirror(registry="*", endpoints=("https://m.example:5000",)),),
        authorities=(
            RegistryAuthority(host="m.example", certificate="M"),
            RegistryAuthority(host="r.example:444", certificate="R"),
            RegistryAuthority(host="*", certificate="ALL"),
        ),
    )
    found = hosts(config)
    assert found["_default"]["host"]["https://m.example:5000"]["ca"] == ca("M", "ALL")
    assert found["_default"]["ca"] == ca("ALL")
    # A directory of its own hides _default from containerd: the mirrors of "*" are in it too.
    assert list(found["r.example:444"]["host"]) == ["https://m.example:5000"]
    assert found["r.example:444"]["ca"] == ca("R", "ALL")
    assert set(plan(config, FILES).authorities.values()) == {"M", "R", "ALL"}


def test_a_file_without_a_mirror_still_has_the_table_that_containerd_demands() -> None:
    config = RegistryConfig(authorities=(RegistryAuthority(host="r.example", certificate="R"),))
    assert hosts(config)["r.example"] == {"ca": ca("R"), "host": {}}


def test_files_follow_the_configuration(tmp_path: Path) -> None:
    where = paths.Paths(str(tmp_path))
    config: RegistryConfig | None = RegistryConfig(
        mirrors=(RegistryMirror(registry="docker.io", endpoints=("https://a.example",)),),
        authorities=(RegistryAuthority(host="a.example", certificate="A"),),
    )
    reconciler = RegistriesReconciler(where, config=lambda: config)
    asyncio.run(reconciler.reconcile())
    text = (where.registries / "docker.io/hosts.toml").read_text()
    (named,) = tomllib.loads(text)["host"]["https://a.example"]["ca"]
    assert Path(named).read_text() == "A"
    (where.registries / "docker.io/hosts.toml").unlink()
    (where.registries / "stray.example").mkdir()
    asyncio.run(reconciler.reconcile())
    assert (where.registries / "docker.io/hosts.toml").read_text() == text
    assert not (where.registries / "stray.example").exists()
    config = None
    asyncio.run(reconciler.reconcile())
    assert [path.name for path in where.registries.iterdir()] == [".authorities"]
    assert not any((where.registries / ".authorities").iterdir())


def test_credentials_are_in_containerds_own_file_for_the_host_that_is_spoken_to() -> None:
    config = RegistryConfig(
        auth=(
            RegistryAuth(host="docker.io", username="me", password='p"\\\n\x7f'),
            RegistryAuth(host="r.example:5000", identity_token="t"),
        )
    )
    registry = tomllib.loads(containerd_toml(config))["plugins"]["io.containerd.grpc.v1.cri"]["registry"]
    assert registry["config_path"] == "/run/basalt/registries"
    login = {"auth": {"username": "me", "password": 'p"\\\n\x7f'}}
    assert registry["configs"] == {
        "docker.io": login,
        "registry-1.docker.io": login,
        "r.example:5000": {"auth": {"identitytoken": "t"}},
    }
    both = RegistryConfig(
        auth=(
            RegistryAuth(host="docker.io", username="me", password="a"),
            RegistryAuth(host="registry-1.docker.io", username="me", password="b"),
        )
    )
    configs = tomllib.loads(containerd_toml(both))["plugins"]["io.containerd.grpc.v1.cri"]["registry"]["configs"]
    assert [configs[host]["auth"]["password"] for host in ("docker.io", "registry-1.docker.io")] == ["a", "b"]
    assert "configs" not in tomllib.loads(containerd_toml(None))["plugins"]["io.containerd.grpc.v1.cri"]["registry"]
