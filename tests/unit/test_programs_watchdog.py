from streams.restarts import WELL_SECONDS
from streams.watchdog import FAILING_SECONDS, SILENT_SECONDS, STUCK_SECONDS, JobWatchdog, Watchdog


def test_worker_that_moves_is_never_suspected() -> None:
    watchdog = Watchdog(0)
    for minute in range(10):
        assert watchdog.suspects(minute * 60.0, {0: minute}, {0: 100}) is None


def test_worker_that_has_read_everything_is_never_suspected() -> None:
    watchdog = Watchdog(0)
    for minute in range(10):
        assert watchdog.suspects(minute * 60.0, {0: 5, 1: 7}, {0: 5, 1: 7}) is None


def test_partition_that_waits_too_long_is_named() -> None:
    watchdog = Watchdog(0)
    assert watchdog.suspects(0, {0: 5, 1: 7}, {0: 5, 1: 9}) is None
    assert watchdog.suspects(STUCK_SECONDS - 1, {0: 5, 1: 7}, {0: 5, 1: 20}) is None
    assert watchdog.suspects(STUCK_SECONDS, {0: 5, 1: 7}, {0: 5, 1: 20}) == 1


def test_worker_that_never_began_is_suspected_and_one_record_forgives_all() -> None:
    watchdog = Watchdog(0)
    assert watchdog.suspects(0, {}, {0: 3}) is None
    assert watchdog.suspects(STUCK_SECONDS, {}, {0: 3}) == 0
    assert watchdog.suspects(STUCK_SECONDS, {0: 1}, {0: 3}) is None
    assert watchdog.suspects(2 * STUCK_SECONDS - 1, {0: 1}, {0: 3}) is None


def test_forgiven_worker_gets_the_whole_time_again() -> None:
    watchdog = Watchdog(0)
    watchdog.suspects(0, {0: 1}, {0: 3})
    watchdog.forgive(0, STUCK_SECONDS)
    assert watchdog.suspects(2 * STUCK_SECONDS - 1, {0: 1}, {0: 3}) is None


def test_partition_that_is_never_read_is_named_while_others_move() -> None:
    watchdog = Watchdog(0)
    found = [
        watchdog.suspects(second, {0: int(second), 1: 4}, {0: 10_000, 1: 9}) for second in (0.0, 30.0, STUCK_SECONDS - 1, STUCK_SECONDS)
    ]
    assert found == [None, None, None, 1]


def test_partition_that_had_nothing_to_read_waits_from_its_next_record_on() -> None:
    watchdog = Watchdog(0)
    assert watchdog.suspects(STUCK_SECONDS, {0: 5, 1: 4}, {0: 5, 1: 4}) is None
    assert watchdog.suspects(STUCK_SECONDS + 1, {0: 5, 1: 4}, {0: 5, 1: 5}) is None
    assert watchdog.suspects(2 * STUCK_SECONDS, {0: 5, 1: 4}, {0: 5, 1: 5}) == 1


def test_one_late_answer_of_flink_says_nothing_about_the_job() -> None:
    watchdog = JobWatchdog(0)
    assert not watchdog.silent(SILENT_SECONDS - 1)
    assert not watchdog.failing(SILENT_SECONDS, "RUNNING")
    assert not watchdog.silent(2 * SILENT_SECONDS - 1)
    assert watchdog.silent(2 * SILENT_SECONDS)


def test_job_that_flink_restarts_without_end_is_failing_though_it_runs_in_between() -> None:
    watchdog = JobWatchdog(0)
    for second in range(0, int(FAILING_SECONDS), 10):
        assert not watchdog.failing(second, "RESTARTING")
        assert not watchdog.failing(second + 5, "RUNNING")
    assert not watchdog.failing(FAILING_SECONDS + 1, "RUNNING")
    assert watchdog.failing(FAILING_SECONDS + 2, "FAILING")


def test_job_that_ran_for_a_while_is_well_again() -> None:
    watchdog = JobWatchdog(0)
    assert not watchdog.failing(0, "RESTARTING")
    assert not watchdog.failing(1, "RUNNING")
    assert not watchdog.failing(1 + WELL_SECONDS, "RUNNING")
    assert not watchdog.failing(FAILING_SECONDS, "RESTARTING")
