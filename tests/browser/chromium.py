"""The Chromium of this machine, driven by Playwright: where it is, and how it is started."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

REQUIRED = "S3RAY_REQUIRE_BROWSER"
"""Set where a missing browser is a failure: in CI."""
HOW_TO_GET = "no Chromium on PATH: `apt-get install chromium` (Debian, Ubuntu), `brew install chromium` (macOS)"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",  # CI runs as root, where Chromium's sandbox does not start; the pages are our own
    "--disable-dev-shm-usage",  # containers have little of it, and pages crash without
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # What the browser itself would ask the network for.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str:
    """Path of the browser; without one the test is skipped, or fails where one is required."""
    for path in map(shutil.which, _NAMES):
        if path:
            return path
    if os.environ.get(REQUIRED):
        pytest.fail(f"{HOW_TO_GET}; {REQUIRED} is set, so that this is no reason to skip", pytrace=False)
    pytest.skip(HOW_TO_GET)


@contextmanager
def started() -> Iterator[Browser]:
    """A headless browser."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=_FLAGS)
        yield browser
        browser.close()
