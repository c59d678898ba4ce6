"""The pages in a real browser: readable on a phone, on a screen and on paper, light and dark, without network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import checks
from tests.browser.checks import DESKTOP, PHONE, TABLET, Scheme, opened
from tests.browser.chromium import started

pytestmark = pytest.mark.browser

NAMES = ("run", "bad-run", "hostile-run", "begun-run", "comparison")
# A page is sent around and opened on phones: about twice what these folders make.
MOST_BYTES = 200_000
MOST_PAGES = 12
WINDOWS = {"phone": PHONE, "tablet": TABLET, "desktop": DESKTOP}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_readable_and_its_print_says_the_same(
    browser: Browser, pages: dict[str, Path], artefacts: Path, name: str, scheme: Scheme
) -> None:
    with opened(browser, pages[name], DESKTOP, scheme) as found:
        problems = []
        for device, width in WINDOWS.items():
            found.page.set_viewport_size({"width": width, "height": 900})
            found.page.screenshot(path=artefacts / f"{name}-{device}-{scheme}.png", full_page=True)
            told = [*checks.layout(found), *checks.contrast(found), *checks.scheme(found, scheme)]
            problems += [f"{device}: {each}" for each in told]
        told = checks.printed(found, MOST_PAGES, artefacts / f"{name}-{scheme}.pdf")
        told += checks.scheme(found, "light")  # paper is white whatever the screen was
        found.page.screenshot(path=artefacts / f"{name}-print-{scheme}.png", full_page=True)
        problems += [*(f"print: {each}" for each in told), *found.complaints]
        assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_opened_or_scrolled_is_reached_by_the_keyboard(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    with opened(browser, pages[name], PHONE) as found:
        assert checks.keyboard(found) == []
        assert checks.weight(found, MOST_BYTES) == []
