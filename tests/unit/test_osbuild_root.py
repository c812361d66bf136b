"""From parts to a root: what is picked, what is refused, and the same bytes from the same files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from basalt.errors import BasaltError, UsageError
from osbuild.elf import Elf, read_elf
from osbuild.graph import Context, build
from osbuild.keys import code_modules
from osbuild.lock.model import DebianLock, Package
from osbuild.parts import Part, files_below, matches, select
from osbuild.pipeline import image_graph
from osbuild.policy import violations
from osbuild.progress import Progress
from osbuild.steps.base import compress_hints
from osbuild.steps.debian_part import AUTHORITIES, LIBRARIES, debian_step
from osbuild.store import Store
from osbuild.tree import File, collect, write_tar
from tests.unit.osbuild_steps import step

# ---- patterns


@pytest.mark.parametrize(
    ("glob", "fits", "does_not"),
    [
        ("usr/bin/runc", ["usr/bin/runc"], ["usr/bin/runc2", "x/usr/bin/runc", "usr/bin"]),
        ("usr/bin/*", ["usr/bin/s6-svc"], ["usr/bin/a/b", "usr/sbin/x"]),
        ("*.py", ["abc.py", ".py"], ["a/abc.py", "abc.pyc", "abc.py\n"]),
        ("**/*.pyi", ["a.pyi", "a/b/c.pyi"], ["a.py", "a/b.pyi/c"]),
        ("test/**", ["test/a", "test/a/b"], ["test", "tests/a"]),
        ("**", ["a", "a/b"], []),
        ("lib?.so", ["liba.so"], ["lib.so", "libab.so", "lib/.so"]),
        ("a.b", ["a.b"], ["axb"]),
        ("[ab]+", ["[ab]+"], ["a", "ab"]),
        ("basalt/**.py", ["basalt/a.py", "basalt/b/c.py"], ["basalt/a.pyc", "other/a.py"]),
    ],
)
def test_star_stays_in_a_directory_and_two_cross_it(glob: str, fits: list[str], does_not: list[str]) -> None:
    assert [name for name in fits + does_not if matches(name, [glob])] == fits


def test_selection_keeps_order_and_leaves_out() -> None:
    names = ["b/x.py", "a/x.py", "a/x.c", "c"]
    assert select(names, ["**"], ["**/*.c"]) == ["b/x.py", "a/x.py", "c"]
    assert select(names, []) == []


# ---- parts


@pytest.fixture
def part(tmp_path: Path) -> Part:
    (tmp_path / "out").mkdir()
    return Part.new(tmp_path / "out")


def test_part_comes_back_with_the_origin_of_every_file(part: Part, tmp_path: Path) -> None:
    part.write("usr/lib/a", b"x", "a 1")
    part.link("usr/lib/b", "a", "b 2")
    part.save()
    assert Part.load(tmp_path / "out").origins == {"usr/lib/a": "a 1", "usr/lib/b": "b 2"}


def test_file_that_nobody_accounts_for_is_refused(part: Part) -> None:
    part.write("usr/lib/a", b"x", "a 1")
    (part.tree / "usr/lib/smuggled").write_text("x")
    with pytest.raises(ValueError, match="smuggled"):
        part.save()
    part.adopt(lambda name: f"from {name}")
    part.save()
    assert part.origins == {"usr/lib/a": "a 1", "usr/lib/smuggled": "from usr/lib/smuggled"}


def test_recorded_file_that_is_not_there_is_refused(part: Part) -> None:
    part.write("a", b"x", "a 1")
    (part.tree / "a").unlink()
    with pytest.raises(ValueError, match="absent"):
        part.save()


def test_links_to_directories_are_files_of_a_part(part: Part) -> None:
    part.write("usr/lib/a", b"x", "a 1")
    part.link("lib", "usr/lib", "b 2")
    part.link("nowhere", "/does/not/exist", "b 2")
    assert sorted(files_below(part.tree)) == ["lib", "nowhere", "usr/lib/a"]


def test_replacing_a_link_never_writes_through_it(part: Part, tmp_path: Path) -> None:
    host = tmp_path / "host-file"
    host.write_text("the host's")
    part.link("etc/hosts", str(host), "basalt 1")
    source = tmp_path / "source"
    source.write_text("overlay")
    part.add(source, "etc/hosts", "overlay files")
    assert host.read_text() == "the host's"
    assert (part.tree / "etc/hosts").read_text() == "overlay"
    part.link("etc/hosts", "../run/etc/hosts", "basalt 1")
    part.write("etc/hosts", b"written", "basalt 1")
    assert (part.tree / "etc/hosts").read_text() == "written"


# ---- the canonical tar


def make_part(directory: Path, names: list[str], *, origin: str = "pkg 1", when: int = 0, mask: int = 0o022) -> Part:
    directory.mkdir(parents=True)
    before = os.umask(mask)
    try:
        part = Part.new(directory)
        for name in names:
            part.write(name, name.encode(), origin, executable="bin" in name)
        for name in names:
            os.utime(part.tree / name, (when, when))
    finally:
        os.umask(before)
    return part


def tar_of(part: Part, target: Path) -> bytes:
    write_tar(collect([part]), ["var"], target, 1_700_000_000)
    return target.read_bytes()


def test_same_files_give_the_same_tar_whatever_their_times_order_and_umask(tmp_path: Path) -> None:
    names = ["usr/bin/b", "usr/bin/a", "etc/hosts"]
    one = make_part(tmp_path / "one", names, when=1000)
    other = make_part(tmp_path / "other", list(reversed(names)), when=2_000_000, mask=0o077)
    (one.tree / "etc/hosts").chmod(0o600)
    (one.tree / "usr/bin/a").chmod(0o711)
    assert tar_of(one, tmp_path / "one.tar") == tar_of(other, tmp_path / "other.tar")


def test_tar_says_root_owns_all_and_nothing_is_setuid(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", ["usr/bin/su", "etc/hosts"])
    (part.tree / "usr/bin/su").chmod(0o4755)
    part.link("bin", "usr/bin", "pkg 1")
    tar_of(part, tmp_path / "root.tar")
    with tarfile.open(tmp_path / "root.tar") as archive:
        members = {member.name: member for member in archive}
    assert list(members) == [".", "./etc", "./usr", "./usr/bin", "./var", "./bin", "./etc/hosts", "./usr/bin/su"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {(0, 0, "", "", 1_700_000_000)}
    assert members["./usr/bin/su"].mode == 0o755
    assert members["./etc/hosts"].mode == 0o644
    assert members["./bin"].linkname == "usr/bin"


def test_what_changes_most_often_stands_last_in_the_tar(tmp_path: Path) -> None:
    ours = make_part(tmp_path / "ours", ["etc/a"], origin="basalt 0.1.0")
    theirs = make_part(tmp_path / "theirs", ["usr/bin/z"])
    write_tar(collect([ours, theirs]), [], tmp_path / "root.tar", 0)
    with tarfile.open(tmp_path / "root.tar") as archive:
        assert [member.name for member in archive if member.isfile()] == ["./usr/bin/z", "./etc/a"]


def test_two_parts_with_the_same_file_are_refused_with_both_origins(tmp_path: Path) -> None:
    one = make_part(tmp_path / "one", ["etc/services"], origin="netbase 6.5")
    other = make_part(tmp_path / "other", ["etc/services"], origin="basalt 0.1.0")
    with pytest.raises(BasaltError) as caught:
        collect([one, other])
    assert caught.value.what == "two sources bring /etc/services"
    assert caught.value.why == "netbase 6.5 and basalt 0.1.0"


def test_seldom_read_files_are_named_to_mkfs_literally() -> None:
    hints = compress_hints(["usr/bin/containerd", "usr/lib/libstdc++.so.6"], 1048576)
    assert hints == "1048576 1 usr/bin/containerd$\n1048576 1 usr/lib/libstdc[+][+][.]so[.]6$\n"
    assert compress_hints([], 1048576) == ""


def test_version_of_the_image_appends_to_the_same_base() -> None:
    one, other = (image_graph("minimal", version=version).root for version in ("1", "2"))
    assert one.inputs["base"].key == other.inputs["base"].key
    assert one.key != other.key


# ---- what must not be in a root


def file(path: str, mode: int = 0o644, target: str = "") -> File:
    return File(path, mode, 1, "pkg 1", sha256="" if target else "00", target=target)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (file("usr/bin/bash"), "/usr/bin/bash is a shell or a way to one"),
        (file("usr/sbin/sulogin"), "/usr/sbin/sulogin is a shell or a way to one"),
        (file("usr/bin/busybox"), "/usr/bin/busybox is a shell or a way to one"),
        (file("usr/bin/execlineb"), "/usr/bin/execlineb is a shell or a way to one"),
        (file("usr/lib/bash/helper"), None),
        (file("usr/bin/dpkg"), "/usr/bin/dpkg is a package manager"),
        (file("usr/bin/runc", 0o4755), "/usr/bin/runc is setuid or setgid"),
        (file("usr/bin/wall", 0o2755), "/usr/bin/wall is setuid or setgid"),
        (file("usr/share/doc/s6/copyright"), "/usr/share/doc/s6/copyright is documentation"),
        (file("usr/share/man/man1/x.1"), "/usr/share/man/man1/x.1 is documentation"),
        (file("usr/lib/python3/dist-packages/a.pyi"), "/usr/lib/python3/dist-packages/a.pyi is documentation"),
        (file("usr/lib/python3.13/os.py"), "/usr/lib/python3.13/os.py is Python source; only bytecode belongs in the root"),
        (file("usr/lib/python3.13/os.pyc"), None),
        (file("bin", target="usr/bin"), "/bin points to usr/bin, which is not in the root"),
        (file("usr/a/link", target="../b"), "/usr/a/link points to ../b, which is not in the root"),
        (file("usr/link", target="/usr/gone"), "/usr/link points to /usr/gone, which is not in the root"),
        (file("etc/hosts", target="../run/etc/hosts"), None),
        (file("etc/mtab", target="/proc/self/mounts"), None),
        (file("etc/up", target="../../../usr/there"), None),
        (file("lib", target="usr/dir"), None),
    ],
)  # fmt: skip
def test_each_thing_that_must_not_be_in_a_root(entry: File, said: str | None) -> None:
    present = [file("usr/there"), file("usr/dir/a")]
    assert violations([*present, entry], {}) == ([said] if said else [])


LIBC = "usr/lib/x86_64-linux-gnu/libc.so.6"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
PROGRAM = Elf(("libc.so.6",), "", "/lib64/ld-linux-x86-64.so.2")


def test_library_that_nothing_needs_is_refused_unless_it_is_opened_by_name() -> None:
    elves = {
        "usr/bin/runc": PROGRAM,
        LIBC: Elf((), "libc.so.6", ""),
        LOADER: Elf((), "ld-linux-x86-64.so.2", ""),
        "usr/lib/x86_64-linux-gnu/libgcc_s.so.1": Elf(("libc.so.6",), "libgcc_s.so.1", ""),
    }
    said = "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1 is a library that nothing needs"
    assert violations([], elves) == [said]
    assert violations([], elves, opened_by_name=frozenset({"libgcc_s.so.1"})) == []


def test_library_that_is_missing_is_named_with_who_needs_it() -> None:
    assert violations([], {"usr/bin/runc": PROGRAM}) == ["/usr/bin/runc needs libc.so.6, which is not in the root"]


# ---- ELF


def test_elf_facts_of_the_running_interpreter() -> None:
    elf = read_elf(Path(sys.executable).resolve())
    assert elf is not None
    assert "libc.so.6" in elf.needed
    assert elf.interpreter.startswith("/lib")
    library = read_elf(host_library("libc.so.6"))
    assert library is not None
    assert library.soname == "libc.so.6"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + b"\x00" * 100])
def test_what_is_no_elf_file_has_no_facts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_elf(tmp_path / "file") is None


def test_links_and_directories_have_no_elf_facts(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sys.executable)
    assert read_elf(tmp_path / "link") is None
    assert read_elf(tmp_path) is None


# ---- picking files of packages


def host_library(soname: str) -> Path:
    printed = subprocess.run(["ldd", shutil.which("env") or "env"], capture_output=True, text=True, check=True).stdout
    found = next(word for word in printed.split() if word.startswith("/") and Path(word).name == soname)
    return Path(found).resolve()


def pool(ctx: Context) -> None:
    """Packages in small, of the host's own files: a program, the name it is also known by, and its C library."""
    coreutils, libc = ctx.out / "coreutils", ctx.out / "libc6"
    for directory in (coreutils / "usr/bin", libc / LIBRARIES, libc / "usr/lib64"):
        directory.mkdir(parents=True)
    shutil.copyfile(shutil.which("env") or "env", coreutils / "usr/bin/env")
    (coreutils / "usr/bin/also").symlink_to("env")
    (coreutils / "usr/bin/absolute").symlink_to("/etc/passwd")
    (coreutils / "usr/share/ca-certificates").mkdir(parents=True)
    (coreutils / "usr/share/ca-certificates/a.crt").write_text("first")
    (coreutils / "usr/share/ca-certificates/b.crt").write_text("second\n")
    for soname in ("libc.so.6", "ld-linux-x86-64.so.2"):
        directory = "usr/lib64" if soname.startswith("ld-") else LIBRARIES
        shutil.copyfile(host_library(soname), libc / directory / f"{soname}.1")
        (libc / directory / soname).symlink_to(f"{soname}.1")


