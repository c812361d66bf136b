"""A private apt: its own lists of trixie, verified by apt against Debian's archive keys, whatever the host runs.

The host's proxies and mirror are used; its sources, preferences and package state are not.
"""

from __future__ import annotations

import contextlib
import email.utils
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from basalt.errors import BasaltError, UsageError
from osbuild.lock.model import Package

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HELPER = Path("/usr/lib/apt/apt-helper")

# Told how far a download is, in words.
Note = Callable[[str], None]


def silent(_text: str) -> None:
    """A :data:`Note` for when nobody listens."""


_COMPONENTS = "main contrib non-free non-free-firmware"


@dataclass(frozen=True)
class Mirrors:
    """Base URLs of the Debian archive and of its security archive."""

    main: str
    security: str

    def url(self, package: Package) -> str:
        """Where *package* should be."""
        base = self.security if package.archive == "security" else self.main
        # "+" and "~" stand in paths as they are; only the version's "%" escapes matter, and apt wrote those already.
        return f"{base}/{package.path}"


def find_mirrors(override: str | None = None) -> Mirrors:
    """The mirror from *override*, ``$OSBUILD_MIRROR``, or the host's apt sources.

    :raises UsageError: when the host has no Debian source.
    """
    chosen = override or os.environ.get("OSBUILD_MIRROR")
    if chosen:
        main = chosen.rstrip("/")
        return Mirrors(main, os.environ.get("OSBUILD_SECURITY_MIRROR", f"{main}-security").rstrip("/"))
    urls = _host_urls()
    main_urls = [url for url in urls if url.endswith("/debian")]
    security_urls = [url for url in urls if url.endswith("/debian-security")]
    if not main_urls:
        raise UsageError(
            "no Debian mirror is known",
            why="the host's apt sources name none that ends in /debian",
            remedy="Give one: --mirror URL, or set OSBUILD_MIRROR",
        )
    return Mirrors(main_urls[0], security_urls[0] if security_urls else f"{main_urls[0]}-security")


def _host_urls() -> list[str]:
    """URLs of all sources apt knows, by apt itself (one-line and deb822 formats, mirror lists, Dir settings)."""
    _require("apt-get")
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False
    ).stdout
    urls = [url for line in listed.splitlines() for url in _behind(line.strip())]
    return list(dict.fromkeys(url.rstrip("/") for url in urls if url.startswith(("http", "file:", "ftp"))))


