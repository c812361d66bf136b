"""Whom a configuration lets in, and which configurations would let nobody in."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509

from basalt import pki, pki_node
from basalt.config.documents import AccessConfig
from basalt.roles import Role
from machined import access

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def old() -> pki.Identity:
    return pki.make_ca("operators", 30 * DAY)


@pytest.fixture(scope="module")
def new() -> pki.Identity:
    return pki.make_ca("operators, next year", 30 * DAY)


def config(*authorities: pki.Identity, revoked: tuple[str, ...] = ()) -> AccessConfig:
    pems = tuple(authority.certificate_pem.decode() for authority in authorities)
    return AccessConfig(client_authorities=pems, revoked_serials=revoked)


def test_an_access_config_replaces_the_authority_of_the_first_contact(old: pki.Identity, new: pki.Identity) -> None:
    ada = pki.issue_client(old, "ada", [Role.ADMIN], DAY).certificate_pem
    assert access.authorities(None, old.certificate_pem) == old.certificate_pem.decode()
    assert access.admits(None, old.certificate_pem, ada) == ""
    assert access.admits(config(new, old), b"", ada) == ""
    assert "no client authority of the configuration has signed" in access.admits(config(new), old.certificate_pem, ada)


def test_an_authority_of_the_same_name_is_another(old: pki.Identity) -> None:
    ada = pki.issue_client(old, "ada", [Role.ADMIN], DAY).certificate_pem
    assert "has signed" in access.admits(config(pki.make_ca("operators", DAY)), old.certificate_pem, ada)


def test_revoked_certificates_are_not_admitted(old: pki.Identity) -> None:
    ada = pki.issue_client(old, "ada", [Role.ADMIN], DAY).certificate_pem
    serial = f"{x509.load_pem_x509_certificate(ada).serial_number:x}"
    assert access.admits(config(old, revoked=("1", serial)), b"", ada) == (
        f"the certificate with the serial number {serial} is revoked"
    )


def test_an_authority_that_has_ended_admits_nobody_and_says_so(old: pki.Identity) -> None:
    ada = pki.issue_client(old, "ada", [Role.ADMIN], DAY).certificate_pem
    said = access.admits(config(old), b"", ada, now=pki.utc_now() + 40 * DAY)
    assert "the client authority that signed the certificate is valid from" in said
    assert "this node's clock says" in said


def test_certificates_that_are_none_are_not_admitted(old: pki.Identity) -> None:
    assert "cannot be read" in access.admits(config(old), b"", b"hello")


def test_authorities_that_nobody_could_use_are_named_each(old: pki.Identity) -> None:
    ada = pki.issue_client(old, "ada", [Role.ADMIN], DAY)
    nodes = pki_node.make_node_ca("nodes", DAY)
    assert access.problems(config(old)) == []
    assert access.problems(config(old, ada, nodes)) == [
        "AccessConfig: $.clientAuthorities[1]: it is no certificate authority (CA:FALSE)",
        "AccessConfig: $.clientAuthorities[1]: its key usage does not allow signing certificates",
        "AccessConfig: $.clientAuthorities[2]: its extended key usage lets it sign no client certificates; "
        "is it the node authority?",
    ]
