"""Whether the time that the node goes by can be right."""

from __future__ import annotations

import datetime

import pytest

from basalt import pki
from basalt.roles import Role
from machined.clock import beginning, status_of, stopped
from machined.reconcile import State

BUILT = 1_780_000_000  # 2026
YEAR_S = 365.25 * 86400


@pytest.mark.parametrize(
    ("years", "synchronised", "state"),
    [
        (0.0, False, State.CONVERGED),
        (4.9, False, State.CONVERGED),
        (14.0, False, State.WAITING),
        (14.0, True, State.CONVERGED),
    ],
)
def test_clock_far_after_the_image_is_doubted_until_a_server_confirms_it(
    years: float, synchronised: bool, state: State
) -> None:
    assert status_of(BUILT + years * YEAR_S, BUILT, synchronised=synchronised).state is state


def test_doubt_names_the_clock_and_what_to_do() -> None:
    said = status_of(BUILT + 14 * YEAR_S, BUILT, synchronised=False)
    assert "2040" in said.reason and "14 years after this image was built" in said.reason
    assert "TimeConfig" in said.remedy


def test_a_clock_that_stopped_starts_from_the_authority() -> None:
    """An image is older than the authority that it is given later; certificates of that one must not look early to the node."""
    assert stopped(BUILT + 20.0, BUILT) and not stopped(BUILT + YEAR_S, BUILT) and not stopped(20.0, 0)
    began = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
    authority = pki.make_ca("operators", datetime.timedelta(days=900), now=began)
    assert beginning(authority.certificate_pem) == (began - pki.CLOCK_SKEW_ALLOWANCE).timestamp()
    assert beginning(b"nonsense") == 0.0
    ada = pki.issue_client(authority, "ada", [Role.ADMIN], datetime.timedelta(days=900))
    assert beginning(ada.certificate_pem) == beginning(authority.certificate_pem)


def test_image_of_unknown_age_casts_no_doubt() -> None:
    assert status_of(BUILT, 0, synchronised=False).state is State.CONVERGED
