"""Container images for tests, made without a network: busybox's one binary, its applets, and what a test adds.

They are OCI image layouts (a directory each), made by umoci of layers that are written here. The same arguments make the same bytes, and
so the same digests, as long as the lock names the same busybox and umoci.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.node.registry_tools import Tools

CREATED = "2025-01-01T00:00:00Z"
TAG = "latest"
USER = "app"
UID = 1000
BALLAST = "ballast"  # the file that makes an image large
_PIECE_BYTES = 2**20
_PASSWD = f"root:x:0:0::/root:/bin/sh\n{USER}:x:{UID}:{UID}::/home/{USER}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
_GROUP = f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Image:
    """An image in a layout of its own."""

    tools: Tools
    layout: Path

    @property
    def place(self) -> str:
        """Where skopeo finds it."""
        return f"oci:{self.tools.inside(self.layout)}:{TAG}"

    @property
    def digest(self) -> str:
        """Of its manifest."""
        index = json.loads((self.layout / "index.json").read_text())
        (entry,) = index["manifests"]
        return str(entry["digest"])

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest."""
        return self._blob(self.digest)

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        return self._blob(self.manifest["config"]["digest"])

    @property
    def layers(self) -> list[str]:
        """The digests of its layers, the lowest first."""
        return [str(layer["digest"]) for layer in self.manifest["layers"]]

    def oci_archive(self, reference: str = TAG) -> Path:
        """The image as one file: a tar of an OCI layout."""
        return self._archive("oci-archive", reference)

    def docker_archive(self, reference: str) -> Path:
        """The image as one file, as ``docker save`` writes it.

        :param reference: what it is called in there, such as ``registry.test/busybox:1``.
        """
        return self._archive("docker-archive", reference)

    def _archive(self, kind: str, reference: str) -> Path:
        path = self.tools.fresh(f"{self.layout.name}-{kind}", ".tar")
        self.tools.run("skopeo", "copy", "--quiet", self.place, f"{kind}:{self.tools.inside(path)}:{reference}")
        return path

    def _blob(self, digest: str) -> dict[str, Any]:
        blob: dict[str, Any] = json.loads((self.layout / "blobs" / digest.replace(":", "/")).read_text())
        return blob


@dataclass
class Images:
    """Makes images and keeps them, so that each is made once."""

    tools: Tools
    _made: dict[tuple[Any, ...], Image] = field(default_factory=dict)

    @property
    def busybox(self) -> Image:
        """Small, with a shell; runs as root."""
        return self.make()

    @property
    def unprivileged(self) -> Image:
        """Runs as uid and gid 1000."""
        return self.make(user=f"{UID}:{UID}")

    def large(self, size_bytes: int, seed: int = 0) -> Image:
        """With a second layer of *size_bytes* that no compression makes smaller; other seeds, other bytes."""
        return self.make(ballast_bytes=size_bytes, seed=seed)

    def make(
        self,
        *,
        user: str = "",
        command: Sequence[str] = ("sh",),
        environment: Sequence[str] = (),
        ballast_bytes: int = 0,
        seed: int = 0,
    ) -> Image:
        """An image of busybox.

        :param user: whom it runs as; root when it is empty.
        :param command: what it runs unless told otherwise.
        :param environment: ``NAME=value``.
        :param ballast_bytes: size of the file ``/ballast`` in a second layer; none when 0.
        """
        wanted = (user, tuple(command), tuple(environment), ballast_bytes, seed)
        if wanted not in self._made:
            self._made[wanted] = self._make(*wanted)
        return self._made[wanted]

    def _make(
        self, user: str, command: tuple[str, ...], environment: tuple[str, ...], ballast_bytes: int, seed: int
    ) -> Image:
        image = Image(self.tools, self.tools.fresh("image"))
        layout = self.tools.inside(image.layout)
        self.tools.run("umoci", "init", "--layout", layout)
        self.tools.run("umoci", "new", "--image", f"{layout}:{TAG}")
        self._add(image, self._busybox)
        if ballast_bytes:
            self._add(image, lambda layer: _ballast(layer, ballast_bytes, seed))
        settings = [f"--config.env={setting}" for setting in ("PATH=/bin", *environment)]
        settings += [f"--config.cmd={word}" for word in command]
        settings += [f"--config.user={user}"] if user else []
        self.tools.run("umoci", "config", "--image", f"{layout}:{TAG}", "--no-history", "--created", CREATED, *settings)
        self.tools.run("umoci", "gc", "--layout", layout)  # the steps up to here
        return image

    def _add(self, image: Image, fill: Callable[[tarfile.TarFile], None]) -> None:
        path = self.tools.fresh("layer", ".tar")
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as layer:
            fill(layer)
        self.tools.run(
            "umoci",
            "raw",
            "add-layer",
            "--image",
            f"{self.tools.inside(image.layout)}:{TAG}",
            "--history.created",
            CREATED,
            self.tools.inside(path),
        )
        path.unlink()

    def _busybox(self, layer: tarfile.TarFile) -> None:
        for name, mode, owner in (
            ("bin", 0o755, 0),
            ("etc", 0o755, 0),
            ("home", 0o755, 0),
            (f"home/{USER}", 0o755, UID),
            ("root", 0o700, 0),
            ("tmp", 0o1777, 0),
        ):
            directory = _entry(name, mode, owner)
            directory.type = tarfile.DIRTYPE
            layer.addfile(directory)
        _file(layer, "etc/passwd", _PASSWD.encode())
        _file(layer, "etc/group", _GROUP.encode())
        _file(layer, "bin/busybox", (self.tools.tree / "usr/bin/busybox").read_bytes(), 0o755)
        for applet in self.tools.run("busybox", "--list").split():
            if applet != "busybox":
                link = _entry(f"bin/{applet}", 0o777)
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(link)


def _entry(name: str, mode: int, owner: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = mode, owner, owner
    return entry


def _file(layer: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = _entry(name, mode)
    entry.size = len(data)
    layer.addfile(entry, io.BytesIO(data))


def _ballast(layer: tarfile.TarFile, size_bytes: int, seed: int) -> None:
    entry = _entry(BALLAST, 0o644)
    entry.size = size_bytes
    layer.addfile(entry, _Noise(size_bytes, seed))


class _Noise(io.RawIOBase):
    """So many bytes, always the same ones, without ever holding them all."""

    def __init__(self, size_bytes: int, seed: int) -> None:
        self._left = size_bytes
        self._random = random.Random(seed)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        wanted = min(self._left, size if size >= 0 else self._left)
        self._left -= wanted
        pieces = (min(_PIECE_BYTES, wanted - at) for at in range(0, wanted, _PIECE_BYTES))
        return b"".join(self._random.randbytes(piece) for piece in pieces)
