"""Who is let in: operators' certificates, registries' credentials, the firewall."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from basalt.config.documents.base import DocumentBase, Element
from basalt.config.values import (
    CertificatePem,
    HttpUrl,
    ImagePattern,
    InterfaceName,
    PortRange,
    Prefix,
    PublicKeyPem,
    Registry,
    RegistryHost,
    RuleName,
    Secret,
    Serial,
    UserName,
)


class AccessConfig(DocumentBase, frozen=True, kw_only=True):
    """Whose client certificates are accepted. Without it: those of the authority that the first contact was made with."""

    client_authorities: Annotated[
        tuple[CertificatePem, ...],
        Meta(
            min_length=1,
            max_length=8,
            description="Certificates of authorities (PEM) that sign operators' certificates.",
        ),
    ]
    revoked_serials: Annotated[
        tuple[Serial, ...],
        Meta(
            max_length=4096,
            description="Serial numbers of client certificates that are refused, open connections included.",
        ),
    ] = ()
    server_lifetime_h: Annotated[
        int, Meta(ge=1, le=720, description="Hours that the node's own certificates are valid; renewed at half of it.")
    ] = 24


class RegistryMirror(Element, frozen=True, kw_only=True):
    """Where images of a registry are fetched instead."""

    registry: Annotated[Registry, Meta(description="The registry in image names; `*` for all that are not listed.")]
    endpoints: Annotated[
        tuple[HttpUrl, ...], Meta(min_length=1, description="Tried in this order, before the registry itself.")
    ]
    fallback: Annotated[bool, Meta(description="Whether the registry itself is asked in the end.")] = True
    override_path: Annotated[bool, Meta(description="The endpoints' paths are complete: no `/v2` is added.")] = False


class RegistryAuth(Element, frozen=True, kw_only=True):
    """Credentials for a registry or mirror."""

    host: Annotated[RegistryHost, Meta(description="The host that gets them, with its port if it has one.")]
    username: Annotated[UserName | None, Meta(description="User name.")] = None
    password: Annotated[Secret | None, Meta(description="Its password.")] = None
    identity_token: Annotated[Secret | None, Meta(description="A token instead of user name and password.")] = None


class RegistryAuthority(Element, frozen=True, kw_only=True):
    """An authority for a registry's own certificate."""

    host: Annotated[RegistryHost, Meta(description="The host whose certificate it signs.")]
    certificate: Annotated[CertificatePem, Meta(description="The authority's certificate (PEM).")]


class RegistrySignature(Element, frozen=True, kw_only=True):
    """Images that are pulled with a signature alone (cosign's)."""

    images: Annotated[
        ImagePattern,
        Meta(description="Which: those whose names begin so, in whole parts; `*` for all. The closest entry counts."),
    ]
    keys: Annotated[
        tuple[PublicKeyPem, ...],
        Meta(min_length=1, max_length=8, description="Public keys (PEM). A signature by one of them is enough."),
    ]


class RegistryConfig(DocumentBase, frozen=True, kw_only=True):
    """Registries of container images."""

    mirrors: Annotated[tuple[RegistryMirror, ...], Meta(description="Mirrors.")] = ()
    auth: Annotated[tuple[RegistryAuth, ...], Meta(description="Credentials.")] = ()
    authorities: Annotated[tuple[RegistryAuthority, ...], Meta(description="Authorities.")] = ()
    signatures: Annotated[tuple[RegistrySignature, ...], Meta(description="Which images have to be signed.")] = ()


class FirewallRule(Element, frozen=True, kw_only=True):
    """Lets traffic in."""

    name: Annotated[RuleName, Meta(description="What it is for.")]
    protocol: Annotated[Literal["tcp", "udp", "sctp"], Meta(description="The transport.")] = "tcp"
    ports: Annotated[
        tuple[PortRange, ...], Meta(min_length=1, description="Ports of the node: `443`, or a range `30000-32767`.")
    ]
    sources: Annotated[tuple[Prefix, ...], Meta(description="Networks that may; everybody where left out.")] = ()
    links: Annotated[tuple[InterfaceName, ...], Meta(description="Only through these links; all where left out.")] = ()


class FirewallConfig(DocumentBase, frozen=True, kw_only=True):
    """Who may connect to the node itself. What no rule lets in is dropped, with or without this document; the API is open.

    Traffic that containers forward is not touched.
    """

    api_sources: Annotated[
        tuple[Prefix, ...], Meta(description="Networks that may reach the API; everybody where left out.")
    ] = ()
    rules: Annotated[tuple[FirewallRule, ...], Meta(description="What else is let in.")] = ()
    ping: Annotated[bool, Meta(description="Answer ICMP echo requests.")] = True
    log_dropped: Annotated[bool, Meta(description="Say in the kernel's log what was dropped, at a limited rate.")] = (
        False
    )
