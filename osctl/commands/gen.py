"""gen secrets, gen config and gen client: authorities, starter documents, and certificates for other people."""

from __future__ import annotations

import sys
from pathlib import Path

from basalt import context_admin, contexts, output, pki
from basalt.commandline import Arguments
from basalt.errors import BasaltError, UsageError
from basalt.files import write_atomic

# Of the two authorities in the directory that `osctl gen secrets --output` writes and `osctl context create --secrets` reads.
SECRETS = {
    "client-ca.pem": "what nodes are told to trust",
    "client-ca-key.pem": "whoever has it can make an admin of every node that trusts it",
    "node-ca.pem": "what enrolled nodes are verified against",
    "node-ca-key.pem": "whoever has it can vouch for any node",
}


def secrets(arguments: Arguments) -> int:
    wanted = arguments.context
    if arguments.output is None:
        return _into_context(wanted, arguments.form)
    directory = Path(arguments.output)
    client, node = contexts.make_authorities(wanted or contexts.load().current)
    contents = (client.certificate_pem, client.key_pem, node.certificate_pem, node.key_pem)
    written = _write_new(directory, dict(zip(SECRETS, contents, strict=True)))
    if arguments.form != "table":
        output.emit(written, arguments.form)
        return 0
    print(output.pairs({path: SECRETS[name] for name, path in written.items()}))
    print(f"A context of them: osctl context create NAME --secrets {directory}")
    return 0


def _into_context(wanted: str | None, form: str) -> int:
    made = context_admin.complete(wanted)
    name = contexts.load().current if wanted is None else wanted
    said = f"the context {name!r} " + ("has both authorities now" if made else "has both authorities already")
    output.answer(form, {"context": name, "made": made, "directory": str(contexts.directory_of(name))}, said)
    return 0


def config(arguments: Arguments) -> int:
    from basalt.config.starter import starter

    context = contexts.ensure_context(arguments.context)
    sys.stdout.write(starter(arguments.name, [contexts.client_ca_pem(context).decode("ascii")]).decode())
    return 0


def client(arguments: Arguments) -> int:
    context = contexts.load().get(arguments.context)
    authority = contexts.authority_of(context)
    contexts.check_name(arguments.name, "certificate's files")
    made = pki.issue_client(authority, arguments.name, arguments.role, arguments.lifetime)
    name = arguments.name
    files = {
        f"{name}-key.pem": made.key_pem,
        f"{name}.pem": made.certificate_pem,
        f"{name}-ca.pem": authority.certificate_pem,
    }
    node_ca = contexts.node_ca_pem(context)
    if node_ca:
        files[f"{name}-node-ca.pem"] = node_ca
    paths = _write_new(Path(arguments.output), files)
    kinds = {"certificate": f"{name}.pem", "key": f"{name}-key.pem", "ca": f"{name}-ca.pem"}
    if node_ca:
        kinds["node_ca"] = f"{name}-node-ca.pem"
    written = {kind: paths[file] for kind, file in kinds.items()}
    if arguments.form != "table":
        output.emit(written, arguments.form)
        return 0
    print(output.pairs({"made": describe(made), **{kind.replace("_", " "): path for kind, path in written.items()}}))
    flags = " ".join(f"--{kind.replace('_', '-')} {path}" for kind, path in written.items())
    print(f"The holder makes a context of it: osctl context create NAME {flags}")
    return 0


def describe(client: pki.Identity) -> str:
    """A certificate in one line."""
    from cryptography import x509

    return pki.describe(x509.load_pem_x509_certificate(client.certificate_pem))


def _write_new(directory: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Write *files* to *directory*, keys for their owner alone; none that exists is replaced.

    :returns: the path of each.
    """
    for name in files:
        if (directory / name).exists():
            raise UsageError(
                f"{directory / name} exists already", remedy="move it away, or write elsewhere with --output DIR"
            )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(directory / name, content, mode=0o600 if name.endswith("-key.pem") else 0o644)
    except OSError as error:
        raise BasaltError(f"cannot write to {directory}", why=error.strerror or str(error)) from error
    return {name: str(directory / name) for name in files}
