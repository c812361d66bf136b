"""How a test's registry is reached and who may: its names, its certificate, its users.

The authority is the test's own, its users' passwords are in this file, and no registry outlives its test.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from basalt import pki

NAME = "registry.test"  # what images are called whose registry is found by way of a mirror
HERE = "127.0.0.1"
THERE = "10.0.2.2"  # the same, as a guest calls it
_LIFETIME = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Credentials:
    """Who may, by HTTP's basic authentication. The hash is bcrypt's at its lowest cost: the registry knows no other."""

    username: str
    password: str
    hashed: str

    @property
    def words(self) -> str:
        """As skopeo takes them."""
        return f"{self.username}:{self.password}"

    @property
    def header(self) -> str:
        """As the header ``Authorization`` has them (RFC 7617)."""
        return f"Basic {base64.b64encode(self.words.encode()).decode()}"


NODE = Credentials("node", "pull-from-the-mirror", "$2b$04$VD0O5m8.VwdpC0DA9jifde4booGJOsea0F/q9DN8jQ6mZG7cp5wu.")
OTHER = Credentials("other", "the-one-after-that", "$2b$04$GnofJy6s75DXsc33AX8aDukv8ZbBw96O/qQqPpgQSo/fnF9qkGf1G")


@dataclass(frozen=True)
class Authority:
    """Vouches for registries' certificates. Its certificate lies in *directory*, as ``ca.crt``: what skopeo takes is a directory."""

    identity: pki.Identity
    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        """A new one."""
        directory.mkdir()
        identity = pki.make_ca("registry authority", _LIFETIME)
        (directory / "ca.crt").write_bytes(identity.certificate_pem)
        return cls(identity, directory)

    @property
    def pem(self) -> str:
        """Its certificate."""
        return self.identity.certificate_pem.decode()

    def issue(self) -> pki.Identity:
        """A certificate for a server on the host, by all the names that it is reached by."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        ca = x509.load_pem_x509_certificate(self.identity.certificate_pem)
        signer = pki.load_key(self.identity.key_pem, "the registries' authority")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address)) for address in (HERE, THERE)]
        names += [x509.DNSName(name) for name in (NAME, "localhost")]
        unsigned = (
            pki.builder(subject, ca.subject, key.public_key(), ca.not_valid_before_utc, ca.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(pki.key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        return pki.signed(unsigned, key, signer)


def server_files(authority: Authority, directory: Path) -> tuple[Path, Path]:
    """A new certificate and its key, as files in *directory*."""
    identity = authority.issue()
    certificate, key = directory / "server.crt", directory / "server.key"
    certificate.write_bytes(identity.certificate_pem)
    key.touch(mode=0o600)
    key.write_bytes(identity.key_pem)
    return certificate, key
