"""The concern "clock": whether the time that the node goes by can be right.

A clock that is behind is advanced at boot: to the image's build time, to the last time known, and where neither is later than what
the hardware says, to the beginning of the client authority, which cannot lie ahead of the time in which it is used.

One that is ahead cannot be told from a node that was kept in a box for years, so it is left alone and talked about: certificates look
expired to such a node, and the operator who is refused should find the reason on the console. A doubtful time is not noted as the last
one known: that would outlive its cause.
"""

from __future__ import annotations

import datetime

from basalt.pki import clock
from machined.reconcile import CONVERGED, Status, waiting

# Since PID 1 set the clock to the build time; more than any boot takes to get as far as asking.
_EARLY_S = 600.0

# Images are replaced far more often than that; a node that still runs one has time servers, which clear the doubt.
TRUSTED_YEARS = 5
_YEAR_S = 365.25 * 86400


def status_of(now: float, build_epoch: int, *, synchronised: bool) -> Status:
    """What is to be said of the clock.

    :param now: what it says, in seconds since the epoch; *build_epoch* likewise when the image was built, 0 where that is not known.
    :param synchronised: whether a time server has confirmed it.
    """
    years = (now - build_epoch) / _YEAR_S
    if synchronised or not build_epoch or years < TRUSTED_YEARS:
        return CONVERGED
    said = clock(datetime.datetime.fromtimestamp(now, datetime.UTC))
    return waiting(
        f"the clock says {said}, {years:.0f} years after this image was built, and no time server has confirmed it",
        "if that is wrong, certificates look expired to this node: set the hardware's clock, or name a time server in a TimeConfig",
    )


def stopped(now: float, build_epoch: int) -> bool:
    """Whether the clock says nothing of its own: PID 1 has just set it to the image's build time."""
    return bool(build_epoch) and now - build_epoch < _EARLY_S


def beginning(authorities_pem: bytes) -> float:
    """When the youngest of these authorities begins, in seconds since the epoch; 0 where none can be read."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(authorities_pem)
    except ValueError:
        return 0.0
    return max(one.not_valid_before_utc.timestamp() for one in found)
