"""The context commands: who the operator is, and which nodes there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from basalt import context_admin, contexts, output, pki
from basalt.commandline import Arguments
from basalt.contexts import Context
from basalt.errors import UsageError
from osctl.commands.gen import SECRETS, describe
from osctl.reading import read_file


def list_contexts(arguments: Arguments) -> int:
    everything = contexts.load()
    if arguments.form != "table":
        output.emit(
            [
                {
                    "name": name,
                    "current": name == everything.current,
                    "nodes": list(context.nodes),
                    "default_node": context.node,
                }
                for name, context in everything.contexts.items()
            ],
            arguments.form,
        )
    elif everything.contexts:
        rows = [
            ("*" if name == everything.current else "", name, ", ".join(context.nodes) or "none")
            for name, context in everything.contexts.items()
        ]
        print(output.table(("current", "context", "nodes"), rows))
    else:
        print("There are no contexts yet; `osctl context create NAME` and `osbuild boot` make one.", file=sys.stderr)
    return 0


def show_context(arguments: Arguments) -> int:
    everything = contexts.load()
    name = _named(arguments) or everything.current
    context = everything.get(name)
    client = contexts.client_of(context)
    shown = {
        "name": name,
        "file": str(contexts.config_path()),
        "identity": _identity(client) if arguments.form != "table" else describe(client),
        "can_sign": context.ca_key is not None,
        "default_node": context.node,
        "can_enrol": context.node_ca_key is not None,
        "nodes": {
            node: {"endpoint": entry.endpoint, "fingerprint": entry.fingerprint, "id": entry.id}
            for node, entry in context.nodes.items()
        },
    }
    if arguments.form != "table":
        output.emit(shown, arguments.form)
        return 0
    print(output.pairs({key.replace("_", " "): value for key, value in shown.items() if key != "nodes"}))
    rows = [
        (node, entry.endpoint, f"id {entry.id}" if entry.id else entry.fingerprint)
        for node, entry in context.nodes.items()
    ]
    if rows:
        print(f"\n{output.table(('node', 'endpoint', 'recognised by'), rows)}")
    return 0


def _named(arguments: Arguments) -> str | None:
    """The context that a command is about, by its own argument or by ``--context``; None is the current one.

    :raises UsageError: when the two differ.
    """
    if arguments.name and arguments.context not in (None, arguments.name):
        raise UsageError(
            f"two contexts are named: {arguments.name!r}, and --context {arguments.context!r}", remedy="name one"
        )
    name: str | None = arguments.name or arguments.context
    return name


def _identity(client: pki.Identity) -> dict[str, Any]:
    """A client certificate as values; times in seconds since the epoch."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(client.certificate_pem)
    return {
        "name": pki.common_name(certificate),
        "roles": sorted(role.short for role in pki.roles_of(certificate)),
        "serial": f"{certificate.serial_number:x}",
        "not_before_unix": int(certificate.not_valid_before_utc.timestamp()),
        "not_after_unix": int(certificate.not_valid_after_utc.timestamp()),
    }


def use_context(arguments: Arguments) -> int:
    contexts.use(arguments.name)
    return 0


def create_context(arguments: Arguments) -> int:
    given = {"--certificate": arguments.certificate, "--key": arguments.key, "--ca": arguments.ca}
    if arguments.name in contexts.load().contexts:
        raise UsageError(f"there is a context {arguments.name!r} already", remedy="choose another name")
    if arguments.secrets is not None:
        if any(given.values()) or arguments.node_ca:
            raise UsageError("--secrets goes alone", why="the directory has all that the context needs")
        _made(arguments.name, _from_secrets(arguments.name, Path(arguments.secrets)))
        return 0
    if not any(given.values()) and not arguments.node_ca:
        _made(arguments.name, contexts.ensure_context(arguments.name))
        return 0
    missing = [flag for flag, file in given.items() if not file]
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing", why="certificate, key and authority belong together")
    _made(arguments.name, _import(arguments))
    return 0


def _from_secrets(name: str, directory: Path) -> Context:
    from basalt.pki_checks import check_key, load_client_authorities, load_node_authorities

    paths = [str(directory / file) for file in SECRETS]
    client_ca, client_key, node_ca, node_key = (read_file(path) for path in paths)
    check_key(load_client_authorities(client_ca, paths[0], at=pki.utc_now())[0], client_key, paths[1])
    check_key(load_node_authorities(node_ca, paths[2], at=pki.utc_now())[0], node_key, paths[3])
    return context_admin.own_context(name, pki.Identity(client_ca, client_key), pki.Identity(node_ca, node_key))


def _import(arguments: Arguments) -> Context:
    from basalt.pki_checks import check_key, load_client_authorities, load_client_certificates, load_node_authorities

    certificate, key, authority = map(read_file, (arguments.certificate, arguments.key, arguments.ca))
    client = load_client_certificates(certificate, arguments.certificate, at=pki.utc_now())[0]
    check_key(client, key, arguments.key)
    load_client_authorities(authority, arguments.ca, at=pki.utc_now())
    node_ca = None
    if arguments.node_ca:
        node_ca = read_file(arguments.node_ca)
        load_node_authorities(node_ca, arguments.node_ca, at=pki.utc_now())
    return contexts.import_context(
        arguments.name, ca_pem=authority, client=pki.Identity(certificate, key), node_ca_pem=node_ca
    )


def _made(name: str, context: Context) -> None:
    print(f"made context {name!r}: you are {describe(contexts.client_of(context))}")


def rename_context(arguments: Arguments) -> int:
    context_admin.rename(arguments.name, arguments.new)
    return 0


def delete_context(arguments: Arguments) -> int:
    context_admin.delete(arguments.name, with_authority=arguments.with_authority)
    return 0


def print_ca(arguments: Arguments) -> int:
    name = _named(arguments)
    context = contexts.load().get(name) if name else contexts.ensure_context()
    if arguments.authority == "client":
        sys.stdout.write(contexts.client_ca_pem(context).decode("ascii"))
        return 0
    pem = contexts.node_ca_pem(context)
    if not pem:
        raise contexts.no_node_authority("cannot print the node authority")
    sys.stdout.write(pem.decode("ascii"))
    return 0


def trust_nodes(arguments: Arguments) -> int:
    from basalt.pki_checks import load_node_authorities

    pem = read_file(arguments.node_ca)
    load_node_authorities(pem, arguments.node_ca, at=pki.utc_now())
    context_admin.trust_nodes_of(pem, _named(arguments))
    return 0


def renew(arguments: Arguments) -> int:
    print(f"you are now {describe(contexts.renew_client(_named(arguments)))}")
    return 0


def add_node(arguments: Arguments) -> int:
    contexts.add_node(
        arguments.node,
        arguments.endpoint,
        arguments.fingerprint,
        node_id=arguments.node_id,
        context=arguments.context,
        default=arguments.default,
    )
    return 0


def remove_node(arguments: Arguments) -> int:
    contexts.remove_node(arguments.node, context=arguments.context)
    return 0
