"""Whether the API answers, tried the way a client would: a TLS handshake with the gateway that shows the node's own certificate.

A client without a certificate gets that far with TLS 1.3 and no farther, which is enough: it proves that the gateway listens, that its
TLS works and that it speaks for this node. What it does with calls is proved by the certificate checks that every call passes.
"""

from __future__ import annotations

import asyncio
import ssl

from basalt.pki import fingerprint

PROBE_TIMEOUT_S = 10.0  # generous: under emulation a handshake takes a tenth of a second, under load more


async def served_fingerprint(port: int) -> str | None:
    """Fingerprint of the certificate that is served on the node's API port; None when nobody completes a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the fingerprint is the check
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (OSError, TimeoutError):
        return None
    try:
        certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return fingerprint(certificate) if certificate else None
    finally:
        writer.transport.abort()  # no farewell: the gateway has nothing to say to a client without a certificate
