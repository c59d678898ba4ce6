"""What all plots are drawn with: text, ticks, a grid, and the picture around them. Pure; every text is escaped.

Drawn for a width of 460 units, so that letters stay readable on a phone.
"""

import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 30


def text_at(x: float, y: float, text: str, style: str) -> str:
    """A text; ``style`` names classes of the style sheet."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def grid_lines(ticks: Sequence[float], height: int, form: str) -> list[str]:
    """A horizontal line at each tick of the upright axis, and its number."""
    lines = []
    for tick in ticks:
        y = place_y(tick, ticks[0], ticks[-1], height)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(text_at(LEFT - 8, y + 4, form.format(tick), "tick end"))
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
