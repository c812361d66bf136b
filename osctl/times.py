"""Instants in answers: UTC, as everywhere in osctl."""

from __future__ import annotations

import datetime
import time

from basalt import output
from basalt.pki import clock


def instant(unix: float) -> str:
    """To the second."""
    return clock(datetime.datetime.fromtimestamp(unix, datetime.UTC))


def moment(unix: float) -> str:
    """To the millisecond, for what comes in quick succession."""
    when = datetime.datetime.fromtimestamp(unix, datetime.UTC)
    return f"{when.strftime('%Y-%m-%d %H:%M:%S')}.{when.microsecond // 1000:03} UTC"


def ago(unix: float) -> str:
    """How long ago, for people; by this machine's clock, so never less than nothing."""
    return output.duration(max(time.time() - unix, 0.0)) if unix else "-"
