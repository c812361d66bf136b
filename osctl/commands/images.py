"""image pull, import, export, list, remove, prune: the images on a node."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.errors import BasaltError, UsageError
from basalt.machine.v1 import containers_pb2 as api
from osctl import answers, transfers
from osctl.archives import find_archive, new_file
from osctl.fleet import Outcome, on_all
from osctl.messages import plain
from osctl.selection import targets_of, timeout_of

# Of an id or digest in a table; enough to tell images of one node apart.
SHORT = 12


def pull(arguments: Arguments) -> int:
    with transfers.make(arguments.progress, arguments.form) as shown:

        def act(target: Target) -> api.PullImageResponse:
            last = api.PullImageResponse()
            with connect(target, timeout_s=timeout_of(arguments)) as client, shown.of(target.name) as transfer:
                for last in client.pull_image(arguments.reference):
                    if last.fetched_bytes:  # the last word need not have it
                        transfer.at(last.fetched_bytes, last.total_bytes)
                if not last.digest:
                    raise BasaltError(
                        f"{target} ended the pull of {arguments.reference} before it was done",
                        remedy="try again; what has been fetched is kept",
                    )
            return last

        outcomes = on_all(targets_of(arguments), act)
    return answers.show(outcomes, arguments.form, plain, lambda last: output.printable(last.digest))


def import_archive(arguments: Arguments) -> int:
    targets = targets_of(arguments)
    archive = find_archive(arguments.file)
    if archive.once and len(targets) > 1:
        raise UsageError(
            f"{arguments.file} can be sent to one node only", remedy="name a file, or one node with -n NAME"
        )
    with transfers.make(arguments.progress, arguments.form) as shown:

        def act(target: Target) -> api.ImportImageResponse:
            with connect(target, timeout_s=timeout_of(arguments)) as client, shown.of(target.name) as transfer:
                chunks = transfer.counted(archive.chunks(), archive.size_bytes)
                return client.import_image(chunks, reference=arguments.reference)

        outcomes = on_all(targets, act)
    return answers.show(outcomes, arguments.form, plain, lambda answer: _table(answer.images), listing="images")


def export(arguments: Arguments) -> int:
    targets = targets_of(arguments)
    if len(targets) != 1:
        raise UsageError("images are exported from one node at a time", remedy="name one node with -n NAME")
    if arguments.file != "-":
        # Not in a thread as other commands: Ctrl-C must find the way to the unfinished file.
        with new_file(Path(arguments.file)) as stream:
            size_bytes = _receive(targets[0], arguments, stream)
        fields: dict[str, Any] = {
            "references": list(arguments.references),
            "file": arguments.file,
            "size_bytes": size_bytes,
        }
        done = f"{output.printable(arguments.file)}, {output.size(size_bytes)}"
        return answers.show([Outcome(targets[0], answer=fields)], arguments.form, dict, lambda _: done)
    if arguments.form != "table":
        raise UsageError(f"there is no room for an answer in {arguments.form}", why="-O - writes the archive there")
    if sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal", remedy="redirect standard output, or name a file with -O")
    _receive(targets[0], arguments, sys.stdout.buffer)
    return 0


def _receive(target: Target, arguments: Arguments, to: BinaryIO) -> int:
    """Write what the node sends to *to*; how many bytes it was."""
    with (
        transfers.make(arguments.progress, arguments.form) as shown,
        connect(target, timeout_s=timeout_of(arguments)) as client,
        shown.of(target.name) as transfer,
    ):
        for chunk in transfer.counted(client.export_image(arguments.references)):
            to.write(chunk)
        if not transfer.done_bytes:
            raise BasaltError(f"{target} sent an empty archive", remedy="`osctl image list` shows what it has")
        return transfer.done_bytes


def list_images(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ListImagesResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.images()

    outcomes = on_all(targets_of(arguments), ask)
    return answers.show(outcomes, arguments.form, plain, lambda answer: _table(answer.images), listing="images")


def remove(arguments: Arguments) -> int:
    def act(target: Target) -> api.RemoveImageResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.remove_image(arguments.references, force=arguments.force)

    def text(answer: api.RemoveImageResponse) -> str:
        return "\n".join(f"removed {output.printable(one)}" for one in answer.removed)

    return answers.show(on_all(targets_of(arguments), act), arguments.form, plain, text)


def prune(arguments: Arguments) -> int:
    def act(target: Target) -> api.PruneImagesResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.prune_images(dry_run=arguments.dry_run)

    def fields(answer: api.PruneImagesResponse) -> dict[str, Any]:
        return {**plain(answer), "dry_run": arguments.dry_run}

    def text(answer: api.PruneImagesResponse) -> str:
        if not answer.removed:
            return "nothing to remove: every image is named by a workload or used by a container"
        size = output.size(answer.freed_bytes)
        last = f"{size} would be freed; nothing was removed (--dry-run)" if arguments.dry_run else f"{size} freed"
        return f"{_table(answer.removed)}\n{last}"

    return answers.show(on_all(targets_of(arguments), act), arguments.form, fields, text)


def _table(images: Sequence[api.Image]) -> str:
    """A row for each name; an image without one has its id in that place."""
    rows = [
        (name, short(one.digest), output.size(one.size_bytes), _used_by(one))
        for one in images
        for name in (names_of(one) or [f"id {short(one.id)}"])
    ]
    return output.table(("image", "digest", "size", "used by"), rows)


def names_of(image: api.Image) -> list[str]:
    """An image's names with a tag; those with a digest, cut, where there are no others."""
    tagged = [name for name in image.references if "@" not in name]
    if tagged:
        return sorted(tagged)
    return sorted({shortened(name) for name in image.references})


def shortened(reference: str) -> str:
    """A reference with its digest cut."""
    name, found, digest = reference.partition("@")
    return f"{name}@{short(digest)}" if found else name


def short(digest: str) -> str:
    """The beginning of a digest or an id."""
    return digest.removeprefix("sha256:")[:SHORT] or "-"


def _used_by(image: api.Image) -> str:
    if image.pinned:
        return "the runtime itself"
    # "web/nginx" of a workload; a container's id otherwise.
    users = [user if "/" in user else short(user) for user in image.used_by]
    more = f" and {len(users) - 2} more" if len(users) > 3 else ""
    return ", ".join(users[:2] if more else users) + more or "-"
