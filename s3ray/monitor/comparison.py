"""The plots of a comparison: scores by strategy, along a number, and against what they cost. Pure, as ``plots``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from s3ray.monitor.svg import (
    BOTTOM,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    compact,
    grid_lines,
    picture,
    place_y,
    round_ticks,
    shortened,
    spaced,
    text_at,
)

_LINE_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")
_NAMES_WIDTH = 190
_LINE_HEIGHT = 18
_ROW_HEIGHT = 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mean score over seeds (``scores``), and where it is known the interval that it lies in.

    ``x`` is its place along a number or its cost, where that is asked for.
    """

    name: str
    mean: float
    scores: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None
    x: float = 0.0

    @property
    def reach(self) -> tuple[float, ...]:
        """All that has to find room."""
        return (self.mean, *self.scores, *(self.interval or ()))


def scores_plot(metric: str, points: Sequence[Point]) -> Markup:
    """One line for each: a dot for each seed, a stroke at their mean, and a bar for the interval."""
    ticks = _score_ticks(points)
    low, high = ticks[0], ticks[-1]
    height = len(points) * _ROW_HEIGHT + 26

    def place(value: float) -> float:
        return 2 * LETTER + (value - low) / (high - low) * (WIDTH - 4 * LETTER)

    body = [
        *(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}"/>' for x in map(place, ticks)),
        *(
            text_at(place(tick), height - 6, f"{tick:.2f}", "tick middle")
            for tick in spaced(ticks, place, "{:.2f}".format)
        ),
    ]
    for i, point in enumerate(points):
        y = i * _ROW_HEIGHT + 31
        body.append(text_at(0, y - 14, shortened(point.name, int(WIDTH / LETTER) - 8), "label"))
        body.append(text_at(WIDTH, y - 14, f"{point.mean:.3f}", "value end"))
        if point.interval:
            start, end = map(place, point.interval)
            title = f"<title>{escape(point.name)}: {point.interval[0]:.3f} to {point.interval[1]:.3f}</title>"
            body.append(
                f'<rect class="c1" x="{start:.1f}" y="{y - 1.5}" width="{end - start:.1f}" height="3">{title}</rect>'
            )
        body.append(f'<rect class="c1" x="{place(point.mean) - 1.5:.1f}" y="{y - 9}" width="3" height="18"/>')
        for score in point.scores:
            title = f"<title>{escape(point.name)}: {score:.3f}</title>"
            body.append(f'<circle class="c2" cx="{place(score):.1f}" cy="{y}" r="4">{title}</circle>')
    return picture(f"{metric} on test", height, body)


def curve_plot(metric: str, axis: str, lines: Mapping[str, Sequence[Point]]) -> Markup:
    """A line for each name along a number, with the intervals of its points; far numbers on a scale of powers."""
    points = [point for line in lines.values() for point in line]
    ticks, height = _score_ticks(points), 240
    place = _Scale([point.x for point in points], LEFT + 14, WIDTH - RIGHT - 14)
    body = grid_lines(ticks, height, "{:.2f}".format)
    for x in spaced(sorted({point.x for point in points}), place, compact):
        body.append(text_at(place(x), height - 12, compact(x), "tick middle"))
    body.append(text_at(WIDTH, height + 8, axis, "tick end"))
    for i, (name, line) in enumerate(lines.items()):
        aside = (i - (len(lines) - 1) / 2) * 3  # so that intervals stand beside each other
        places = [(place(point.x) + aside, place_y(point.mean, ticks[0], ticks[-1], height)) for point in line]
        colour, is_dashed = line_look(i)
        stroke, dashes = colour.replace("c", "s"), ' stroke-dasharray="5 4"' if is_dashed else ""
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline class="line {stroke}"{dashes} points="{shape}"/>')
        for point, (x, y) in zip(line, places, strict=True):
            if point.interval:
                low, high = (place_y(end, ticks[0], ticks[-1], height) for end in point.interval)
                body.append(f'<line class="line {stroke}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            title = f"<title>{escape(name)}, {point.x:g}: {point.mean:.3f}</title>"
            body.append(f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>')
    return picture(f"{metric} along {axis}", height + 14, body)


def line_look(number: int) -> tuple[str, bool]:
    """Colour of a curve's line, and whether it is dashed, as those are that find no colour of their own."""
    return _LINE_COLOURS[number % len(_LINE_COLOURS)], number >= len(_LINE_COLOURS)


def cost_plot(metric: str, cost: str, points: Sequence[Point]) -> Markup:
    """A dot for each, score against cost; names in a column, by score, each with a line to its dot."""
    ticks = _score_ticks([Point(name=point.name, mean=point.mean) for point in points])
    height = max(220, len(points) * _LINE_HEIGHT + TOP + BOTTOM)
    place = _Scale([point.x for point in points], LEFT + 10, WIDTH - _NAMES_WIDTH - 24)
    body = grid_lines(ticks, height, "{:.2f}".format, WIDTH - _NAMES_WIDTH - 8)
    shown = spaced(place.ticks(), place, compact)
    body += [text_at(place(x), height - 10, compact(x), "tick middle") for x in shown]
    body.append(text_at(WIDTH, height - 10, cost, "tick end"))
    last = -math.inf
    for i, point in enumerate(sorted(points, key=lambda point: -point.mean)):
        x, y = place(point.x), place_y(point.mean, ticks[0], ticks[-1], height)
        # Down the column as near to its dot as there is room, above and below.
        lowest = height - BOTTOM - (len(points) - 1 - i) * _LINE_HEIGHT
        last = max(last + _LINE_HEIGHT, min(y, lowest))
        column = WIDTH - _NAMES_WIDTH
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{column - 3}" y1="{y:.1f}" y2="{last:.1f}"/>')
        title = f"<title>{escape(point.name)}: {point.mean:.3f} for {point.x:,.0f}</title>"
        body.append(f'<circle class="c1" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>')
        body.append(text_at(column, last + 5, shortened(point.name, int(_NAMES_WIDTH / LETTER)), "tick"))
    return picture(f"{metric} against {cost}", height, body)


def _score_ticks(points: Sequence[Point]) -> list[float]:
    values = [value for point in points for value in point.reach]
    return round_ticks(max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.02))


class _Scale:
    """Places numbers from ``start`` to ``end``; by their logarithm if the largest is ten times the least."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low, self._high = min(values), max(values)
        self._start, self._end = start, end
        self._by_powers = self._low > 0 and self._high >= 10 * self._low

    def __call__(self, value: float) -> float:
        low, high, value = (
            map(math.log, (self._low, self._high, value)) if self._by_powers else (self._low, self._high, value)
        )
        return self._start + (value - low) / max(high - low, 1e-9) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Some round numbers between the least and the largest; these two where there is none."""
        if self._by_powers:
            powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
            steps = (1, 3) if self._high <= 100 * self._low else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
        else:
            found = round_ticks(self._low, self._high)
        return [value for value in found if self._low <= value <= self._high] or sorted({self._low, self._high})
