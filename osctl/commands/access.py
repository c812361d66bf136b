"""gen client and the context commands: who the operator is, and which nodes there are."""

from __future__ import annotations

import sys
from pathlib import Path

from basalt import contexts, output, pki
from basalt.commandline import Arguments
from basalt.contexts import Context
from basalt.errors import BasaltError, UsageError
from basalt.files import write_atomic


def gen_client(arguments: Arguments) -> int:
    context = contexts.load().get(arguments.context)
    authority = contexts.authority_of(context)
    contexts.check_name(arguments.name, "certificate's files")
    directory = Path(arguments.output)
    files = {
        "certificate": directory / f"{arguments.name}.pem",
        "key": directory / f"{arguments.name}-key.pem",
        "ca": directory / f"{arguments.name}-ca.pem",
    }
    for path in files.values():
        if path.exists():
            raise UsageError(f"{path} exists already", remedy="move it away, or write elsewhere with --output DIR")
    client = pki.issue_client(authority, arguments.name, arguments.role, arguments.lifetime)
    try:
        write_atomic(files["key"], client.key_pem, mode=0o600)
        write_atomic(files["certificate"], client.certificate_pem)
        write_atomic(files["ca"], authority.certificate_pem)
    except OSError as error:
        raise BasaltError(f"cannot write to {directory}", why=error.strerror or str(error)) from error
    written = {name: str(path) for name, path in files.items()}
    if arguments.form != "table":
        output.emit(written, arguments.form)
        return 0
    print(output.pairs({"made": describe(client), **written}))
    print(
        f"The holder makes a context of it: osctl context create NAME --certificate {files['certificate']} "
        f"--key {files['key']} --ca {files['ca']}"
    )
    return 0


def describe(client: pki.Identity) -> str:
    """A certificate in one line."""
    from cryptography import x509

    return pki.describe(x509.load_pem_x509_certificate(client.certificate_pem))


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
    name = arguments.name or everything.current
    context = everything.get(name)
    shown = {
        "name": name,
        "file": str(contexts.config_path()),
        "identity": describe(contexts.client_of(context)),
        "can_sign": context.ca_key is not None,
        "default_node": context.node,
        "nodes": {
            node: {"endpoint": entry.endpoint, "fingerprint": entry.fingerprint}
            for node, entry in context.nodes.items()
        },
    }
    if arguments.form != "table":
        output.emit(shown, arguments.form)
        return 0
    print(output.pairs({key.replace("_", " "): value for key, value in shown.items() if key != "nodes"}))
    rows = [(node, entry.endpoint, entry.fingerprint) for node, entry in context.nodes.items()]
    if rows:
        print(f"\n{output.table(('node', 'endpoint', 'fingerprint'), rows)}")
    return 0


def use_context(arguments: Arguments) -> int:
    contexts.use(arguments.name)
    return 0


def create_context(arguments: Arguments) -> int:
    given = {"--certificate": arguments.certificate, "--key": arguments.key, "--ca": arguments.ca}
    if arguments.name in contexts.load().contexts:
        raise UsageError(f"there is a context {arguments.name!r} already", remedy="choose another name")
    if not any(given.values()):
        _made(arguments.name, contexts.ensure_context(arguments.name))
        return 0
    missing = [flag for flag, file in given.items() if not file]
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing", why="certificate, key and authority belong together")
    _made(arguments.name, _import(arguments))
    return 0


def _import(arguments: Arguments) -> Context:
    from basalt.pki_checks import check_key, load_client_authorities, load_client_certificates

    try:
        certificate, key, authority = (
            Path(name).read_bytes() for name in (arguments.certificate, arguments.key, arguments.ca)
        )
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}", why=error.strerror or str(error)) from error
    client = load_client_certificates(certificate, arguments.certificate, at=pki.utc_now())[0]
    check_key(client, key, arguments.key)
    load_client_authorities(authority, arguments.ca, at=pki.utc_now())
    return contexts.import_context(arguments.name, ca_pem=authority, client=pki.Identity(certificate, key))


def _made(name: str, context: Context) -> None:
    print(f"made context {name!r}: you are {describe(contexts.client_of(context))}")


def print_ca(arguments: Arguments) -> int:
    context = contexts.load().get(arguments.name) if arguments.name else contexts.ensure_context()
    sys.stdout.write(contexts.client_ca_pem(context).decode("ascii"))
    return 0


def renew(arguments: Arguments) -> int:
    print(f"you are now {describe(contexts.renew_client(arguments.name))}")
    return 0


def add_node(arguments: Arguments) -> int:
    contexts.add_node(
        arguments.node, arguments.endpoint, arguments.fingerprint, context=arguments.context, default=arguments.default
    )
    return 0


def remove_node(arguments: Arguments) -> int:
    contexts.remove_node(arguments.node, context=arguments.context)
    return 0