def _behind(url: str) -> list[str]:
    """The mirrors of a local list (apt-transport-mirror(1)), as cloud images have it; any other URL is itself."""
    scheme, found, path = url.partition("+file:")
    if not found or scheme != "mirror":
        return [url]
    with contextlib.suppress(OSError):
        return [line.split()[0] for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
    return []


def _require(program: str) -> None:
    if not shutil.which(program):
        raise BasaltError(
            f"{program} is not installed", why="packages are resolved and verified by apt", remedy="Use a host with apt"
        )


class PrivateApt:
    """apt with its state below *directory*. Use as a context manager: one user at a time."""

    def __init__(self, directory: Path, mirrors: Mirrors) -> None:
        self.directory = directory
        self.mirrors = mirrors

    def _options(self) -> list[str]:
        base = self.directory
        settings = {
            "Dir::State": base / "state",
            "Dir::State::status": base / "status",
            "Dir::State::extended_states": base / "extended",
            "Dir::Cache": base / "cache",
            "Dir::Etc::sourcelist": base / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            # The host's hooks (cleaning /var/cache, notifying desktops) are not ours to run.
            "APT::Update::Post-Invoke": "",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "true",
        }
        options = [option for name, value in settings.items() for option in ("-o", f"{name}={value}")]
        return [*options, "-o", "APT::Architectures::=amd64"]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Prepare the directory and hold it alone.

        :raises BasaltError: without Debian's archive keys, since nothing could be verified.
        """
        _require("apt-get")
        if not KEYRING.exists():
            raise BasaltError(
                f"Debian's archive keys are missing: {KEYRING}", remedy="apt-get install debian-archive-keyring"
            )
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            (self.directory / "status").write_text("")
            (self.directory / "sources.list").write_text(self._sources())
            yield
        finally:
            os.close(fd)

    def _sources(self) -> str:
        main, security = self.mirrors.main, self.mirrors.security
        rows = [(main, SUITE), (main, f"{SUITE}-updates"), (security, f"{SUITE}-security")]
        return "".join(f"deb [signed-by={KEYRING}] {url} {suite} {_COMPONENTS}\n" for url, suite in rows)

    def _run(self, program: str, *argv: str) -> str:
        command = [program, *self._options(), *argv]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C.UTF-8"}
        )
        if done.returncode:
            raise BasaltError(f"{program} {argv[0]} failed", why=(done.stderr or done.stdout).strip()[-2000:])
        return done.stdout

    def update(self) -> None:
        """Fetch the indices of trixie; apt verifies their signatures.

        :raises BasaltError: when the mirror cannot be reached or a signature does not verify.
        """
        try:
            self._run("apt-get", "update", "-qq", "--error-on=any")
        except BasaltError as error:
            raise BasaltError(
                "cannot update the package index",
                why=error.why,
                remedy="Check the network and the mirror (--mirror URL)",
            ) from error

    def newest_release(self) -> int:
        """When the newest index was signed, in POSIX seconds (field Date of the InRelease files).

        :raises BasaltError: before :meth:`update`.
        """
        dates = []
        for path in (self.directory / "state/lists").glob("*InRelease"):
            match = re.search(r"^Date: (.+)$", path.read_text(errors="replace"), re.MULTILINE)
            if match:
                dates.append(int(email.utils.parsedate_to_datetime(match[1]).timestamp()))
        if not dates:
            raise BasaltError("the package index is incomplete", why=f"no InRelease file below {self.directory}")
        return max(dates)

    def resolve(self, names: Sequence[str], *, depends: bool) -> dict[str, str]:
        """Versions of *names*, and of all they depend on, on an empty system.

        :raises BasaltError: when a name is unknown or the dependencies cannot be met.
        """
        if not depends:
            versions = self.newest(names)
            unknown = sorted(set(names) - versions.keys())
            if unknown:
                raise BasaltError(f"{SUITE} has no package {', '.join(unknown)}", remedy="Correct locks/sets.toml")
            return versions
        simulated = self._run("apt-get", "--simulate", "install", *names)
        return dict(re.findall(r"^Inst (\S+) \((\S+) ", simulated, re.MULTILINE))

    def newest(self, names: Sequence[str]) -> dict[str, str]:
        """The version that the archive offers of each of *names*; those it does not have are left out."""
        shown = self._run("apt-cache", "policy", *names)
        return dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))(\S+)$", shown, re.MULTILINE))

    def describe(self, versions: Mapping[str, str]) -> dict[str, Package]:
        """The signed index's own entry for each name and version."""
        if not versions:
            return {}
        shown = self._run("apt-cache", "show", *(f"{name}={version}" for name, version in versions.items()))
        found: dict[str, Package] = {}
        for stanza in _stanzas(shown):
            found[stanza["Package"]] = Package(
                version=stanza["Version"],
                architecture=stanza["Architecture"],
                # The security archive keeps its pool below pool/updates, which tells its packages apart.
                archive="security" if stanza["Filename"].startswith("pool/updates/") else "main",
                path=stanza["Filename"],
                size=int(stanza["Size"]),
                sha256=stanza["SHA256"],
            )
        missing = versions.keys() - found.keys()
        if missing:
            raise BasaltError("the package index is incomplete", why=f"no entry for {', '.join(sorted(missing))}")
        return found


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in text.strip().split("\n\n"):
        fields = (line.split(":", 1) for line in block.splitlines() if not line.startswith(" ") and ":" in line)
        yield {name: value.strip() for name, value in fields}


def download(items: Iterable[tuple[str, Path, str]]) -> list[str]:
    """Fetch (url, target, sha256) triples by apt's own downloader, proxies and all; hashes are checked by it.

    :returns: the error lines; empty when everything came. What did come is in place.
    :raises BasaltError: on a host without apt.
    """
    _require("apt-get")
    argv: list[str] = []
    for url, target, sha256 in items:
        # apt links to what a file: URL names, and the link would outlive its target; copy: takes the same paths.
        argv += [re.sub(r"\Afile:", "copy:", url), str(target), f"SHA256:{sha256}"]
    command = [str(HELPER), "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3", "download-file", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C.UTF-8"})
    return [] if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()
