"""How big the image is, and how much is in it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Goal
from osbuild.elf import Elf, read_elf
from osbuild.parts import Part, files_below

MB = 1e6


def is_program(elf: Elf, *, executable: bool) -> bool:
    """True for what execve(2) runs by itself: an executable file that names an interpreter or needs none, and is no library."""
    return executable and not elf.soname and bool(elf.interpreter or not elf.needed)


def measure(bench: Bench) -> Iterator[Figure]:
    """Size on disk and content."""
    sizes = bench.image["sizes"]
    parts = ", ".join(f"{name} {sizes[f'{name}_bytes'] / MB:.1f}" for name in ("root", "verity", "uki"))
    yield Figure(
        "image size", sizes["total_bytes"] / MB, "MB", f"root, hash tree and UKI, in 10^6 bytes: {parts}", Goal(64)
    )
    listing = bench.osbuild("inspect", bench.image["artifacts"]["raw"])
    content = sum(file["size"] for file in listing) / MB
    yield Figure("image content", content, "MB", "sum of the sizes of all files in the root, uncompressed")
    files = sum(not file["target"] for file in listing)
    yield Figure("files", files, "", f"regular files in the root; {len(listing) - files} symbolic links beside them")
    programs = _programs(bench)
    yield Figure("programs", len(programs), "", f"ELF executables in the root: {' '.join(programs)}", Goal(24))


def _programs(bench: Bench) -> list[str]:
    found = []
    for output in map(bench.output, bench.graph.root.inputs.values()):
        if not (output / "origins.json").exists():
            continue  # no part (osbuild.parts): tools, and what was made of the parts
        tree = Part.load(output).tree
        for path in map(tree.joinpath, files_below(tree)):
            elf = read_elf(path)
            if elf and is_program(elf, executable=bool(path.stat().st_mode & 0o111)):
                found.append(path.name)
    return sorted(found)
