"""What must hold of every page in a real browser. Each check gives what is wrong with the open page, in sentences."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]
PHONE, TABLET, DESKTOP = 360, 768, 1440
A4_PX = 718
"""Width of the text on A4 with Chromium's own margins, in CSS pixels."""
LEAST_TEXT_PX = 10.5

_SCRIPT = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")


@dataclass(slots=True, kw_only=True)
class Opened:
    """A page and what the browser complained about while it was open."""

    page: Page
    file: Path
    complaints: list[str] = field(default_factory=list)

    def ask(self, call: str) -> Any:
        """The value of a function of checks.js."""
        return self.page.evaluate(f"(() => {{ {_SCRIPT}\n return {call}; }})()")

    def problems(self, call: str) -> list[str]:
        """The sentences of a function of checks.js."""
        return [str(sentence) for sentence in self.ask(call)]


@contextmanager
def opened(browser: Browser, file: Path, width: int, scheme: Scheme = "light") -> Iterator[Opened]:
    """Open a file in a window of its own; whatever but the file itself is asked for is a complaint."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    found = Opened(page=page, file=file)
    address = file.resolve().as_uri()
    say = found.complaints.append
    page.on(
        "console", lambda message: say(f"console {message.type}: {message.text}") if _is_bad(message.type) else None
    )
    page.on("pageerror", lambda error: say(f"error: {error}"))
    page.on("request", lambda request: say(f"asks for {request.url}") if request.url != address else None)
    page.on("requestfailed", lambda request: say(f"did not get {request.url}"))
    page.on("websocket", lambda socket: say(f"opens {socket.url}"))
    page.goto(address, wait_until="networkidle")
    yield found
    context.close()


def _is_bad(kind: str) -> bool:
    return kind in ("error", "warning", "assert")


def layout(found: Opened) -> list[str]:
    """Nothing leaves the window or its picture, lies on other text, is cut off, broken within a word or too small."""
    calls = ("overflow()", "clipped(true)", "pictures()", "broken()", f"small({LEAST_TEXT_PX})")
    return [sentence for call in calls for sentence in found.problems(call)]


def contrast(found: Opened) -> list[str]:
    """Text that WCAG 2 AA calls too faint on what lies behind it."""
    return found.problems("contrast()")


def scheme(found: Opened, name: Scheme) -> list[str]:
    """Paper that does not fit the colour scheme which was asked for."""
    is_dark = found.ask("paperLuminance()") < 0.2
    return [] if is_dark == (name == "dark") else [f"asked for {name}, the paper is {'dark' if is_dark else 'light'}"]


def keyboard(found: Opened) -> list[str]:
    """What can be opened or scrolled is reached by the Tab key, and is seen to be."""
    expected = {str(number) for number in range(found.ask("markOperable()"))}
    problems: list[str] = []
    for _ in range(len(expected) + 20):
        found.page.keyboard.press("Tab")
        now = found.ask("focused()")
        if now is None:
            break
        expected.discard(now["number"])
        if not now["isSeen"]:
            problems.append(f"{now['text']} has the focus, and nothing shows it")
    texts = [found.page.inner_text(f'[data-operable="{number}"]')[:40] for number in sorted(expected)]
    return problems + [f"{text!r} is not reached by the keyboard" for text in texts]


def weight(found: Opened, most_bytes: int) -> list[str]:
    """A page that is too heavy to be sent around."""
    size = found.file.stat().st_size
    return [f"{size:,} bytes, at most {most_bytes:,}"] if size > most_bytes else []


def printed(found: Opened, most_pages: int, keep: Path) -> list[str]:
    """A print of some pages (kept as PDF) says all that the screen says, and nothing of it is cut off."""
    page = found.page
    said = found.ask("words()")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4_PX, "height": 1123})
    on_paper = found.ask("words()")
    problems = [f"{text[:40]!r} is not printed" for text in said if text not in on_paper]
    for call in ("closed()", "overflow()", "clipped(false)", "pictures()", "broken()", "contrast()"):
        problems += found.problems(call)
    pdf = page.pdf(path=keep, format="A4", print_background=True)
    num = len(re.findall(rb"/Type\s*/Page\b", pdf))
    if not 0 < num <= most_pages:
        problems.append(f"{num} pages, at most {most_pages}")
    return problems
