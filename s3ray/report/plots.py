"""The plots of reports and comparisons as SVG, and what they are drawn with. Pure; every text is escaped.

Drawn for a width of 460 units. On narrow screens, where a unit is less than a pixel, the style sheet makes letters
larger: texts get room for the largest size (``LETTER``).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from s3ray.monitor.accounting import BUSY, NO_WORK, OTHER_PHASE, RECOVERING, STARTING
from s3ray.monitor.timeline import NUM_BINS, Rows, Timeline
from s3ray.text import duration

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 30
LETTER = 10.0
"""Units that a letter takes at most, on a phone."""


def text_at(x: float, y: float, text: str, style: str) -> str:
    """A text; ``style`` names classes of the style sheet."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def shortened(text: str, most: int) -> str:
    """At most ``most`` letters: the beginning and the end of the text, as names often differ in either."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def compact(value: float) -> str:
    """A number in few letters: ``250``, ``1.5k``, ``30k``, ``2M``."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def spaced(values: Iterable[float], place: Callable[[float], float], text: Callable[[float], str]) -> list[float]:
    """The values, in order, whose texts do not overlap those before them."""
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
    """A horizontal line at each tick of the upright axis, up to ``right``, and its number beside it."""
    lines, place_y = [], upright(ticks, height)
    for tick in ticks:
        y = place_y(tick)
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


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps ``low`` to ``start``, ``high`` to ``end``, and values between them in proportion."""
    return lambda value: start + (value - low) / max(high - low, 1e-9) * (end - start)


def upright(ticks: Sequence[float], height: int) -> Callable[[float], float]:
    """Maps values to their height in a plot whose upright axis has these ticks."""
    return linear(ticks[0], ticks[-1], height - BOTTOM, TOP)


def standalone(plot: Markup, style: str) -> str:
    """A plot as a file of its own, with the style sheet of the pages, on their paper."""
    head, _, body = str(plot).partition(">")
    _, _, width, height = head.partition('viewBox="')[2].partition('"')[0].split()
    frame = f'viewBox="-16 -16 {float(width) + 32:g} {float(height) + 32:g}"'
    head = re.sub('viewBox="[^"]*"', frame, head).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    own = "svg { background: var(--paper); font-family: system-ui, sans-serif; }"
    return f"{head}><style>\n{style}\n{own}\n</style>{body}\n"


def picture(title: str, height: int, body: Sequence[str]) -> Markup:
    """A whole plot; ``title`` is its text for screen readers."""
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return Markup("").join([Markup(head), *map(Markup, body), Markup("</svg>")])


_BAR_STEP = 48
ENGINE_COLOURS = ("c1", "c5", "c2", "c4", "c3", "c6")
STATE_COLOURS = {BUSY: "c1", STARTING: "c5", NO_WORK: "c2", OTHER_PHASE: "c7", RECOVERING: "c3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A coloured piece of a bar: ``colour`` is a class of the style sheet."""

    name: str
    value: float
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A horizontal stacked bar: ``label`` on the left above it, ``note`` on the right."""

    label: str
    note: str
    parts: tuple[Part, ...]


def stacked_bars(title: str, bars: Sequence[Bar]) -> Markup:
    """Bars under each other on one scale that starts at zero."""
    longest = max((sum(part.value for part in bar.parts) for bar in bars), default=0) or 1
    body = []
    for i, bar in enumerate(bars):
        top = i * _BAR_STEP
        body.append(text_at(0, top + 15, bar.label, "label"))
        body.append(text_at(WIDTH, top + 15, bar.note, "value end"))
        x = 0.0
        for part in bar.parts:
            width = part.value / longest * WIDTH
            body.append(
                f'<rect class="{part.colour}" x="{x:.1f}" y="{top + 21}" width="{max(width - 1, 0):.1f}" height="14">'
                f"<title>{escape(part.name)}: {part.value:g}</title></rect>"
            )
            x += width
    return picture(title, max(len(bars) * _BAR_STEP - 10, 1), body)


def score_plot(metric: str, scores: Mapping[int, float], test: float | None) -> Markup:
    """The score on the selection part by round, and the test score in a column of its own at the end.

    Of many rounds, only the first, the best and the last have their score written beside them.
    """
    values = [*scores.values(), *([] if test is None else [test])]
    ticks = round_ticks(max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.03))
    columns = [f"round {num}" for num in scores] + ([] if test is None else ["test"])
    height = 220
    place_y = upright(ticks, height)
    step = (WIDTH - LEFT - RIGHT) / len(columns)
    xs = [LEFT + step * (i + 0.5) for i in range(len(columns))]
    body = grid_lines(ticks, height, "{:.2f}".format)
    names = [name if step > 7 * LETTER else name.removeprefix("round ") for name in columns]
    # Many rounds: every other name, so that they do not run into each other.
    every = math.ceil((max(map(len, names[: len(scores)])) + 1) * LETTER / step)
    for i, (x, name) in enumerate(zip(xs, names, strict=True)):
        if name == "test" or (i % every == 0 and (test is None or xs[-1] - x > 5 * LETTER)):
            body.append(text_at(x, height - 10, name, "tick middle"))
    ys = [place_y(value) for value in scores.values()]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=False))
    body.append(f'<polyline class="line s1" points="{points}"/>')
    written = _written_values(xs, list(scores.values()), with_test=test is not None)
    for i, (x, y, (num, value)) in enumerate(zip(xs, ys, scores.items(), strict=False)):
        title = f"<title>round {num}: {value:.3f}</title>"
        body.append(f'<circle class="c1" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>')
        if i in written:
            body.append(text_at(x, y - 12, f"{value:.3f}", "value middle"))
    if test is not None:
        x, y = xs[-1], place_y(test)
        body.append(f'<path class="c3" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>')
        body.append(text_at(x, y - 11, f"{test:.3f}", "value middle"))
    return picture(f"{metric} by round", height, body)


def _written_values(xs: Sequence[float], values: Sequence[float], *, with_test: bool) -> set[int]:
    """Which points have their value beside them: all where there is room, else the last, the best and the first."""
    taken, written = [xs[-1]] if with_test else [], set()
    best = max(range(len(values)), key=lambda i: values[i])
    for i in (len(values) - 1, best, 0, *range(1, len(values) - 1)):
        if i not in written and all(abs(xs[i] - x) >= 5.5 * LETTER for x in taken):
            taken.append(xs[i])
            written.add(i)
    return written


def throughput_plot(line: Timeline) -> Markup:
    """Tokens per second along working time, engines stacked; grey where a student was trained."""
    height = 220
    total = line.total
    ticks = round_ticks(0, max(total) * 1.05)
    end_s = line.bin_s * len(total)
    scale = (WIDTH - LEFT - RIGHT) / end_s
    body = []
    for num, start, stop in line.training:
        x, width = LEFT + start * scale, max((stop - start) * scale, 1)
        body.append(
            f'<rect class="band" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{height - TOP - BOTTOM}">'
            f"<title>student {num} is trained: {escape(duration(stop - start))}</title></rect>"
        )
    body += grid_lines(ticks, height, compact)
    base = [0.0] * len(total)
    stacked = line.rates if len(line.rates) <= len(ENGINE_COLOURS) else {"all engines": total}
    for colour, (engine, rates) in zip(ENGINE_COLOURS, stacked.items(), strict=False):
        top = [low + rate for low, rate in zip(base, rates, strict=True)]
        body.append(_area(base, top, upright(ticks, height), colour, engine))
        base = top
    body += _time_axis(end_s, scale, height - 10)
    return picture("output tokens per second over time", height, body)


def engine_parts(line: Timeline) -> tuple[Part, ...]:
    """Name, mean rate while writing (tokens/s) and colour of each engine in ``throughput_plot``, for its legend."""
    if len(line.rates) > len(ENGINE_COLOURS):
        return (Part(name=f"all {len(line.rates)} engines", value=mean_busy(line.total), colour="c1"),)
    pairs = zip(ENGINE_COLOURS, line.rates.items(), strict=False)
    return tuple(Part(name=engine, value=mean_busy(rates), colour=colour) for colour, (engine, rates) in pairs)


def lanes_plot(lines: Rows) -> Markup:
    """What each engine and the train workers did along working time: a row each, and the time below them.

    Names may be long, so rows are not one picture: names are text of the page, and only bars are drawn.
    """
    body = []
    for row in lines.rows:
        rects = []
        for state, first, last in row.pieces:
            seconds = duration((last - first) * lines.total_s / NUM_BINS)
            rects.append(
                f'<rect class="{STATE_COLOURS[state]}" x="{first}" y="0" width="{last - first}" height="1">'
                f"<title>{escape(row.name)} {escape(state)}: {escape(seconds)}</title></rect>"
            )
        body.append(
            f'<span class="name">{escape(row.name)}</span>'
            f'<svg viewBox="0 0 {NUM_BINS} 1" preserveAspectRatio="none" aria-hidden="true">{"".join(rects)}</svg>'
        )
    (unit_s, unit), ticks = _time_ticks(lines.total_s)
    shares = [(tick * unit_s / lines.total_s, tick) for tick in ticks]
    times = "".join(f'<i style="left: {share:.1%}">{tick:g}</i>' for share, tick in shares if share < 0.9)
    body.append(f'<span class="unit">{unit}</span><div class="times">{times}</div>')
    return Markup('<div class="lanes">{}</div>').format(Markup("").join(map(Markup, body)))


def lane_parts(lines: Rows) -> tuple[Part, ...]:
    """Seconds in each state and its colour, for the legend of ``lanes_plot``."""
    return tuple(
        Part(name=state, value=seconds, colour=STATE_COLOURS[state])
        for state, seconds in lines.seconds.items()
        if seconds
    )


def _time_axis(end_s: float, scale: float, y: float) -> list[str]:
    (unit_s, name), ticks = _time_ticks(end_s)

    def place(tick: float) -> float:
        return LEFT + tick * unit_s * scale

    shown = [tick for tick in spaced(ticks, place, "{:g}".format) if place(tick) < WIDTH - 5 * LETTER]
    return [
        *(text_at(place(tick), y, f"{tick:g}", "tick middle") for tick in shown),
        text_at(WIDTH, y, name, "tick end"),
    ]


def _time_ticks(end_s: float) -> tuple[tuple[float, str], list[float]]:
    """The unit of time in which an axis up to ``end_s`` is read (seconds, name), and its ticks in this unit."""
    unit = next(unit for unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")) if end_s >= 3 * unit[0] or unit[0] == 1)
    return unit, [tick for tick in round_ticks(0, end_s / unit[0]) if tick * unit[0] <= end_s]


def mean_busy(rates: Sequence[float]) -> float:
    """The mean of the rates that are not zero; zero of none."""
    busy = [rate for rate in rates if rate > 0]
    return sum(busy) / len(busy) if busy else 0.0


def _area(
    base: Sequence[float], top: Sequence[float], place_y: Callable[[float], float], colour: str, name: str
) -> str:
    width = (WIDTH - LEFT - RIGHT) / len(top)
    edges = [(LEFT + i * width, LEFT + (i + 1) * width) for i in range(len(top))]
    upper = [(x, place_y(value)) for pair, value in zip(edges, top, strict=True) for x in pair]
    lower = [(x, place_y(value)) for pair, value in zip(edges, base, strict=True) for x in pair]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return f'<polygon class="{colour}" points="{points}"><title>{escape(name)}</title></polygon>'


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


def scores_plot(metric: str, points: Sequence[Point]) -> Markup:
    """One line for each: a dot for each seed, a stroke at their mean, and a bar for the interval."""
    ticks = _score_ticks(_shown_scores(points))
    height = len(points) * _ROW_HEIGHT + 26
    place = linear(ticks[0], ticks[-1], 2 * LETTER, WIDTH - 2 * LETTER)
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
    """A curve for each name along a number, with intervals; numbers far apart are on a logarithmic scale."""
    points = [point for line in lines.values() for point in line]
    ticks, height = _score_ticks(_shown_scores(points)), 240
    place, place_y = _Scale([point.x for point in points], LEFT + 14, WIDTH - RIGHT - 14), upright(ticks, height)
    body = grid_lines(ticks, height, "{:.2f}".format)
    for x in spaced(sorted({point.x for point in points}), place, compact):
        body.append(text_at(place(x), height - 12, compact(x), "tick middle"))
    body.append(text_at(WIDTH, height + 8, axis, "tick end"))
    for i, (name, line) in enumerate(lines.items()):
        aside = (i - (len(lines) - 1) / 2) * 3  # so that intervals stand beside each other
        places = [(place(point.x) + aside, place_y(point.mean)) for point in line]
        colour, is_dashed = line_look(i)
        stroke, dashes = colour.replace("c", "s"), ' stroke-dasharray="5 4"' if is_dashed else ""
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline class="line {stroke}"{dashes} points="{shape}"/>')
        for point, (x, y) in zip(line, places, strict=True):
            if point.interval:
                low, high = map(place_y, point.interval)
                body.append(f'<line class="line {stroke}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            title = f"<title>{escape(name)}, {point.x:g}: {point.mean:.3f}</title>"
            body.append(f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>')
    return picture(f"{metric} along {axis}", height + 14, body)


def line_look(number: int) -> tuple[str, bool]:
    """Colour of a curve's line, and whether it is dashed (once all colours are taken)."""
    return _LINE_COLOURS[number % len(_LINE_COLOURS)], number >= len(_LINE_COLOURS)


