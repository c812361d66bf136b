"""The image that holds a pod's namespaces while its containers come and go, as an OCI archive in the root.

A runtime without it asks a registry for one before it starts anything, so that a node without a network could start nothing. Its one
program is Debian's static catatonit, which reaps what is orphaned in a shared PID namespace; the archive's bytes follow from that
program alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from osbuild.graph import Context, Step
from osbuild.lock.model import DebianLock
from osbuild.parts import Part

PACKAGE = "catatonit"
ARCHIVE = "usr/lib/basalt/pause.tar"
REFERENCE = (
    "basalt.local/pause:1"  # what machined imports it as, and tells containerd to use; ".local" is no registry's name
)
_PROGRAM = "usr/bin/catatonit"


def pause_step(pool: Step, debian: DebianLock) -> Step:
    """The archive as a part of the root."""
    return Step("pause", build_pause, inputs={"pool": pool}, params={"version": debian.packages[PACKAGE].version})


def build_pause(ctx: Context) -> None:
    """Run function of :func:`pause_step`."""
    part = Part.new(ctx.out)
    program = (ctx.input("pool") / PACKAGE / _PROGRAM).read_bytes()
    part.write(ARCHIVE, oci_archive({"pause": program}, ["/pause", "-P"]), f"{PACKAGE} {ctx.params['version']}")
    part.save()


def oci_archive(programs: dict[str, bytes], entrypoint: list[str]) -> bytes:
    """A tar of an OCI image layout (image-spec 1.0, image-layout.md) with one image of one layer.

    :param programs: content by path without a leading slash; each is executable and belongs to root.
    """
    blobs: dict[str, bytes] = {}

    def descriptor(media: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(content)}

    layer = _tar(programs, 0o755)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "User": "65534:65534"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", _json(config)),
        "layers": [descriptor("layer.v1.tar", layer)],
    }
    named = descriptor("manifest.v1+json", _json(manifest)) | {
        "annotations": {"io.containerd.image.name": REFERENCE},
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named]}
    layout = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    return _tar({**layout, **dict(sorted(blobs.items()))}, 0o644)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    """Files of root with no time, in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
