"""An error means the same in every process."""

import pytest

from wardstream.errors import Conflict, Denied, NotFound, Unavailable, UnsafeChange, WardstreamError, error_from


@pytest.mark.parametrize("kind", [NotFound, Denied, UnsafeChange, Unavailable])
def test_an_error_is_the_same_after_the_way_through_http(kind: type[WardstreamError]) -> None:
    error = kind("what was wrong")

    back = error_from(error.status, error.code, error.message)

    assert type(back) is kind
    assert back.message == "what was wrong"


def test_an_unknown_code_falls_back_to_the_status() -> None:
    assert type(error_from(409, "from-a-newer-version", "x")) is Conflict
    assert type(error_from(418, None, "x")) is WardstreamError


def test_only_absence_of_a_part_is_worth_another_try() -> None:
    assert Unavailable("x").retryable
    assert not NotFound("x").retryable
