"""The report's plots: inline SVG from numbers, coloured by the page's style sheet (classes ``c1`` to ``c8``).

Pure; every text is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from s3ray.monitor.accounting import BUSY, NO_WORK, OTHER_PHASE, RECOVERING, STARTING
from s3ray.monitor.progress import duration
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
    spaced,
    text_at,
)
from s3ray.monitor.timeline import NUM_BINS, Rows, Timeline

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
    low, high = ticks[0], ticks[-1]
    columns = [f"round {num}" for num in scores] + ([] if test is None else ["test"])
    height = 220
    step = (WIDTH - LEFT - RIGHT) / len(columns)
    xs = [LEFT + step * (i + 0.5) for i in range(len(columns))]
    body = grid_lines(ticks, height, "{:.2f}".format)
    names = [name if step > 7 * LETTER else name.removeprefix("round ") for name in columns]
    # Many rounds: every other name, so that they do not run into each other.
    every = math.ceil((max(map(len, names[: len(scores)])) + 1) * LETTER / step)
    for i, (x, name) in enumerate(zip(xs, names, strict=True)):
        if name == "test" or (i % every == 0 and (test is None or xs[-1] - x > 5 * LETTER)):
            body.append(text_at(x, height - 10, name, "tick middle"))
    ys = [place_y(value, low, high, height) for value in scores.values()]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=False))
    body.append(f'<polyline class="line s1" points="{points}"/>')
    written = _written_values(xs, list(scores.values()), with_test=test is not None)
    for i, (x, y, (num, value)) in enumerate(zip(xs, ys, scores.items(), strict=False)):
        title = f"<title>round {num}: {value:.3f}</title>"
        body.append(f'<circle class="c1" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>')
        if i in written:
            body.append(text_at(x, y - 12, f"{value:.3f}", "value middle"))
    if test is not None:
        x, y = xs[-1], place_y(test, low, high, height)
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
    high = ticks[-1]
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
        body.append(_area(base, top, high, height, colour, engine))
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


def _area(base: Sequence[float], top: Sequence[float], high: float, height: int, colour: str, name: str) -> str:
    width = (WIDTH - LEFT - RIGHT) / len(top)
    edges = [(LEFT + i * width, LEFT + (i + 1) * width) for i in range(len(top))]
    upper = [(x, place_y(value, 0, high, height)) for pair, value in zip(edges, top, strict=True) for x in pair]
    lower = [(x, place_y(value, 0, high, height)) for pair, value in zip(edges, base, strict=True) for x in pair]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return f'<polygon class="{colour}" points="{points}"><title>{escape(name)}</title></polygon>'
