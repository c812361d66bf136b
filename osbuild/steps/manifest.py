"""What is in the image, for machines: ``manifest.json`` and an SPDX 2.3 software bill of materials that accounts for every file."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from osbuild.graph import Context, Step
from osbuild.steps.uki import partition_uuids
from osbuild.tree import File, Listing

_NAMESPACE = "https://basalt.dev/spdx"


def manifest_step(root: Step, uki: Step, kernel: Step, disk: Step, identity: Mapping[str, Any]) -> Step:
    """Describe the outputs of the given steps."""
    inputs = {"root": root, "uki": uki, "kernel": kernel, "disk": disk}
    return Step("manifest", build_manifest, inputs=inputs, params={"identity": dict(identity)})


def build_manifest(ctx: Context) -> None:
    """Run function of :func:`manifest_step`. Output: manifest.json, sbom.spdx.json."""
    identity = ctx.params["identity"]
    root = json.loads((ctx.input("root") / "root.json").read_text())
    kernel = json.loads((ctx.input("kernel") / "kernel.json").read_text())
    listing = msgspec.json.decode((ctx.input("root") / "files.json").read_bytes(), type=Listing)
    data, tree = partition_uuids(root["root_hash"])
    manifest = {
        **identity,
        "root_hash": root["root_hash"],
        "partition_uuids": {"root": str(data), "verity": str(tree)},
        "kernel": {name: kernel[name] for name in ("release", "builtin", "modules")},
        "parts": {
            "root": _part(ctx.input("root") / "root.erofs"),
            "verity": _part(ctx.input("root") / "root.verity"),
            "uki": _part(ctx.input("uki") / "basalt.efi"),
        },
        "packages": sorted({file.origin for file in listing.files}),
        "files": len(listing.files),
    }
    (ctx.out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    bill = spdx(listing.files, identity, root["root_hash"])
    (ctx.out / "sbom.spdx.json").write_text(json.dumps(bill, indent=1) + "\n")


def _part(path: Path) -> dict[str, object]:
    with path.open("rb") as stream:
        return {"size_bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _identifier(kind: str, name: str) -> str:
    # SPDX identifiers take letters, digits, "." and "-" only; the hash keeps two names apart that look alike then.
    return f"SPDXRef-{kind}-{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def spdx(files: list[File], identity: Mapping[str, Any], root_hash: str) -> dict[str, Any]:
    """The bill of materials of a root as SPDX 2.3 JSON (spdx.github.io/spdx-spec/v2.3).

    Packages are the origins of the files; each regular file is contained in its package. The time stamp is the build's and the
    namespace comes from the root hash, so that equal images have equal bills.
    """
    created = datetime.datetime.fromtimestamp(identity["build_epoch"], datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    origins = sorted({file.origin for file in files})
    packages, relationships = [], []
    for origin in origins:
        name, _, version = origin.partition(" ")
        packages.append(
            {
                "SPDXID": _identifier("Package", origin),
                "name": name,
                "versionInfo": version.removesuffix(" (wheel)"),
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "supplier": "NOASSERTION",
            }
        )
        relationships.append(
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": _identifier("Package", origin),
            }
        )
    entries = []
    for file in files:
        if file.target:
            continue
        identifier = _identifier("File", file.path)
        entries.append(
            {
                "SPDXID": identifier,
                "fileName": f"./{file.path}",
                "checksums": [{"algorithm": "SHA256", "checksumValue": file.sha256}],
            }
        )
        relationships.append(
            {
                "spdxElementId": _identifier("Package", file.origin),
                "relationshipType": "CONTAINS",
                "relatedSpdxElement": identifier,
            }
        )
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"basalt-{identity['profile']}-{identity['version']}",
        "documentNamespace": f"{_NAMESPACE}/{root_hash}",
        "creationInfo": {"created": created, "creators": ["Tool: osbuild"]},
        "packages": packages,
        "files": entries,
        "relationships": relationships,
    }
