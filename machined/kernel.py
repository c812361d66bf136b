"""The concern "kernel": its settings (sysctls) and modules as the MachineConfig wants them.

A setting's value before the first change is remembered for the length of the boot and put back when the setting is taken out. It is
remembered before anything is written, so a machined that dies in between loses nothing. Some files read back otherwise than they were
written (the kernel rounds, or spells a list in its own way): what one showed right after the write is what drift is measured against.

A module is loaded and never unloaded: who uses it by then nobody can say, and the next boot begins without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from basalt.config.documents import MachineConfig, Module
from basalt.errors import BasaltError
from machined import paths
from machined.network.names import put
from machined.reconcile import CONVERGED, Status, failed, failed_by, together, waiting
from machined.tools import run

MAX_VALUE_BYTES = 4096  # of a file below /proc/sys that is read: a page, as much as the kernel gives at once


class Written(Struct, frozen=True):
    """A setting that was changed: what it was, what was written, and what the kernel then showed (None: it shows nothing)."""

    before: str | None
    wanted: str
    shown: str | None


def setting_path(name: str) -> str:
    """Where a setting lies below ``/proc/sys``: dots and slashes change places (sysctl.d(5)).

    So ``net.ipv4.conf.eth0/5.rp_filter`` can name the link ``eth0.5``. The configuration knows no other spelling.
    """
    return name.translate(str.maketrans("./", "/."))


def same(left: str | None, right: str | None) -> bool:
    """Whether two values differ in white space at most: the kernel writes tabs between the numbers of a list."""
    if left is None or right is None:
        return left is right
    return left.split() == right.split()


def is_right(now: str | None, wanted: str, known: Written | None) -> bool:
    """Whether a setting that shows *now* is as *wanted*, given what is known of the last write."""
    if known is not None and known.wanted == wanted:
        return same(now, known.shown)
    return now is not None and same(now, wanted)


class Settings:
    """The files below ``/proc/sys`` and what was changed there during this boot."""

    def __init__(self, proc: Path, record: Path) -> None:
        self._root = proc / "sys"
        self._record = record
        self._written: dict[str, Written] = {}
        try:
            self._written = msgspec.json.decode(record.read_bytes(), type=dict[str, Written])
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:
            print(f"kernel: what was changed before cannot be put back: {record}: {error}", flush=True)

    def apply(self, wanted: dict[str, str]) -> list[tuple[str, Status]]:
        """Have the settings as *wanted*, and those that are no longer there as they were; what could not be done."""
        problems = [
            (name, status) for name, value in wanted.items() if (status := self._set(name, value)) is not CONVERGED
        ]
        for name in [name for name in self._written if name not in wanted]:
            if (status := self._put_back(name)) is not CONVERGED:
                problems.append((name, status))
        return problems

    def _set(self, name: str, value: str) -> Status:
        path = self._root / setting_path(name)
        known = self._written.get(name)
        try:
            now = _read(path)
            if is_right(now, value, known):
                return CONVERGED
            if known is None:
                self._remember(name, Written(now, "", None))  # no setting has this value: it counts as not written yet
            path.write_text(f"{value}\n", encoding="utf-8")
            before = known.before if known else now
            self._remember(name, Written(before, value, _read(path)))
            if known is not None and known.wanted == value:
                print(f"kernel: {name} had become {now}; it is {value} again", flush=True)
        except FileNotFoundError:
            return self._missing(name, path)
        except OSError as error:
            return failed(f"the kernel refuses {value!r}: {error.strerror}", f"correct sysctls.{name}")
        return CONVERGED

    def _missing(self, name: str, path: Path) -> Status:
        link = path.parent
        if link.parent.name in ("conf", "neigh") and link.parent.exists() and not link.exists():
            return waiting(f"there is no link {link.name}", "it is set once the link is there")
        return failed("this kernel has no such setting", f"correct or remove sysctls.{name}")

    def _put_back(self, name: str) -> Status:
        known = self._written[name]
        if known.before is not None:
            path = self._root / setting_path(name)
            try:
                if not same(_read(path), known.before):
                    path.write_text(f"{known.before}\n", encoding="utf-8")
            except FileNotFoundError:
                pass  # its link is gone, and the setting with it
            except OSError as error:
                return failed(
                    f"the kernel refuses the value from before, {known.before!r}: {error.strerror}",
                    "a reboot puts it back",
                )
        self._remember(name, None)
        return CONVERGED

    def _remember(self, name: str, written: Written | None) -> None:
        if written is None:
            del self._written[name]
        else:
            self._written[name] = written
        put(self._record, msgspec.json.encode(self._written).decode(), mode=0o600)


def _read(path: Path) -> str | None:
    """A setting's value; None for one that cannot be read, only written."""
    if not path.stat().st_mode & 0o444:
        return None
    with path.open("rb") as stream:
        return stream.read(MAX_VALUE_BYTES).decode(errors="replace").rstrip("\n")


