from hypothesis import given
from hypothesis import strategies as st

from streams.restarts import LONGEST_SECONDS, MOST_IN_A_ROW, WELL_SECONDS, Restarts


def test_waits_double_up_to_a_bound() -> None:
    restarts, waits = Restarts(), []
    for _ in range(9):
        restarts = restarts.after(0.1)
        waits.append(restarts.wait_seconds())
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert not restarts.given_up()
    assert restarts.after(0.1).given_up()


def test_whoever_was_well_is_started_at_once_again() -> None:
    fallen = Restarts(total=20, in_a_row=MOST_IN_A_ROW - 1)
    assert fallen.after(WELL_SECONDS) == Restarts(21, 1)


def test_somebody_who_asks_again_is_believed() -> None:
    assert not Restarts(10, MOST_IN_A_ROW).forgiven().given_up()


@given(st.lists(st.floats(0, 100)))
def test_total_counts_every_failure_and_no_wait_is_too_long(lives: list[float]) -> None:
    restarts = Restarts()
    for lived in lives:
        restarts = restarts.after(lived)
    assert restarts.total == len(lives)
    assert restarts.in_a_row <= restarts.total
    assert 0 < restarts.wait_seconds() <= LONGEST_SECONDS


def test_absence_of_something_else_makes_waits_longer_and_is_never_a_reason_to_give_up() -> None:
    restarts = Restarts()
    for _ in range(10 * MOST_IN_A_ROW):
        restarts = restarts.after(0.1, away=True)
    assert (restarts.wait_seconds(), restarts.given_up()) == (LONGEST_SECONDS, False)
    for _ in range(MOST_IN_A_ROW - 1):
        restarts = restarts.after(0.1)
    assert not restarts.given_up()
    assert restarts.after(0.1).given_up()
    assert restarts.after(WELL_SECONDS) == Restarts(restarts.total + 1, 1)
