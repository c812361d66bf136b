"""What a source may hold, and what is said of it."""

from __future__ import annotations

import enum

from msgspec import Struct

from basalt.config.documents import NetworkConfig
from basalt.errors import BasaltError

STATE = "STATE"
IMAGE = "image"
CMDLINE = "kernel command line"
FW_CFG = "fw_cfg"
SMBIOS = "SMBIOS"
CIDATA = "cidata"
CONFIG_2 = "config-2"
API = "API"

ON_MACHINE = (IMAGE, CMDLINE, FW_CFG, SMBIOS)
ON_DRIVES = (CIDATA, CONFIG_2)


class Outcome(enum.Enum):
    """What came of a source."""

    USED = "used"
    NONE = "none"
    NOT_ASKED = "not-asked"
    INVALID = "invalid"
    UNREACHABLE = "unreachable"


class Report(Struct, frozen=True):
    """What came of one source, with the reason in words."""

    source: str
    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.outcome.value}{f' ({self.detail})' if self.detail else ''}"


class Documents(Struct, frozen=True):
    """Configuration documents as a source holds them.

    :param name: of where they stand, for the positions in errors.
    :param hostname: for a configuration that names none.
    :param network: for a configuration without a NetworkConfig.
    """

    data: bytes
    name: str
    hostname: str = ""
    network: NetworkConfig | None = None


class Remote(Struct, frozen=True):
    """Documents behind a URL.

    :param sha256: of the documents, lower-case hex; empty when nothing but TLS vouches for them.
    :param authority_pem: that signs the server's certificate, in place of the public ones.
    """

    url: str
    sha256: str = ""
    authority_pem: str = ""


class Damaged(Struct, frozen=True):
    """The source is there and cannot be used."""

    problem: str


class Material(Struct, frozen=True):
    """What one source holds. *note* says in words what is remarkable about it, such as a word that nobody knows."""

    configuration: Documents | Remote | Damaged | None = None
    authority: bytes | Damaged | None = None  # PEM
    note: str = ""


NOTHING = Material()


class FetchError(BasaltError):
    """Documents could not be fetched; trying again may help."""
