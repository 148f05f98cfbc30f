"""What all tests share: one real platform for the whole run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import RunningStack, keep_logs, start, temporary_home

_FAILED = pytest.StashKey[bool]()
_RUNNING = pytest.StashKey[RunningStack]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember that a test failed, so that the platform's logs are kept."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]  # pytest.TestReport
        item.session.stash[_FAILED] = True
    return report


@pytest.fixture(scope="module", autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each module, remove the processors and tables of its projects: what is left running slows the tests after it."""
    yield
    if _RUNNING in request.session.stash:
        request.session.stash[_RUNNING].tidy()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    """The platform, started once and stopped at the end; WARDSTREAM_TEST_HOME names the home of one that runs already.

    Tests share it: they make projects, topics and names of their own and stop nothing. Its logs are kept under
    build/test-logs when a test of this run failed.
    """
    if home := os.environ.get("WARDSTREAM_TEST_HOME"):
        there = RunningStack(Path(home).resolve())
        yield there
        there.close()
        return
    with temporary_home("tests") as folder:
        try:
            start(folder)
            running = RunningStack(folder)
            request.session.stash[_RUNNING] = running
            yield running
            running.close()
        finally:
            failed = request.session.stash.get(_FAILED, False) or sys.exc_info()[0] is not None
            if failed and (folder / "logs").exists():
                kept = keep_logs(folder, "stack")
                terminal = request.config.pluginmanager.get_plugin("terminalreporter")
                if terminal is not None:
                    terminal.write_line(f"\nlogs of the platform: {kept}")