def no_python(ctx: Context) -> None:
    Part.new(ctx.out).save()


def picked(
    store: Store,
    picks: dict[str, list[str]],
    authorities: dict[str, list[str]] | None = None,
    links: dict[str, str] | None = None,
) -> Part:
    """What a profile with *picks*, *authorities* and *links* gets of the pool."""
    lock = DebianLock(
        schema=1,
        epoch=0,
        suite="trixie",
        requested={},
        sets={"image": ["coreutils", "libc6"]},
        packages={name: Package("1.0", "amd64", "main", "", 0, "") for name in ("coreutils", "libc6")},
    )
    made = debian_step(step("pool", pool), step("python", no_python), lock, picks, links or {}, authorities or {})
    build(store, [made], Progress())
    return Part.load(store.path(made.key))


def test_libraries_follow_what_is_picked_under_their_soname(tmp_path: Path) -> None:
    part = picked(Store(tmp_path), {"coreutils": ["usr/bin/env"]})
    assert part.origins == {"usr/bin/env": "coreutils 1.0", LIBC: "libc6 1.0", LOADER: "libc6 1.0"}
    assert not (part.tree / LIBC).is_symlink()


def test_picked_link_brings_what_it_points_to_even_when_the_cache_lies_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "cache").symlink_to("real")
    part = picked(Store(tmp_path / "cache"), {"coreutils": ["usr/bin/also"]})
    assert {"usr/bin/also", "usr/bin/env"} <= part.origins.keys()


