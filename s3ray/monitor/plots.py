"""The report's plots: inline SVG from numbers, coloured by the page's style sheet (classes ``c1`` to ``c8``).

Pure; every text is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from s3ray.monitor.accounting import BUSY, NO_WORK, OTHER_PHASE, RECOVERING, STARTING
from s3ray.monitor.lanes import NUM_BINS, Rows
from s3ray.monitor.progress import duration
from s3ray.monitor.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, grid_lines, picture, place_y, round_ticks, text_at
from s3ray.monitor.timeline import Timeline

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
        top = i * 44
        body.append(text_at(0, top + 13, bar.label, "label"))
        body.append(text_at(WIDTH, top + 13, bar.note, "value end"))
        x = 0.0
        for part in bar.parts:
            width = part.value / longest * WIDTH
            body.append(
                f'<rect class="{part.colour}" x="{x:.1f}" y="{top + 19}" width="{max(width - 1, 0):.1f}" height="14">'
                f"<title>{escape(part.name)}: {part.value:g}</title></rect>"
            )
            x += width
    return picture(title, max(len(bars) * 44 - 6, 1), body)


def score_plot(metric: str, scores: Mapping[int, float], test: float | None) -> Markup:
    """The score on the selection part by round, and the test score in a column of its own at the end."""
    values = [*scores.values(), *([] if test is None else [test])]
    ticks = round_ticks(max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.03))
    low, high = ticks[0], ticks[-1]
    columns = [f"round {num}" for num in scores] + ([] if test is None else ["test"])
    height = 220
    step = (WIDTH - LEFT - RIGHT) / len(columns)
    xs = [LEFT + step * (i + 0.5) for i in range(len(columns))]
    body = grid_lines(ticks, height, "{:.2f}")
    # Many rounds: every other name, so that they do not run into each other.
    every = math.ceil(len(columns) * 52 / (WIDTH - LEFT))
    for i, (x, name) in enumerate(zip(xs, columns, strict=True)):
        if i % every == 0 or name == "test":
            body.append(text_at(x, height - 10, name, "tick middle"))
    ys = [place_y(value, low, high, height) for value in scores.values()]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=False))
    body.append(f'<polyline class="line s1" points="{points}"/>')
    for x, y, value in zip(xs, ys, scores.values(), strict=False):
        body.append(f'<circle class="c1" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        body.append(text_at(x, y - 12, f"{value:.3f}", "value middle"))
    if test is not None:
        x, y = xs[-1], place_y(test, low, high, height)
        body.append(f'<path class="c3" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>')
        body.append(text_at(x, y - 11, f"{test:.3f}", "value middle"))
    return picture(f"{metric} by round", height, body)


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
    body += grid_lines(ticks, height, "{:,.0f}")
    base = [0.0] * len(total)
    stacked = line.rates if len(line.rates) <= len(ENGINE_COLOURS) else {"all engines": total}
    for colour, (engine, rates) in zip(ENGINE_COLOURS, stacked.items(), strict=False):
        top = [low + rate for low, rate in zip(base, rates, strict=True)]
        body.append(_area(base, top, high, height, colour, engine))
        base = top
    body += _time_axis(end_s, LEFT, scale, height - 10)
    return picture("output tokens per second over time", height, body)


def engine_parts(line: Timeline) -> tuple[Part, ...]:
    """Name, mean rate while writing (tokens/s) and colour of each engine in ``throughput_plot``, for its legend."""
    if len(line.rates) > len(ENGINE_COLOURS):
        return (Part(name=f"all {len(line.rates)} engines", value=_mean_busy(line.total), colour="c1"),)
    pairs = zip(ENGINE_COLOURS, line.rates.items(), strict=False)
    return tuple(Part(name=engine, value=_mean_busy(rates), colour=colour) for colour, (engine, rates) in pairs)


def lanes_plot(lines: Rows) -> Markup:
    """What each engine and the train workers did along working time, a row each."""
    step, left = 22, 104
    scale = (WIDTH - left) / NUM_BINS
    body = []
    for i, row in enumerate(lines.rows):
        body.append(text_at(0, i * step + 12, row.name, "tick"))
        for state, first, last in row.pieces:
            seconds = (last - first) * lines.total_s / NUM_BINS
            body.append(
                f'<rect class="{STATE_COLOURS[state]}" x="{left + first * scale:.1f}" y="{i * step}" '
                f'width="{(last - first) * scale:.1f}" height="{step - 6}">'
                f"<title>{escape(row.name)} {escape(state)}: {escape(duration(seconds))}</title></rect>"
            )
    height = len(lines.rows) * step
    body += _time_axis(lines.total_s, left, (WIDTH - left) / lines.total_s, height + 12)
    return picture("what engines and train workers did over time", height + 16, body)


def lane_parts(lines: Rows) -> tuple[Part, ...]:
    """Seconds in each state and its colour, for the legend of ``lanes_plot``."""
    return tuple(
        Part(name=state, value=seconds, colour=STATE_COLOURS[state])
        for state, seconds in lines.seconds.items()
        if seconds
    )


def _time_axis(end_s: float, left: float, scale: float, y: float) -> list[str]:
    unit, name = (60.0, "min") if end_s >= 180 else (1.0, "s")
    ticks = [tick for tick in round_ticks(0, end_s / unit) if left + tick * unit * scale < WIDTH - 30]
    texts = [text_at(left + tick * unit * scale, y, f"{tick:g}", "tick middle") for tick in ticks]
    return [*texts, text_at(WIDTH, y, name, "tick end")]


def _mean_busy(rates: Sequence[float]) -> float:
    busy = [rate for rate in rates if rate > 0]
    return sum(busy) / len(busy) if busy else 0.0


def _area(base: Sequence[float], top: Sequence[float], high: float, height: int, colour: str, name: str) -> str:
    width = (WIDTH - LEFT - RIGHT) / len(top)
    edges = [(LEFT + i * width, LEFT + (i + 1) * width) for i in range(len(top))]
    upper = [(x, place_y(value, 0, high, height)) for pair, value in zip(edges, top, strict=True) for x in pair]
    lower = [(x, place_y(value, 0, high, height)) for pair, value in zip(edges, base, strict=True) for x in pair]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return f'<polygon class="{colour}" points="{points}"><title>{escape(name)}</title></polygon>'
