"""The JSON Schema says nothing stricter than the parser, of every kind."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from config_strategies import CONFIGURATIONS
from hypothesis import given, settings

from basalt import config
from basalt.config.documents import KINDS, Configuration
from basalt.docs_examples import EXAMPLES

SCHEMA = config.json_schema()
ANNOTATIONS = {"title", "description", "default", "examples", "writeOnly", "format", "$schema", "$defs"}
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def complaints(value: Any, schema: dict[str, Any], path: str = "$") -> list[str]:
    """What a validator of JSON Schema 2020-12 says; the keywords that the schema uses, and no others."""
    found = []
    for keyword, wanted in schema.items():
        match keyword:
            case "$ref":
                found += complaints(value, SCHEMA["$defs"][wanted.rpartition("/")[2]], path)
            case "oneOf":
                fitting = [each for each in wanted if not complaints(value, each, path)]
                found += [f"{path}: {len(fitting)} alternatives fit"] if len(fitting) != 1 else []
            case "type":
                kinds = [wanted] if isinstance(wanted, str) else wanted
                if not any(
                    isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds
                ):
                    found.append(f"{path}: {value!r} is no {wanted}")
            case "enum":
                found += [f"{path}: {value!r} is none of {wanted}"] if value not in wanted else []
            case "pattern" if isinstance(value, str):
                found += [f"{path}: {value!r} does not match {wanted}"] if re.search(wanted, value) is None else []
            case "minimum" | "maximum" if isinstance(value, int):
                bad = value < wanted if keyword == "minimum" else value > wanted
                found += [f"{path}: {value} against {keyword} {wanted}"] if bad else []
            case "maxLength" | "minLength" if isinstance(value, str):
                bad = len(value) < wanted if keyword == "minLength" else len(value) > wanted
                found += [f"{path}: length {len(value)}"] if bad else []
            case "minItems" | "maxItems" if isinstance(value, list):
                bad = len(value) < wanted if keyword == "minItems" else len(value) > wanted
                found += [f"{path}: {len(value)} items"] if bad else []
            case "items" if isinstance(value, list):
                found += [each for at, item in enumerate(value) for each in complaints(item, wanted, f"{path}[{at}]")]
            case "required" if isinstance(value, dict):
                found += [f"{path}: {name} is missing" for name in wanted if name not in value]
            case "properties" if isinstance(value, dict):
                for name, described in wanted.items():
                    found += complaints(value[name], described, f"{path}.{name}") if name in value else []
            case "propertyNames" if isinstance(value, dict):
                found += [each for name in value for each in complaints(name, wanted, f"{path}.{name}")]
            case "additionalProperties" if isinstance(value, dict):
                others = [name for name in value if name not in schema.get("properties", {})]
                if wanted is False:
                    found += [f"{path}: {name} is unknown" for name in others]
                else:
                    found += [each for name in others for each in complaints(value[name], wanted, f"{path}.{name}")]
            case "pattern" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems" | "items":
                pass  # says nothing about a value of another type
            case "required" | "properties" | "propertyNames" | "additionalProperties":
                pass
            case _:
                assert keyword in ANNOTATIONS, f"{keyword} means nothing to a validator"
    return found


def check(text: bytes) -> None:
    for document in yaml.safe_load_all(text):
        assert complaints(document, SCHEMA) == []


@pytest.mark.parametrize("kind", KINDS)
def test_example_fits_the_schema(kind: str) -> None:
    check(EXAMPLES[kind].encode())


@settings(max_examples=60)
@given(configuration=CONFIGURATIONS)
def test_whatever_the_parser_takes_fits_the_schema(configuration: Configuration) -> None:
    check(config.render(configuration))
    check(config.render(config.redact(configuration, b"key")))


@pytest.mark.parametrize("kind", KINDS)
def test_schema_tells_kinds_and_unknown_fields_apart(kind: str) -> None:
    document = yaml.safe_load(EXAMPLES[kind])
    assert complaints({**document, "unknown": 1}, SCHEMA)
    other = next(name for name in KINDS if name != kind)
    assert complaints({**document, "kind": other}, SCHEMA)
    for name in ("apiVersion", "kind"):
        without = copy.deepcopy(document)
        del without[name]
        assert complaints(without, SCHEMA)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("MachineConfig", "watchdog", {"timeoutS": 1}),
        ("MachineConfig", "sysctls", {"nodots": "1"}),
        ("NetworkConfig", "links", [{"name": "a/b"}]),
        ("NetworkConfig", "links", [{"name": "a", "mtu": None}]),
        ("NetworkConfig", "dns", {"servers": ["1.1.1.1"] * 4}),
        ("AccessConfig", "clientAuthorities", []),
        ("VolumeConfig", "existingData", "keep"),
        ("FirewallConfig", "rules", [{"name": "a", "ports": ["http"]}]),
        ("ServiceConfig", "enabled", "yes"),
        ("WorkloadConfig", "containers", []),
        ("WorkloadConfig", "containers", [{"name": "a"}]),
        ("WorkloadConfig", "containers", [{"name": "a", "image": "a b"}]),
        ("WorkloadConfig", "containers", [{"name": "a", "image": "b", "workingDir": "srv"}]),
        ("WorkloadConfig", "containers", [{"name": "a", "image": "b", "env": {"A": True}}]),
        ("WorkloadConfig", "containers", [{"name": "a", "image": "b", "devices": ["gpu"]}]),
        ("WorkloadConfig", "containers", [{"name": "a", "image": "b", "health": {"exec": []}}]),
        ("WorkloadConfig", "containers", [{"name": "a", "image": "b", "resources": {"cpu": "500m"}}]),
        ("WorkloadConfig", "network", {"mode": "nat"}),
        ("WorkloadConfig", "secrets", [{"name": "a", "value": ""}]),
    ],
)
def test_editor_is_told_of_a_mistake(kind: str, field: str, value: Any) -> None:
    assert complaints({**yaml.safe_load(EXAMPLES[kind]), field: value}, SCHEMA)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("MachineConfig", "labels: {version: 1.5}"),
        ("FirewallConfig", "rules: [{name: a, ports: [443]}]"),
        (
            "WorkloadConfig",
            "containers: [{name: a, image: b, args: [1, 0.5], env: {A: 1}, resources: {cpu: 0.5, memory: 8000000}}]",
        ),
        ("WorkloadConfig", "containers: [{name: a, image: b, security: {user: 1000}}]"),
        (
            "WorkloadConfig",
            "containers: [{name: a, image: b, secrets: [{secret: tls-key, path: /key, mode: 0400, owner: 7}]}]",
        ),
    ],
)
def test_editor_takes_numbers_without_quotes(kind: str, fields: str) -> None:
    document = {**yaml.safe_load(EXAMPLES[kind]), **yaml.safe_load(fields)}
    assert complaints(document, SCHEMA) == []
    head = f"apiVersion: basalt.dev/v1alpha1\nkind: {kind}\n"
    name = {"MachineConfig": "hostname: a\n", "WorkloadConfig": "name: a\nsecrets: [{name: tls-key, value: x}]\n"}
    assert config.parse(f"{head}{name.get(kind, '')}{fields}\n".encode(), "f.yaml").documents