def cost_plot(metric: str, cost: str, points: Sequence[Point]) -> Markup:
    """A dot for each, score against cost; names in a column, by score, each with a line to its dot."""
    ticks = _score_ticks([point.mean for point in points])
    height = max(220, len(points) * _LINE_HEIGHT + TOP + BOTTOM)
    place = _Scale([point.x for point in points], LEFT + 10, WIDTH - _NAMES_WIDTH - 24)
    place_y = upright(ticks, height)
    body = grid_lines(ticks, height, "{:.2f}".format, WIDTH - _NAMES_WIDTH - 8)
    shown = spaced(place.ticks(), place, compact)
    body += [text_at(place(x), height - 10, compact(x), "tick middle") for x in shown]
    body.append(text_at(WIDTH, height - 10, cost, "tick end"))
    last = -math.inf
    for i, point in enumerate(sorted(points, key=lambda point: -point.mean)):
        x, y = place(point.x), place_y(point.mean)
        # Down the column as near to its dot as there is room, above and below.
        lowest = height - BOTTOM - (len(points) - 1 - i) * _LINE_HEIGHT
        last = max(last + _LINE_HEIGHT, min(y, lowest))
        column = WIDTH - _NAMES_WIDTH
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{column - 3}" y1="{y:.1f}" y2="{last:.1f}"/>')
        title = f"<title>{escape(point.name)}: {point.mean:.3f} for {point.x:,.0f}</title>"
        body.append(f'<circle class="c1" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>')
        body.append(text_at(column, last + 5, shortened(point.name, int(_NAMES_WIDTH / LETTER)), "tick"))
    return picture(f"{metric} against {cost}", height, body)


def _shown_scores(points: Sequence[Point]) -> list[float]:
    return [score for point in points for score in (point.mean, *point.scores, *(point.interval or ()))]


def _score_ticks(values: Sequence[float]) -> list[float]:
    return round_ticks(max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.02))


class _Scale:
    """Maps numbers to ``start`` to ``end``: logarithmic if the largest is at least ten times the smallest."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low, self._high = min(values), max(values)
        self._by_powers = self._low > 0 and self._high >= 10 * self._low
        self._place = linear(self._scaled(self._low), self._scaled(self._high), start, end)

    def __call__(self, value: float) -> float:
        return self._place(self._scaled(value))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self._by_powers else value

    def ticks(self) -> list[float]:
        """Round numbers between the smallest and the largest; these two if there is none."""
        if self._by_powers:
            powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
            steps = (1, 3) if self._high <= 100 * self._low else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
        else:
            found = round_ticks(self._low, self._high)
        return [value for value in found if self._low <= value <= self._high] or sorted({self._low, self._high})
