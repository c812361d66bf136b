"""The gateway as a program: wait for machined's word on trust, listen, relay until told to stop."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from basalt.errors import BasaltError
from machined import paths
from machined.gateway.admission import Admission
from machined.gateway.authorise import contract
from machined.gateway.calls import OpenCalls, patrol
from machined.gateway.handshakes import watch_stderr
from machined.gateway.refusals import REFUSED, Refusals
from machined.gateway.relay import Relay
from machined.gateway.trust import Trust, TrustFile
from machined.services import NOTIFICATION_FD

TRUST_POLL_S = 0.02  # machined writes the file once, early in the boot; a watch would cost more than these stats
PATROL_S = 1.0  # how long a certificate may be over, or a SIGHUP missed, before the open calls are looked at
REFUSAL_TIMEOUT_S = 10.0  # for handing one refusal over to machined

_AS_IS: Any = None  # serialisers: messages stay bytes

_SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second gateway must fail loudly instead of taking half of the calls
    ("grpc.max_receive_message_length", paths.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", paths.MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", paths.STREAMS_PER_CONNECTION_MAX),
    ("grpc.max_metadata_size", paths.METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", paths.METADATA_BYTES_MAX),
    ("grpc.max_connection_idle_ms", paths.CONNECTION_IDLE_MS),
    ("grpc.server_handshake_timeout_ms", paths.HANDSHAKE_TIMEOUT_MS),
    ("grpc.keepalive_time_ms", paths.KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", paths.KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", paths.PING_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", paths.PING_STRIKES),
)

_INNER_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),  # machined is back within a second or so of a crash
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 5000),  # despite its name: how long one attempt may take, and a busy node is slow
    ("grpc.max_receive_message_length", paths.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", paths.MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
)


def _configuration(trust: Trust) -> grpc.ServerCertificateConfiguration:
    """gRPC's form of *trust*. Without an authority no client certificate can be verified, so every handshake fails: locked."""
    authorities = trust.client_authorities.encode() or None
    return grpc.ssl_server_certificate_configuration(
        [(shown.key.encode(), shown.certificate_chain.encode()) for shown in trust.identities],
        root_certificates=authorities,
    )


# gRPC frees the old configuration when it takes up a new one, while another handshake may be about to use it
# (grpc/grpc#36693; it ends the process). It holds a lock while it asks, so no handshake comes any further during this pause, and
# those that were past the lock have taken their own reference long before it ends.
REPLACEMENT_PAUSE_S = 0.02


def credentials(trust_file: TrustFile) -> grpc.ServerCredentials:
    """Mutual TLS (1.2 or later, gRPC's floor) that follows the trust file: the fetcher runs at each handshake.

    :raises BasaltError: the file has not been read yet.
    """
    served = trust_file.current
    if served is None:
        raise BasaltError("the gateway cannot listen", why="machined has not said yet who the node is")

    def fetch() -> Any:  # a configuration, or None for "as before", which grpc-stubs does not know
        nonlocal served
        trust_file.refresh()
        current = trust_file.current
        if current is served or current is None:  # calls refresh the file too: compare with what TLS was given last
            return None
        served = current
        time.sleep(REPLACEMENT_PAUSE_S)
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(_configuration(served), fetch, require_client_authentication=True)


class Gateway:
    """The server and its channel to machined."""

    def __init__(self, trust_file: TrustFile, socket: Path, address: str) -> None:
        self._inner = grpc.aio.insecure_channel(f"unix:{socket}", options=_INNER_OPTIONS)
        self._server = grpc.aio.server(options=_SERVER_OPTIONS)
        self._admission = Admission(trust_file)
        self._calls = OpenCalls()
        tell = self._inner.unary_unary(REFUSED, _AS_IS, _AS_IS)
        self._refusals = Refusals(lambda record: tell(record, timeout=REFUSAL_TIMEOUT_S))
        self._trust_changed = asyncio.Event()
        relay = Relay(contract(), self._admission, self._calls, self._refusals, self._inner)
        self._server.add_generic_rpc_handlers((relay,))
        self.port = self._server.add_secure_port(address, credentials(trust_file))

    async def start(self) -> None:
        """Listen."""
        await self._server.start()
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                self._keep_connected(),
                self._refusals.run(),
                patrol(self._calls, self._refusal_now, self._trust_changed, PATROL_S),
            )
        ]

    def trust_changed(self) -> None:
        """Look at the trust file and at the open calls now."""
        self._trust_changed.set()

    def _refusal_now(self, certificate_pem: bytes) -> str:
        return self._admission.refusal(certificate_pem, datetime.datetime.now(datetime.UTC))

    async def _keep_connected(self) -> None:
        """Connect to machined before anybody calls, and again as soon as it is back (gRPC alone would wait for a call)."""
        while True:
            state = self._inner.get_state(try_to_connect=True)
            await self._inner.wait_for_state_change(state)

    async def stop(self) -> None:
        """Let calls in flight end within the grace, then close."""
        await self._server.stop(paths.STOP_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await self._inner.close(None)


async def wait_for_trust(trust_file: TrustFile) -> None:
    """Return once machined has written the trust file."""
    while not trust_file.refresh():
        await asyncio.sleep(TRUST_POLL_S)


async def serve(node: paths.Paths) -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    trust_file = TrustFile(node.gateway_trust)
    await wait_for_trust(trust_file)
    gateway = Gateway(trust_file, node.socket, f"[::]:{paths.API_PORT}")
    loop.add_signal_handler(signal.SIGHUP, gateway.trust_changed)
    await gateway.start()
    os.write(NOTIFICATION_FD, b"\n")  # s6: ready (notification-fd)
    os.close(NOTIFICATION_FD)
    import cryptography.x509  # noqa: F401 - the first call needs it; while machined still works is the time to pay for it

    await stop.wait()
    await gateway.stop()


def main() -> None:
    """Entry of the service ``gateway``."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that could have changed
    watch_stderr()
    asyncio.run(serve(paths.Paths()))
