"""A registry that a test has written: it answers what was put there, over plain HTTP or TLS, and notes what was asked.

It keeps nothing that is not in order: names, digests and answers are the test's own, and so can be wrong in any way.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = "127.0.0.1"
NAME = "registry.example.org"
REPOSITORY = "team/app"
IMAGE = f"{NAME}/{REPOSITORY}"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"


class Signer:
    """Somebody with a key as cosign makes it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = self.key.public_key()
        self.pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self.id = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def layer(self, payload: bytes) -> dict[str, object]:
        """The layer of a ``.sig`` manifest that has this key's signature on *payload*."""
        value = base64.b64encode(self.key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
        return {
            "mediaType": SIMPLE_SIGNING,
            "digest": digest_of(payload),
            "size": len(payload),
            "annotations": {"dev.cosignproject.cosign/signature": value},
        }


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def payload_of(digest: str, *, called: str = IMAGE, kind: str = "cosign container image signature") -> bytes:
    """What cosign signs."""
    identity, image = {"docker-reference": called}, {"docker-manifest-digest": digest}
    return json.dumps({"critical": {"identity": identity, "image": image, "type": kind}, "optional": None}).encode()


@dataclass(frozen=True)
class Asked:
    """A request. *headers* by their names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True)
class Reply:
    """An answer. *raw*: these bytes instead, and then the connection ends; *stalls*: it does not even end."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    stalls: bool = False

    def text(self) -> bytes:
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} Words", *(f"{name}: {value}" for name, value in self.headers.items())]
        lines += [] if "Transfer-Encoding" in self.headers else [f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Guard = Callable[[Asked], Reply | None]


class FakeRegistry:
    """See above. *replies*: by path, without the query. *guard*: is asked first, and may answer itself."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[Asked] = []
        self.guard: Guard = lambda _: None
        self.address = ""  # http://127.0.0.1:PORT

    @property
    def host(self) -> str:
        return self.address.partition("://")[2]

    @property
    def paths(self) -> list[str]:
        """What was asked for, in this order."""
        return [each.path for each in self.asked]

    def put(self, path: str, data: bytes) -> str:
        """Put something below the repository; its digest."""
        self.replies[f"/v2/{REPOSITORY}/{path}"] = Reply(body=data)
        return digest_of(data)

    def push(self, tag: str = "1", words: str = "") -> str:
        """Put an image there; its digest."""
        manifest = json.dumps({"schemaVersion": 2, "layers": [], "annotations": {"words": words}}).encode()
        self.put(f"manifests/{digest_of(manifest)}", manifest)
        return self.put(f"manifests/{tag}", manifest)

    def put_layers(self, digest: str, *layers: Mapping[str, object]) -> None:
        """Put the ``.sig`` manifest of an image there."""
        manifest = {"schemaVersion": 2, "config": {}, "layers": layers}
        self.put(f"manifests/{digest.replace(':', '-')}.sig", json.dumps(manifest).encode())

    def sign(self, digest: str, *signers: Signer, payload: bytes | None = None) -> None:
        """Have an image signed."""
        payload = payload_of(digest) if payload is None else payload
        self.put(f"blobs/{digest_of(payload)}", payload)
        self.put_layers(digest, *(signer.layer(payload) for signer in signers))

    @contextlib.asynccontextmanager
    async def listening(self, context: ssl.SSLContext | None = None) -> AsyncIterator[FakeRegistry]:
        """It answers while the block runs."""
        stalled: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, EOFError):
                asked = await _read(reader)
                self.asked.append(asked)
                reply = self.guard(asked) or self.replies.get(asked.path) or Reply(404)
                writer.write(reply.text())
                await writer.drain()
                if reply.stalls:
                    stalled.append(writer)
                    return
            writer.close()

        server = await asyncio.start_server(serve, HERE, 0, ssl=context)
        scheme = "https" if context else "http"
        self.address = f"{scheme}://{HERE}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            for writer in stalled:
                writer.close()
            server.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))
