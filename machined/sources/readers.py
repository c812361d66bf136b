"""The sources that lie on the machine itself: image, kernel command line, fw_cfg, SMBIOS."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from basalt import pki
from basalt.config.problems import nearest_name
from machined import paths
from machined.sources.model import CMDLINE, FW_CFG, IMAGE, SMBIOS, Damaged, Documents, Material, Remote

_CONFIG, _SHA256, _CA, _CLIENT_CA = "basalt.config", "basalt.config.sha256", "basalt.config.ca", "basalt.client-ca"
_WORDS = (_CONFIG, _SHA256, _CA, _CLIENT_CA)
_OEM_STRINGS = 11  # SMBIOS structure type (DMTF DSP0134, 7.12)


def read_image(node: paths.Paths) -> Material:
    """What osbuild baked in."""
    return _files(node.image_config, node.image_client_ca, "the image's configuration")


def read_fw_cfg(node: paths.Paths) -> Material:
    """What QEMU hands over (the kernel's Documentation/ABI/testing/sysfs-firmware-qemu_fw_cfg)."""
    return _files(node.fw_cfg_config, node.fw_cfg_client_ca, "fw_cfg opt/basalt/config")


def _files(config: Path, authority: Path, name: str) -> Material:
    documents, pem = _bounded(config), _bounded(authority)
    return Material(Documents(documents, name) if isinstance(documents, bytes) else documents, pem)


def _bounded(path: Path) -> bytes | Damaged | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(paths.DOCUMENTS_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Damaged(f"it cannot be read: {error}")
    return check_size(data)


def check_size(data: bytes) -> bytes | Damaged:
    """*data*, unless it is more than a configuration can be."""
    if len(data) > paths.DOCUMENTS_BYTES_MAX:
        return Damaged(f"it is larger than {paths.DOCUMENTS_BYTES_MAX} bytes")
    return data


def read_cmdline(node: paths.Paths) -> Material:
    """What the kernel was started with."""
    try:
        return of_cmdline((node.proc / "cmdline").read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return Material(note=f"it cannot be read: {error}")


def of_cmdline(text: str) -> Material:
    """The words that begin with ``basalt.``. Of a word that stands twice the last counts, as with the kernel's own."""
    words = dict(_split(word) for word in text.split() if word.startswith("basalt."))
    unknown = [word for word in words if word not in _WORDS]
    notes = []
    for word in unknown:
        near = nearest_name(word, _WORDS)
        notes.append(f"nobody knows the word {word}{f'; did you mean {near}?' if near else ''}")
    authority = der_of(words[_CLIENT_CA]) if _CLIENT_CA in words else None
    return Material(_remote(words), authority, "; ".join(notes))


def _split(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value.strip('"')


def _remote(words: Mapping[str, str]) -> Remote | Damaged | None:
    if _CONFIG not in words:
        alone = [word for word in (_SHA256, _CA) if word in words]
        return Damaged(f"{alone[0]} stands without {_CONFIG}=URL") if alone else None
    url, sha256 = words[_CONFIG], words.get(_SHA256, "").lower()
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return Damaged(f"{_SHA256} is no SHA-256: it has 64 hexadecimal digits")
    authority = der_of(words[_CA]) if _CA in words else b""
    if isinstance(authority, Damaged):
        return Damaged(f"{_CA}: {authority.problem}")
    if url.startswith("http://"):
        if not sha256:
            return Damaged(f"plain http needs {_SHA256}=: anybody on the way could send another configuration")
    elif not url.startswith("https://"):
        return Damaged(f"{_CONFIG} takes a URL with https://, or http:// and {_SHA256}=")
    if not _has_host(url):
        return Damaged(f"{_CONFIG} is a URL without a host, or with a port that is none")
    return Remote(url, sha256, authority.decode())


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the host's brackets, or of the port
        return False


def der_of(text: str) -> bytes | Damaged:
    """The PEM of a certificate that stands as base64 of its DER; a URL is not taken: nothing would vouch for what it gives."""
    try:
        der = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return Damaged("a certificate is given as the base64 of its DER form")
    return pki.der_to_pem(der) if der else Damaged("it is empty")


def read_smbios(node: paths.Paths) -> Material:
    """What stands in the OEM strings (Documentation/ABI/testing/sysfs-firmware-dmi-entries)."""
    strings: list[str] = []
    for entry in sorted(node.dmi_entries.glob(f"{_OEM_STRINGS}-*"), key=lambda path: int(path.name.partition("-")[2])):
        try:
            strings += oem_strings((entry / "raw").read_bytes())
        except OSError as error:
            return Material(note=f"{entry.name} cannot be read: {error}")
    return of_oem_strings(strings)


def oem_strings(structure: bytes) -> tuple[str, ...]:
    """The strings of one SMBIOS structure: they follow its formatted area, each ends with a zero byte (DSP0134, 6.1.3)."""
    if len(structure) < 2 or structure[0] != _OEM_STRINGS:
        return ()
    text = structure[structure[1] :].partition(b"\0\0")[0]
    return tuple(part.decode("ascii", errors="replace") for part in text.split(b"\0"))


def of_oem_strings(strings: Iterable[str]) -> Material:
    """``basalt.config=`` and ``basalt.client-ca=``, in one string or in pieces ``basalt.config.1=``, ``basalt.config.2=`` ...

    Firmware and hypervisors bound the length of a string; base64 keeps line ends and quotes out of their reach.
    """
    words: dict[str, str] = {}
    for string in strings:
        name, found, value = string.strip().partition("=")
        if not found or not name.startswith("basalt."):
            continue
        if words.setdefault(name, value) != value:
            return Material(Damaged(f"{name} stands twice, with different values"))
    config, authority = _joined(words, _CONFIG), _joined(words, _CLIENT_CA)
    pem = der_of(authority) if isinstance(authority, str) else authority
    if not isinstance(config, str):
        return Material(config, pem)
    try:
        data = base64.b64decode(config, validate=True)
    except (ValueError, binascii.Error):
        return Material(Damaged(f"{_CONFIG} is not the base64 of documents"), pem)
    checked = check_size(data)
    return Material(Documents(checked, "SMBIOS basalt.config") if isinstance(checked, bytes) else checked, pem)


def _joined(words: Mapping[str, str], name: str) -> str | Damaged | None:
    """The value of *name*, put together from its pieces."""
    numbered = {}
    for word, value in words.items():
        number = word.removeprefix(f"{name}.")
        if number != word and number.isdecimal():
            numbered[int(number)] = value
    if name in words:
        return Damaged(f"{name} stands whole and in pieces") if numbered else words[name]
    if not numbered:
        return None
    missing = [str(number) for number in range(1, max(numbered) + 1) if number not in numbered]
    if missing:
        return Damaged(f"of the pieces of {name}, number {', '.join(missing[:5])} is missing")
    return "".join(value for _, value in sorted(numbered.items()))


READERS: dict[str, Callable[[paths.Paths], Material]] = {
    IMAGE: read_image,
    CMDLINE: read_cmdline,
    FW_CFG: read_fw_cfg,
    SMBIOS: read_smbios,
}
