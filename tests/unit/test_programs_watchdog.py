from streams.watchdog import STUCK_SECONDS, Watchdog


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
    watchdog.forgive(STUCK_SECONDS)
    assert watchdog.suspects(2 * STUCK_SECONDS - 1, {0: 1}, {0: 3}) is None
