"""Rules about who is let in: certificates, registries' credentials, the firewall."""

from __future__ import annotations

from collections.abc import Iterator

from basalt.config.documents import (
    AccessConfig,
    FirewallConfig,
    FirewallRule,
    RegistryAuth,
    RegistryConfig,
    RegistryMirror,
    RegistrySignature,
)
from basalt.config.rules.finding import Finding, repeated
from basalt.endpoint import DEFAULT_PORT as API_PORT


def certificates_differ(access: AccessConfig) -> Iterator[Finding]:
    seen = set()
    for index, certificate in enumerate(access.client_authorities):
        if certificate in seen:
            yield Finding(("clientAuthorities", index), "the same certificate again", "each once")
        seen.add(certificate)
    yield from repeated(((("revokedSerials", i), text) for i, text in enumerate(access.revoked_serials)), "the serial")


def registries_differ(registry: RegistryConfig) -> Iterator[Finding]:
    mirrors = ((("mirrors", i, "registry"), each.registry) for i, each in enumerate(registry.mirrors))
    yield from repeated(mirrors, "the registry")
    yield from repeated(((("auth", i, "host"), each.host) for i, each in enumerate(registry.auth)), "the host")
    authorities = ((("authorities", i, "host"), each.host) for i, each in enumerate(registry.authorities))
    yield from repeated(authorities, "the host")
    images = ((("signatures", i, "images"), each.images) for i, each in enumerate(registry.signatures))
    yield from repeated(images, "the images")


def endpoints_differ(mirror: RegistryMirror) -> Iterator[Finding]:
    yield from repeated(((("endpoints", i), text) for i, text in enumerate(mirror.endpoints)), "the endpoint")


def keys_differ(signature: RegistrySignature) -> Iterator[Finding]:
    for index, key in enumerate(signature.keys):
        if key in signature.keys[:index]:
            yield Finding(("keys", index), "the same key again", "each once")


def credentials_are_of_one_kind(auth: RegistryAuth) -> Iterator[Finding]:
    allowed = "username and password, or identityToken"
    if auth.identity_token is not None:
        for field in ("username", "password"):
            if getattr(auth, field) is not None:
                yield Finding((field,), f"both identityToken and {field}", allowed)
    elif auth.username is None and auth.password is None:
        yield Finding((), f"no credentials for {auth.host}", allowed)
    elif auth.username is None or auth.password is None:
        there, missing = ("username", "password") if auth.password is None else ("password", "username")
        yield Finding((), f"{there} without {missing}", allowed)


def firewall_rules_differ(firewall: FirewallConfig) -> Iterator[Finding]:
    yield from repeated(((("rules", i, "name"), rule.name) for i, rule in enumerate(firewall.rules)), "the rule")
    yield from repeated(((("apiSources", i), text) for i, text in enumerate(firewall.api_sources)), "the network")


def parts_of_firewall_rule_differ(rule: FirewallRule) -> Iterator[Finding]:
    yield from repeated(((("ports", i), text) for i, text in enumerate(rule.ports)), "the port")
    yield from repeated(((("sources", i), text) for i, text in enumerate(rule.sources)), "the network")
    yield from repeated(((("links", i), text) for i, text in enumerate(rule.links)), "the link")


def api_stays_restricted(firewall: FirewallConfig) -> Iterator[Finding]:
    """A rule that let everybody to the API would make apiSources a promise that nobody keeps."""
    if not firewall.api_sources:
        return
    for index, rule in enumerate(firewall.rules):
        for at, text in enumerate(rule.ports):
            first, _, last = text.partition("-")
            if rule.protocol == "tcp" and int(first) <= API_PORT <= int(last or first):
                yield Finding(
                    ("rules", index, "ports", at),
                    f"found {text}, with the API's port {API_PORT}",
                    "others: apiSources says who may",
                )
