"""The Python side of the API's contract, and of what machined speaks to containerd: generate it, or check that it is fresh.

``python -m basalt.stubs`` runs protoc over ``api/`` and replaces the generated modules in :data:`PACKAGES`;
``--check`` generates into a temporary directory and compares. Why they are committed:
docs/decisions/shared-package-and-stubs.md.

Generators of another version write other text for the same contract. ``GENERATORS`` beside the stubs says which ones
made them: with the very same ones every byte is compared, with others the contract itself: the serialised descriptors.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool

from basalt.errors import BasaltError, UsageError

REPOSITORY = Path(__file__).resolve().parent.parent
CONTRACT = REPOSITORY / "api"
PACKAGE = Path("basalt/machine/v1")
PACKAGES = (PACKAGE, Path("machined/wire"))
VERSIONS_FILE = "GENERATORS"
GENERATORS = ("grpcio-tools", "mypy-protobuf")


def _protoc(arguments: list[str]) -> None:
    """Run protoc in a child: it calls exit() on a syntax error and finds its plug-ins through PATH."""
    bundled = str(importlib.resources.files("grpc_tools") / "_proto")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{CONTRACT}", f"-I{bundled}", *arguments]
    plugins = Path(sys.executable).parent
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PATH": f"{plugins}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode != 0:
        raise UsageError("cannot generate the API's stubs", why=done.stderr.strip(), remedy=f"correct {CONTRACT}")


def _contract_files() -> list[Path]:
    files = [path for package in PACKAGES for path in sorted((CONTRACT / package).glob("*.proto"))]
    if not files:
        raise UsageError(f"no contract in {CONTRACT / PACKAGE}", remedy="run this in a checkout of the repository")
    return files


def _versions() -> str:
    try:
        return "".join(f"{name} {importlib.metadata.version(name)}\n" for name in GENERATORS)
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            "cannot generate the API's stubs", why=f"{error.name} is not installed", remedy="pip install -e '.[dev]'"
        ) from error


def generate(target: Path) -> None:
    """Write the stubs of every file of the contract below *target*, laid out as in the repository.

    :raises UsageError: when the contract has an error or a generator is missing.
    """
    versions = _versions()
    files = _contract_files()
    with_services = [
        path for path in files if any(line.startswith("service ") for line in path.read_text().splitlines())
    ]
    _protoc([f"--python_out={target}", f"--mypy_out={target}", *map(str, files)])
    _protoc([f"--grpc_python_out={target}", f"--mypy_grpc_out={target}", *map(str, with_services)])
    (target / PACKAGE / VERSIONS_FILE).write_text(versions)


def _generated(root: Path) -> dict[str, bytes]:
    """Name, relative to *root*, and content of each generated file."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for package in PACKAGES
        for path in sorted((root / package).glob("*_pb2*.py*"))
        if path.suffix in (".py", ".pyi")
    }


def _canonical(description: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """The contract in *description* without json_name, which protoc writes into a descriptor set only."""
    fields = list(description.extension)
    messages = list(description.message_type)
    while messages:
        message = messages.pop()
        fields += [*message.field, *message.extension]
        messages += message.nested_type
    for field in fields:
        field.ClearField("json_name")
    # Parsed afresh with every extension known, so that options compare by value, not in the order they came.
    return descriptor_pb2.FileDescriptorProto.FromString(description.SerializeToString())


def _differing_descriptors(scratch: Path) -> list[str]:
    """The contract's files whose descriptor is not the one that the committed stubs carry."""
    compiled = scratch / "contract.binpb"
    _protoc([f"--descriptor_set_out={compiled}", *map(str, _contract_files())])
    differing = []
    for wanted in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        importlib.import_module(wanted.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        present = descriptor_pb2.FileDescriptorProto()
        descriptor_pool.Default().FindFileByName(wanted.name).CopyToProto(present)
        if _canonical(present) != _canonical(wanted):
            differing.append(wanted.name)
    return differing


def stale(committed: Path = REPOSITORY) -> list[str]:
    """Names of the generated files that do not say what the contract says; empty when all is fresh."""
    with tempfile.TemporaryDirectory(prefix="basalt-stubs-") as name:
        scratch = Path(name)
        if (committed / PACKAGE / VERSIONS_FILE).read_text() != _versions():
            return _differing_descriptors(scratch)
        generate(scratch)
        fresh, present = _generated(scratch), _generated(committed)
        return [name for name in sorted(fresh.keys() | present.keys()) if fresh.get(name) != present.get(name)]


def regenerate() -> None:
    """Replace the committed stubs by fresh ones; files of a removed part of the contract go."""
    with tempfile.TemporaryDirectory(prefix="basalt-stubs-") as name:
        scratch = Path(name)
        generate(scratch)
        for old in _generated(REPOSITORY):
            (REPOSITORY / old).unlink()
        for new in (*_generated(scratch), str(PACKAGE / VERSIONS_FILE)):
            shutil.copyfile(scratch / new, REPOSITORY / new)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m basalt.stubs", description="Generate the API's Python stubs.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a committed stub is stale")
    try:
        if not parser.parse_args().check:
            regenerate()
            return 0
        differing = stale()
    except BasaltError as error:
        print(f"{error}\n{error.remedy}", file=sys.stderr)
        return error.exit_code
    if differing:
        print(f"stale: {', '.join(differing)}; run `python -m basalt.stubs`", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
