"""machined below a scratch directory: the phases of its boot that need no disk and no supervisor, then its API.

A program of :mod:`benchmarks.native_client`: ``python -m benchmarks.native_node DIRECTORY machined|gateway``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from machined import paths
from machined.paths import Paths


async def _machined(where: Paths) -> None:
    from machined import api
    from machined.node import Node

    node = Node(where)
    await node.prepare_run()
    await node.establish_identity()
    await node.load_configuration()
    await node.start_network()
    await api.serve(node)
    (where.root / "ready").touch()
    await node.stopping.wait()


def main() -> None:
    """Run one of the two until it is killed."""
    where = Paths(sys.argv[1])
    paths.UID_GATEWAY = 0  # the namespace has one user
    if sys.argv[2] == "machined":
        asyncio.run(_machined(where))
        return
    from machined.gateway.main import serve

    os.dup2(os.open(os.devnull, os.O_WRONLY), 3)  # where the gateway tells s6 that it is ready
    asyncio.run(serve(where))


def prepare(root: Path, client_ca: bytes) -> None:
    """The directories that the daemon expects, with the kernel's own file systems linked in."""
    for name in ("usr/lib/basalt", "run/log", "run/etc", "state", "var", "dev"):
        (root / name).mkdir(parents=True)
    for name in ("proc", "sys"):
        (root / name).symlink_to(f"/{name}")
    (root / "usr/lib/basalt/image.json").write_text(
        '{"version": "0", "profile": "bench", "arch": "x86_64", "build_epoch": 0}'
    )
    (root / "usr/lib/basalt/client-ca.pem").write_bytes(client_ca)


if __name__ == "__main__":
    main()
