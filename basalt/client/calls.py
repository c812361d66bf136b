"""The typed client of one node."""

from __future__ import annotations

import os
from collections.abc import Iterator

# gRPC's core otherwise writes its own account of every failed handshake to stderr, besides the error raised here.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from basalt import pki
from basalt.client import diagnosis, known, tls
from basalt.client.containers import ContainerCalls
from basalt.client.target import Target
from basalt.endpoint import DEFAULT_TIMEOUT_S
from basalt.machine.v1 import machine_pb2 as api
from basalt.machine.v1 import machine_pb2_grpc as stubs

# How often a silent stream asks whether the node still lives; nodes hang up on clients that ask far more often.
KEEPALIVE_MS = 20_000

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
    # A node is reached directly or not at all: a proxy from the environment would only blur the errors.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # gRPC shares connections among channels of a process; another identity must never ride on this one's.
    ("grpc.use_local_subchannel_pool", 1),
    # A failed handshake fails the call at once; trying again is the caller's decision.
    ("grpc.enable_retries", 0),
)


def connect(target: Target, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Client:
    """Recognise the node and open a connection to it.

    An enrolled node is verified by gRPC's handshake alone, against the target's node authorities and by its own name; the
    first call finds out. There is no way from there to the fingerprint: that would be a weaker check than was agreed on.

    Of any other node the certificate that answers is compared with the pin; then gRPC gets that very certificate as its only
    root, so it is gRPC's own handshake that verifies the node, and an impostor in between gains nothing. A certificate with
    that fingerprint that was seen before serves as well: the first call then finds out whether the node still has it.

    :param timeout_s: for this and for each call; streams may last longer.
    :raises UnreachableError: with the reason.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=target.node_authorities if target.node_id else _pinned(target, timeout_s),
        private_key=target.identity.key_pem,
        certificate_chain=target.identity.certificate_pem,
    )
    # The name is what the node is asked for (SNI), and what its certificate must be for.
    name = (
        ("grpc.ssl_target_name_override", target.server_name),
        ("grpc.default_authority", target.server_name),
    )
    return Client(target, grpc.secure_channel(str(target.endpoint), credentials, options=(*name, *_OPTIONS)), timeout_s)


def _pinned(target: Target, timeout_s: float) -> bytes:
    """The certificate (PEM) that has the target's fingerprint."""
    certificate = known.recall(target.fingerprint)
    if certificate is None:
        certificate = tls.fetch_certificate(target.endpoint, timeout_s=timeout_s)
        found = pki.fingerprint(certificate)
        if found != target.fingerprint:
            raise diagnosis.fingerprint_mismatch(target, found)
        known.remember(certificate)
    return pki.der_to_pem(certificate)


class Client(ContainerCalls):
    """One node's API, call by call. Every method raises :class:`basalt.errors.BasaltError` and nothing of gRPC's.

    Answers are the contract's own messages. Calls may come from several threads.
    """

    def __init__(self, target: Target, channel: grpc.Channel, timeout_s: float) -> None:
        super().__init__(target, channel, timeout_s)
        self._system = stubs.SystemServiceStub(channel)
        self._config = stubs.ConfigServiceStub(channel)
        self._network = stubs.NetworkServiceStub(channel)
        self._identity = stubs.IdentityServiceStub(channel)
        self._services = stubs.ServiceServiceStub(channel)
        self._logs = stubs.LogServiceStub(channel)

    def version(self) -> api.VersionResponse:
        return self._call("SystemService/Version", self._system.Version, api.VersionRequest())

    def status(self) -> api.StatusResponse:
        return self._call("SystemService/Status", self._system.Status, api.StatusRequest())

    def reboot(self) -> None:
        """Ask the node to reboot; it answers before it goes down."""
        self._call("SystemService/Reboot", self._system.Reboot, api.RebootRequest())

    def shutdown(self) -> None:
        """Ask the node to switch off; it answers before it goes down."""
        self._call("SystemService/Shutdown", self._system.Shutdown, api.ShutdownRequest())

    def apply_config(
        self,
        documents: bytes,
        *,
        source: str = "",
        dry_run: bool = False,
        expected_generation: int = 0,
        mode: api.ApplyMode.ValueType = api.APPLY_MODE_AUTO,
        try_timeout_s: int = 0,
    ) -> api.ApplyConfigResponse:
        """Replace the node's configuration, or with *dry_run* say what that would change.

        :param source: the operator's name for the documents, for the node's errors.
        :param expected_generation: refuse unless this generation stands now; 0 to replace any.
        :param try_timeout_s: of a trial, until it is taken back unless confirmed; 0 leaves it to the node.
        """
        request = api.ApplyConfigRequest(
            documents=documents,
            dry_run=dry_run,
            expected_generation=expected_generation,
            source_name=source,
            mode=mode,
            try_timeout_s=try_timeout_s,
        )
        return self._call("ConfigService/ApplyConfig", self._config.ApplyConfig, request)

    def confirm_config(self, generation: int = 0) -> api.ConfirmConfigResponse:
        """Keep the configuration that is on trial; 0 is whichever it is."""
        request = api.ConfirmConfigRequest(generation=generation)
        return self._call("ConfigService/ConfirmConfig", self._config.ConfirmConfig, request)

    def rollback_config(
        self,
        generation: int = 0,
        *,
        dry_run: bool = False,
        mode: api.ApplyMode.ValueType = api.APPLY_MODE_AUTO,
        try_timeout_s: int = 0,
    ) -> api.ApplyConfigResponse:
        """Apply an earlier generation again, as a new one; 0 is the one before the current one.

        While a configuration is on trial, ends the trial instead: the node returns to the one before.
        """
        request = api.RollbackConfigRequest(
            generation=generation, dry_run=dry_run, mode=mode, try_timeout_s=try_timeout_s
        )
        return self._call("ConfigService/RollbackConfig", self._config.RollbackConfig, request)

    def get_config(self, generation: int = 0) -> api.GetConfigResponse:
        """A generation of the configuration, secrets redacted; 0 is the current one."""
        request = api.GetConfigRequest(generation=generation)
        return self._call("ConfigService/GetConfig", self._config.GetConfig, request)

    def links(self) -> api.ListLinksResponse:
        """The node's links with their addresses and routes."""
        return self._call("NetworkService/ListLinks", self._network.ListLinks, api.ListLinksRequest())

    def list_generations(self) -> api.ListGenerationsResponse:
        """The generations of the configuration that the node keeps, the newest first."""
        request = api.ListGenerationsRequest()
        return self._call("ConfigService/ListGenerations", self._config.ListGenerations, request)

    def provenance(self) -> api.ProvenanceResponse:
        """Where configuration and client authority came from, and what came of every place that was asked."""
        return self._call("ConfigService/Provenance", self._config.Provenance, api.ProvenanceRequest())

    def identity(self) -> api.GetIdentityResponse:
        """The certificates that the node shows, and its request for an issuing certificate."""
        return self._call("IdentityService/GetIdentity", self._identity.GetIdentity, api.GetIdentityRequest())

    def enroll(self, issuer_certificate_pem: bytes) -> api.EnrollResponse:
        """Give the node the issuing certificate that a node authority signed for its request."""
        request = api.EnrollRequest(issuer_certificate=issuer_certificate_pem)
        return self._call("IdentityService/Enroll", self._identity.Enroll, request)

    def audit(self, *, follow: bool = False, tail: int = 0) -> Iterator[api.AuditRecord]:
        """Who did what, the oldest first; 0 *tail* is everything kept. With *follow* it goes on as in :meth:`logs`."""
        request = api.AuditRequest(follow=follow, tail_records=tail)
        for response in self._stream("IdentityService/Audit", self._identity.Audit, request):
            yield from response.records

    def services(self) -> api.ListServicesResponse:
        return self._call("ServiceService/ListServices", self._services.ListServices, api.ListServicesRequest())

    def logs(self, service: str, *, follow: bool = False, tail_lines: int = 0) -> Iterator[bytes]:
        """What a service has written, in pieces of whole lines; 0 *tail_lines* is everything kept.

        With *follow* it goes on until the client is closed or the node goes away.
        """
        request = api.LogsRequest(service=service, follow=follow, tail_lines=tail_lines)
        for response in self._stream("LogService/Logs", self._logs.Logs, request):
            yield response.chunk

    def dmesg(self, *, follow: bool = False, tail_lines: int = 0) -> Iterator[api.KernelMessage]:
        """What the kernel has said since it booted."""
        request = api.DmesgRequest(follow=follow, tail_lines=tail_lines)
        for response in self._stream("LogService/Dmesg", self._logs.Dmesg, request):
            yield from response.messages
