"""What all plots are drawn with: text, ticks, a grid, and the picture around them. Pure; every text is escaped.

Drawn for a width of 460 units. The style sheet gives letters more units on narrow screens, where a unit is less than a
pixel: room is reckoned for the widest of them (``LETTER``).
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 30
LETTER = 10.0
"""Units that a letter takes at most, on a phone."""


def text_at(x: float, y: float, text: str, style: str) -> str:
    """A text; ``style`` names classes of the style sheet."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def shortened(text: str, most: int) -> str:
    """At most so many letters: beginning and end, as names often differ in either."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def compact(value: float) -> str:
    """A number in few letters: ``250``, ``1.5k``, ``30k``, ``2M``."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def spaced(values: Iterable[float], place: Callable[[float], float], text: Callable[[float], str]) -> list[float]:
    """The values, in order, whose texts find room beside those before them."""
    kept: list[float] = []
    free_from = -math.inf
    for value in values:
        half = (len(text(value)) * LETTER + 6) / 2
        if place(value) - half >= free_from:
            kept.append(value)
            free_from = place(value) + half
    return kept


def grid_lines(
    ticks: Sequence[float], height: int, text: Callable[[float], str], right: float = WIDTH - RIGHT
) -> list[str]:
    """A horizontal line at each tick of the upright axis, up to ``right``, and its number as ``text`` says it."""
    lines = []
    for tick in ticks:
        y = place_y(tick, ticks[0], ticks[-1], height)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(text_at(LEFT - 8, y + 5, text(tick), "tick end"))
    return lines


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` up to at least ``high``, three to seven of them."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5.01)
    first = math.floor(low / step + 1e-6)
    return [(first + i) * step for i in range(math.ceil((high - first * step) / step - 1e-6) + 1)]


def place_y(value: float, low: float, high: float, height: int) -> float:
    """Where a value lies on the upright axis."""
    return height - BOTTOM - (value - low) / max(high - low, 1e-9) * (height - TOP - BOTTOM)


def standalone(plot: Markup, style: str) -> str:
    """A plot as a file of its own, with the style sheet of the pages, on their paper."""
    head, _, body = str(plot).partition(">")
    _, _, width, height = head.partition('viewBox="')[2].partition('"')[0].split()
    frame = f'viewBox="-16 -16 {float(width) + 32:g} {float(height) + 32:g}"'
    head = re.sub('viewBox="[^"]*"', frame, head).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    own = "svg { background: var(--paper); font-family: system-ui, sans-serif; }"
    return f"{head}><style>\n{style}\n{own}\n</style>{body}\n"


def picture(title: str, height: int, body: Sequence[str]) -> Markup:
    """The whole of it; ``title`` is for those who cannot see it."""
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return Markup("").join([Markup(head), *map(Markup, body), Markup("</svg>")])
