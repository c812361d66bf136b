"""Public keys that vouch for images: which kinds there may be, the one spelling of each, and whether one made a signature.

What cosign makes unless told otherwise is ECDSA on P-256. P-384, P-521, Ed25519 and RSA from 2,048 bits on are what it takes besides.

``cryptography`` is imported by the functions that need it, as in :mod:`basalt.pki`: a boot without such keys does without it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192  # below: within reach of an attacker; above: slow, and no gain
BYTES_MAX = 4096  # of a key in DER; the largest one allowed has 1,100

_FRAME = re.compile(r"\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END PUBLIC KEY-----\s*")


def load(pem: str) -> PublicKey:
    """The key in *pem* (SubjectPublicKeyInfo, RFC 5280).

    :raises ValueError: it is none, or of a kind that is not taken; says why, in words.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    der = _der(pem)
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("its content is no public key") from error
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            return key
        case ec.EllipticCurvePublicKey():
            raise ValueError(f"its curve is {key.curve.name}")
        case rsa.RSAPublicKey() if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
            raise ValueError(f"it has {key.key_size} bits")
        case rsa.RSAPublicKey() | ed25519.Ed25519PublicKey():
            return key
    raise ValueError("it is a key of another kind")


def _der(pem: str) -> bytes:
    match = _FRAME.fullmatch(pem)
    if match is None:
        if "PRIVATE KEY-----" in pem:
            raise ValueError("this is a private key, which belongs on no node")
        if "-----BEGIN CERTIFICATE-----" in pem:
            raise ValueError("this is a certificate")
        raise ValueError("this is not one key in PEM")
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True)
    except ValueError as error:
        raise ValueError(f"its base64 is broken: {error}") from error
    if len(der) > BYTES_MAX:
        raise ValueError(f"it has {len(der)} bytes")
    return der


def canonical(pem: str) -> str:
    """The one spelling of a key.

    :raises ValueError: as :func:`load`.
    """
    from cryptography.hazmat.primitives import serialization

    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return load(pem).public_bytes(serialization.Encoding.PEM, public).decode()


def key_id(key: PublicKey) -> str:
    """What a key is called: the SHA-256 of its DER, in hexadecimal digits.

    ``openssl pkey -pubin -in cosign.pub -outform der | sha256sum`` says the same.
    """
    from cryptography.hazmat.primitives import serialization

    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, public)).hexdigest()


def verifies(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether *signature* was made with *key* on *data*.

    With ECDSA the digest is SHA-256, which cosign 2 takes for every curve, or the one of the curve's own size, as its library does.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    extra: list[tuple[Any, ...]] = [()]
    if isinstance(key, rsa.RSAPublicKey):
        extra = [(padding.PKCS1v15(), hashes.SHA256())]
    elif isinstance(key, ec.EllipticCurvePublicKey):
        own = {384: hashes.SHA384(), 521: hashes.SHA512()}.get(key.key_size)
        extra = [(ec.ECDSA(digest),) for digest in (hashes.SHA256(), own) if digest]
    for scheme in extra:
        with contextlib.suppress(InvalidSignature):
            key.verify(signature, data, *scheme)
            return True
    return False