def test_link_out_of_its_package_brings_nothing_of_the_host(tmp_path: Path) -> None:
    part = picked(Store(tmp_path), {"coreutils": ["usr/bin/absolute"]})
    assert part.origins == {"usr/bin/absolute": "coreutils 1.0"}


def test_pick_that_finds_nothing_names_package_and_pattern(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"package coreutils 1\.0 has no file 'usr/bin/sort'"):
        picked(Store(tmp_path), {"coreutils": ["usr/bin/sort"]})
    with pytest.raises(UsageError) as caught:
        picked(Store(tmp_path), {"runc": ["usr/sbin/runc"]})
    assert "[debian.image]" in caught.value.remedy


def test_links_stand_in_for_what_maintainer_scripts_would_make(tmp_path: Path) -> None:
    part = picked(Store(tmp_path), {"coreutils": ["usr/bin/env"]}, links={"usr/bin/yes": "env"})
    assert (part.tree / "usr/bin/yes").readlink() == Path("env")
    assert part.origins["usr/bin/yes"] == "profile"


def test_authorities_are_joined_into_the_one_file_that_programs_read(tmp_path: Path) -> None:
    part = picked(Store(tmp_path), {}, {"coreutils": ["usr/share/ca-certificates/*.crt"]})
    assert part.origins == {AUTHORITIES: "coreutils 1.0"}
    assert (part.tree / AUTHORITIES).read_text() == "first\nsecond\n", "a missing line end joins no two of them"
    with pytest.raises(UsageError, match="no file") as caught:
        picked(Store(tmp_path), {}, {"coreutils": ["usr/share/none/*.crt"]})
    assert "[authorities]" in caught.value.remedy


def test_a_changed_line_of_machined_leaves_the_base_alone() -> None:
    """The base takes half a minute; nothing that changes every day may be part of its key."""
    modules = code_modules("osbuild.steps.base")
    assert not [
        name for name in modules if name.startswith(("machined", "basalt", "osbuild.commands", "osbuild.steps.os_part"))
    ]
