"""Pages in the distribution's headless Chromium: what overflows, what is asked of the network, what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

Scheme = Literal["light", "dark"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HEIGHT = 900
# A telephone and a desk, by day and by night.
VIEWS: tuple[tuple[int, Scheme], ...] = ((420, "light"), (420, "dark"), (1200, "light"), (1200, "dark"))

SCRIPT = Path(__file__).with_suffix(".js")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A page as a browser shows it.

    Attributes:
        overflows: elements that stick out of the page.
        faint: text that hardly differs from what is behind it.
        errors: what scripts, the console and the page's policy complained of.
        requests: addresses other than the page's own that it asked for.
        picture: PNG of all of it.
    """

    overflows: list[str]
    faint: list[str]
    errors: list[str]
    requests: list[str]
    picture: bytes

    @property
    def problems(self) -> list[str]:
        """All that is wrong with it."""
        return [*self.overflows, *self.faint, *self.errors, *(f"it asks for {url}" for url in self.requests)]


@cache
def find_chromium() -> str | None:
    """The distribution's Chromium, where it is there and starts."""
    for name in NAMES:
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], check=False, capture_output=True).returncode == 0:
            return path
    return None


@contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    """A headless Chromium with a home of its own, without the sandbox that root and containers do not have."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, env={**os.environ, "HOME": home}, args=["--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def look(browser: Browser, page: Path | str, width: int, scheme: Scheme, ready: str = "body") -> Seen:
    """Open a file, or an address, in a window so many pixels wide.

    Args:
        browser: from `open_browser`.
        page: the file, or an address; what it asks of the same server is its own.
        width: of the window in pixels.
        scheme: light or dark.
        ready: selector of an element that is there once the page has been made.
    """
    errors: list[str] = []
    requests: list[str] = []
    address = page if isinstance(page, str) else page.resolve().as_uri()
    own = f"{'/'.join(address.split('/')[:3])}/" if isinstance(page, str) else address
    with browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme) as context:
        tab = context.new_page()
        tab.on("console", lambda message: errors.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: errors.append(f"script: {error}"))
        tab.on("requestfailed", lambda request: errors.append(f"network: {request.url[:100]}"))
        tab.on("request", lambda request: requests.append(request.url[:100]))
        tab.goto(address)
        tab.wait_for_selector(ready)
        tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        found: dict[str, list[str]] = tab.evaluate(SCRIPT.read_text())
        picture = tab.screenshot(full_page=True)
    others = [url for url in requests if not url.startswith((own, "data:"))]
    return Seen(**found, errors=errors, requests=others, picture=picture)
