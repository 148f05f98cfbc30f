"""A hospital with somebody of each role, and Chromium."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.world import World, build
from tests.support.browser import running_browser
from tests.support.stack import RunningStack


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as started:
        yield started


# Not for longer: after each module its projects are tidied up.
@pytest.fixture(scope="module")
def world(stack: RunningStack) -> World:
    return build(stack)
