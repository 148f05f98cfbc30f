"""A real Chromium on the console: somebody's window, with what its log complains of."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.support.doors import door
from tests.support.stack import REPOSITORY, RunningStack

SHOTS = REPOSITORY / "build" / "browser"
COOKIE = "wardstream_session"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')


def chromium() -> str:
    """Return the system's Chromium; fails with what to do where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.fail(
            "tests of the console need Chromium: as root, run apt-get install -y --no-install-recommends chromium (make setup does)"
        )
    return found


@contextmanager
def running_browser() -> Iterator[Any]:
    """Give Chromium without a window. Not for longer than a module: its driver holds the thread's event loop."""
    with sync_playwright() as driver:
        # Chromium's own sandbox does not start for root; what it shows here is ours.
        started = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield started
        finally:
            started.close()


@dataclass
class Window:
    """One person's window on the console."""

    page: Any
    base: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> int:
        """Go to a page and return its status."""
        answer = self.page.goto(self.base + path)
        return int(answer.status)

    def offers(self) -> set[str]:
        """Return where the links and buttons of the page lead, as far as they lead to something that can be done."""
        found = self.page.eval_on_selector_all("main a.button, main .small a", "links => links.map(link => link.getAttribute('href'))")
        return set(found)

    def shot(self, name: str) -> None:
        """Keep pictures at both widths; fails where the page is wider than the window."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        for width, height in ((1280, 800), (400, 800)):
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.screenshot(path=SHOTS / f"{name}-{width}.png", full_page=True)
            wide = self.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} pixels wide at {width}"
        self.page.set_viewport_size({"width": 1280, "height": 800})


@contextmanager
def window(browser: Any, stack: RunningStack, key: str | None, **options: Any) -> Iterator[Window]:
    """Give a window of whoever has the API key; fails where the browser's log complains, such as of a broken Content-Security-Policy."""
    context = browser.new_context(ignore_https_errors=True, base_url=stack.url(), viewport={"width": 1280, "height": 800}, **options)
    try:
        if key is not None:
            with door(stack) as client:
                context.add_cookies([{"name": COOKIE, "value": session(client, key), "url": stack.url(), "secure": True}])
        made = Window(context.new_page(), stack.url())
        made.page.on("console", lambda message: _heard(made.complaints, message.type, message.text))
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        yield made
        assert made.complaints == []
    finally:
        context.close()


def _heard(complaints: list[str], kind: str, text: str) -> None:
    # A page that is refused is told by its status too.
    if kind in ("error", "warning") and not text.startswith("Failed to load resource: the server responded with a status of 4"):
        complaints.append(text)


def session(client: httpx.Client, key: str) -> str:
    """Return a session of the console for an API key."""
    answer = client.post("/console/login", data={"api_key": key})
    assert answer.status_code == 303, answer.text
    client.cookies.clear()
    return str(answer.cookies[COOKIE])


def form_token(client: httpx.Client, cookie: str, page: str) -> str:
    """Return the token that forms of this session carry, from any form page that its owner may open."""
    found = _TOKEN.search(client.get(page, headers={"Cookie": f"{COOKIE}={cookie}"}).text)
    assert found is not None, f"{page} has no form"
    return found.group(1)


def by_hand(client: httpx.Client, cookie: str, token: str, path: str, **fields: str) -> httpx.Response:
    """Send a form as somebody would who does not ask what is offered."""
    return client.post(path, headers={"Cookie": f"{COOKIE}={cookie}"}, data={"form_token": token, **fields})