def in_kernel(name: str) -> str:
    """How the kernel spells a module's name: ``-`` and ``_`` are the same to modprobe, and ``/sys/module`` has the latter."""
    return name.replace("-", "_")


def builtin_modules(listing: str) -> frozenset[str]:
    """Names in the text of ``modules.builtin`` (Documentation/kbuild/kbuild.rst)."""
    return frozenset(in_kernel(Path(line).name.removesuffix(".ko")) for line in listing.split())


def equal_parameters(now: str, wanted: str) -> bool:
    """Whether a parameter has a value, in whichever of its spellings: the kernel shows booleans as Y and N."""
    spellings = {"Y": "1", "y": "1", "on": "1", "N": "0", "n": "0", "off": "0"}
    return spellings.get(now, now) == spellings.get(wanted, wanted)


class Modules:
    """The kernel's modules."""

    def __init__(self, node: paths.Paths) -> None:
        self._sys = node.sys / "module"
        self._directory = node.root / f"lib/modules/{os.uname().release}"
        self._kmod = node.root / paths.KMOD.lstrip("/")

    async def have(self, module: Module) -> Status:
        """Have *module* loaded with its parameters, as far as that can still be done."""
        directory = self._sys / in_kernel(module.name)
        if directory.exists():
            return self._with_parameters(directory, module)
        if in_kernel(module.name) in self._builtin():
            return CONVERGED
        if not self._kmod.exists() or not (self._directory / "modules.dep.bin").exists():
            return failed(f"this image has no module {module.name}", "build one from a profile that has it")
        parameters = [f"{name}={value}" for name, value in module.parameters.items()]
        try:
            await run([str(self._kmod), "--", module.name, *parameters], name="modprobe")
        except BasaltError as error:
            if "not found in directory" in error.why:
                return failed(f"this image has no module {module.name}", "build one from a profile that has it")
            return failed_by(error, "osctl dmesg may say more")
        return CONVERGED

    def _builtin(self) -> frozenset[str]:
        try:
            return builtin_modules((self._directory / "modules.builtin").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return frozenset()

    def _with_parameters(self, directory: Path, module: Module) -> Status:
        late = []
        for name, value in module.parameters.items():
            path = directory / "parameters" / name
            try:
                if equal_parameters(path.read_text(encoding="utf-8").strip(), value):
                    continue
                if not path.stat().st_mode & 0o200:
                    late.append(name)
                    continue
                path.write_text(value, encoding="utf-8")
            except FileNotFoundError:
                continue  # the kernel does not show every parameter
            except OSError as error:
                return failed(f"the module refuses {name}={value}: {error.strerror}", "correct the parameter")
        if late:
            return waiting(f"it was loaded with another {', '.join(late)}", "reboot: it cannot change while loaded")
        return CONVERGED


class KernelReconciler:
    """Owns the kernel's settings and modules."""

    def __init__(self, node: paths.Paths, *, config: Callable[[], MachineConfig | None]) -> None:
        self._settings = Settings(node.proc, node.sysctls)
        self._modules = Modules(node)
        self._config = config

    async def reconcile(self) -> Status:
        """One look. Modules first: they bring settings of their own."""
        config = self._config()
        parts = (
            [(f"module {module.name}", await self._modules.have(module)) for module in config.modules] if config else []
        )
        parts += [(f"sysctl {name}", status) for name, status in self._settings.apply(config.sysctls if config else {})]
        return together(parts)
