"""Arithmetic over a phase's record: windows of time, what was counted in them, and where engine-seconds went. Pure.

Engines tell their counters with every exchange, a few times a second to once in two; between two readings a counter is
taken to grow evenly.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s3ray.bench.record import Life, PhaseRecord
from s3ray.types import EngineStats

Counted = Callable[[EngineStats], float]
"""One of the numbers that an engine tells of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of time, in seconds of the record's clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Where the seconds of all engines went in a phase; they add up to 1.

    ``busy``: a request was under way. ``bubble``: the engine was ready and had none, before the first engine ran dry.
    ``tail``: the same after that. ``down``: it was not there.
    """

    busy: float
    bubble: float
    tail: float
    down: float


def whole_phase(record: PhaseRecord) -> Window:
    """From the first request that was handed over to the last answer.

    Raises:
        ValueError: nothing was answered.
    """
    if record.started_at is None or record.ended_at is None:
        raise ValueError("no request of the phase was answered")
    return Window(start=record.started_at, end=record.ended_at)


def steady_window(record: PhaseRecord) -> Window:
    """The whole phase up to when the first engine ran dry; of no length if no engine ever had its fill."""
    whole = whole_phase(record)
    return Window(start=whole.start, end=whole.end if record.dry_at is None else min(record.dry_at, whole.end))


def value_at(life: Life, counted: Counted, at: float) -> float:
    """A counter of a life at a moment, by its readings before and after; 0 where it told nothing."""
    readings = life.readings
    after = bisect_right(readings, at, key=lambda reading: reading[0])
    if not readings or after == 0:
        return counted(readings[0][1]) if readings else 0.0
    before_at, before = readings[after - 1]
    if after == len(readings):
        return counted(before)
    next_at, following = readings[after]
    part = (at - before_at) / (next_at - before_at)
    return counted(before) + part * (counted(following) - counted(before))


def increase(lives: Sequence[Life], counted: Counted, window: Window) -> float:
    """How much a counter of all engines together grew in a window."""
    return sum(value_at(life, counted, window.end) - value_at(life, counted, window.start) for life in lives)


def growth(lives: Sequence[Life], counted: Counted) -> float:
    """How much it grew from the first reading of each to its last: all that an engine told of the phase."""
    told = [life.readings for life in lives if life.readings]
    return sum(counted(readings[-1][1]) - counted(readings[0][1]) for readings in told)


def level(lives: Sequence[Life], counted: Counted, window: Window) -> tuple[float, float] | None:
    """Mean over time and peak of what goes up and down, over all engines; None where none told it in the window.

    A reading stands for the time since the one before it.
    """
    total = seconds = peak = 0.0
    for life in lives:
        before_at = max(window.start, life.ready_at)
        for at, stats in life.readings:
            if window.start < at <= window.end:
                total += counted(stats) * (at - before_at)
                seconds += at - before_at
                peak = max(peak, counted(stats))
                before_at = at
    return (total / seconds, peak) if seconds else None


def shares_of(record: PhaseRecord, num_engines: int) -> Shares:
    """Book every second of every engine in the whole phase."""
    whole, steady = whole_phase(record), steady_window(record)
    total = num_engines * whole.seconds
    if not total:
        return Shares(busy=0.0, bubble=0.0, tail=0.0, down=1.0)
    tail = Window(start=steady.end, end=whole.end)
    bubble_s, tail_s = (max(0.0, _idle_s(record.lives, part)) for part in (steady, tail))
    down_s = max(0.0, total - _there_s(record.lives, whole))
    bubble, waited, down = (seconds / total for seconds in (bubble_s, tail_s, down_s))
    return Shares(busy=1.0 - bubble - waited - down, bubble=bubble, tail=waited, down=down)


def _idle_s(lives: Sequence[Life], window: Window) -> float:
    return _there_s(lives, window) - increase(lives, lambda stats: stats.busy_s, window)


def _there_s(lives: Sequence[Life], window: Window) -> float:
    return sum(
        max(
            0.0,
            min(window.end, window.end if life.left_at is None else life.left_at) - max(window.start, life.ready_at),
        )
        for life in lives
    )
