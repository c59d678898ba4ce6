"""Every check of a page finds what it is there for: a page that is broken in one way each."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import checks
from tests.browser.checks import Opened, opened
from tests.browser.chromium import started

pytestmark = pytest.mark.browser

GOOD = '<p>Some words.</p><svg viewBox="0 0 100 20" width="100"><text x="0" y="15" font-size="12">words</text></svg>'
_LONG = "w" * 300
_WIDE = f'<pre style="overflow-x: {{}}" {{}}>{_LONG}</pre>'
Check = Callable[[Opened], list[str]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


def write(folder: Path, body: str) -> Path:
    file = folder / "page.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    file.write_text(f"<!doctype html><html><head>{head}</head><body>{body}</body></html>", encoding="utf-8")
    return file


def complaints(found: Opened) -> list[str]:
    return found.complaints


def is_dark(found: Opened) -> list[str]:
    return checks.scheme(found, "dark")


def is_light_weight(found: Opened) -> list[str]:
    return checks.weight(found, 3_000)


def is_printed(found: Opened) -> list[str]:
    return checks.printed(found, 2, found.file.with_suffix(".pdf"))


BROKEN: list[tuple[Check, str, str]] = [
    (complaints, "<script>console.error('a')</script>", "console error: a"),
    (complaints, "<script>console.warn('a')</script>", "console warning: a"),
    (complaints, "<script>throw Error('a')</script>", "error: a"),
    (complaints, '<img src="https://example.org/a.png">', "asks for https://example.org/a.png"),
    (complaints, '<img src="near.png">', "did not get file:"),
    (complaints, '<style>@import "https://example.org/a.css";</style>', "asks for https://example.org/a.css"),
    (
        complaints,
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"><script>1</script>',
        "Content Security Policy",
    ),
    (checks.layout, f"<p>{_LONG}</p>", "the page is"),
    (checks.layout, '<p style="position: absolute; left: -9px">words</p>', "leaves the window"),
    (checks.layout, '<p style="overflow: hidden; height: 5px">words</p>', "is cut off"),
    (checks.layout, _WIDE.format("clip", ""), "is cut off"),
    (checks.layout, '<svg viewBox="0 0 60 20"><text x="50" y="15">words</text></svg>', "leaves its picture"),
    (
        checks.layout,
        '<svg viewBox="0 0 300 40"><text x="5" y="15">words</text><text x="9" y="17">more</text></svg>',
        "lie on each other",
    ),
    (checks.layout, '<p style="width: 20px; overflow-wrap: anywhere">some words</p>', '"words" is broken'),
    (checks.layout, '<p style="font-size: 9px">words</p>', "9.0 px high"),
    (
        checks.layout,
        '<svg viewBox="0 0 1000 40" width="330"><text x="5" y="20" font-size="14">words</text></svg>',
        "px high",
    ),
    (checks.contrast, '<p style="color: #777; background: #eee">words</p>', "contrast of 3.86"),
    (checks.contrast, '<p style="color: rgb(0 0 0 / 40%)">words</p>', "contrast of 2.8"),
    (
        checks.contrast,
        '<svg viewBox="0 0 300 40"><rect width="300" height="40" fill="#333"/><text x="5" y="20">words</text></svg>',
        "contrast of 1.66",
    ),
    (is_dark, GOOD, "asked for dark, the paper is light"),
    (checks.keyboard, '<a href="#a" tabindex="-1">words</a>', "'words' is not reached"),
    (checks.keyboard, _WIDE.format("auto", 'tabindex="-1"'), "is not reached"),
    (checks.keyboard, '<a href="#a" style="outline: none">words</a>', "nothing shows it"),
    (is_light_weight, f"<!--{10 * _LONG}-->", "at most 3,000"),
    (is_printed, "<style>@media print { p { display: none } }</style><p>words</p>", "'words' is not printed"),
    (is_printed, "<details><summary>more</summary>words</details>", "is folded"),
    (is_printed, _WIDE.format("auto", ""), "is cut off"),
    (is_printed, "<style>@media print { p { color: #bbb } }</style><p>words</p>", "contrast of"),
    (is_printed, 3 * '<p style="break-after: page">words</p>' + "end", "4 pages, at most 2"),
]


@pytest.mark.parametrize(
    ("check", "body", "sentence"), BROKEN, ids=[f"{check.__name__}: {sentence}" for check, _, sentence in BROKEN]
)
def test_a_check_finds_what_it_is_for(browser: Browser, tmp_path: Path, check: Check, body: str, sentence: str) -> None:
    with opened(browser, write(tmp_path, body), checks.PHONE) as found:
        assert sentence in "\n".join(check(found))


@pytest.mark.parametrize("check", list(dict.fromkeys(check for check, _, _ in BROKEN if check is not is_dark)))
def test_no_check_complains_about_a_good_page(browser: Browser, tmp_path: Path, check: Check) -> None:
    with opened(browser, write(tmp_path, GOOD), checks.PHONE) as found:
        assert check(found) == []
