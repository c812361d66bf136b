"""IdentityService: who the node is to its clients, and who did what on it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from basalt.pki import SERVER_NAME, server_name
from machined.api.auditing import note
from machined.api.callers import caller_of, refuse
from machined.audit import FellBehindError, Record
from machined.issuing import Server

if TYPE_CHECKING:
    from cryptography import x509

    from machined.node import Node

RECORDS_PER_RESPONSE = 200  # a few hundred bytes each: far below the limit of a message


class IdentityApi(stubs.IdentityServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def GetIdentity(  # noqa: N802 - the contract's name
        self, request: pb.GetIdentityRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetIdentityResponse:
        """The certificates, and the signing request."""
        from cryptography import x509  # late: the boot to an answering API does without it

        await caller_of(context)
        own, issuing = self._node.identity, self._node.issuing
        certificate = x509.load_pem_x509_certificate(own.certificate_pem)
        response = pb.GetIdentityResponse(
            node_id=own.node_id,
            certificates=[
                pb.ServerCertificate(
                    server_name=SERVER_NAME,
                    certificate_chain=own.certificate_pem,
                    fingerprint=own.fingerprint,
                    not_before_unix=int(certificate.not_valid_before_utc.timestamp()),
                    not_after_unix=int(certificate.not_valid_after_utc.timestamp()),
                )
            ],
            signing_request=await issuing.signing_request(),
            issuer_certificate=issuing.issuer_pem,
            clock_unix=int(time.time()),
        )
        if issuing.server:
            response.certificates.append(shown(issuing.server, issuing.node_id))
        if issuing.issuer_pem:
            issuer = x509.load_pem_x509_certificate(issuing.issuer_pem)
            response.issuer_not_after_unix = int(issuer.not_valid_after_utc.timestamp())
            response.issuer_authority = common_name_of_issuer(issuer)
        return response

    async def Enroll(  # noqa: N802
        self, request: pb.EnrollRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EnrollResponse:
        """Take the issuing certificate, and show a certificate made with it."""
        from cryptography import x509

        await caller_of(context)
        issuing = self._node.issuing
        try:
            server = await issuing.enrol(request.issuer_certificate)
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        note(f"issuing certificate of {common_name_of_issuer(x509.load_pem_x509_certificate(issuing.issuer_pem))}")
        self._node.trigger("identity")
        return pb.EnrollResponse(certificate=shown(server, issuing.node_id))

    async def Audit(  # noqa: N802
        self, request: pb.AuditRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.AuditResponse]:
        """The audit log."""
        await caller_of(context)
        log = self._node.audit
        if not request.follow:
            for response in responses(log.read(request.tail_records)):
                yield response
            return
        try:
            async for records in log.follow(request.tail_records):
                for response in responses(records):
                    yield response
        except FellBehindError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "records came faster than they were taken")


def common_name_of_issuer(certificate: x509.Certificate) -> str:
    """Who signed it, by name."""
    from cryptography import x509

    values = certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(values[0].value) if values else certificate.issuer.rfc4514_string()


def shown(server: Server, node_id: str) -> pb.ServerCertificate:
    """A certificate that the node issued."""
    return pb.ServerCertificate(
        server_name=server_name(node_id),
        certificate_chain=server.certificate_chain.encode(),
        fingerprint=server.fingerprint,
        not_before_unix=int(server.not_before),
        not_after_unix=int(server.not_after),
        renew_unix=int(server.renew),
    )


def responses(records: list[Record]) -> list[pb.AuditResponse]:
    """Records in messages of a bounded size."""
    return [
        pb.AuditResponse(
            records=[
                pb.AuditRecord(
                    time_unix=record.time_unix,
                    identity=record.identity,
                    serial=record.serial,
                    address=record.address,
                    rpc=record.rpc,
                    request_id=record.request_id,
                    outcome=record.outcome,
                    detail=record.detail,
                    roles=record.roles,
                    repeated=record.repeated,
                )
                for record in records[at : at + RECORDS_PER_RESPONSE]
            ]
        )
        for at in range(0, len(records), RECORDS_PER_RESPONSE)
    ]
