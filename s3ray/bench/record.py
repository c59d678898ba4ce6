"""One phase of a benchmark as the dispatcher records it, and sums over it. Pure but for a clock.

The dispatcher knows everything that the pool does: which engine joined or left, which requests it was given, which it
finished, and what it reported of itself. So what is measured is the very pool that runs use.

Engines report their counters with every exchange, from a few times a second to once in two seconds; between two
readings a counter is taken to grow evenly.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from s3ray.bench.profile import Level, Shares, UnknownError
from s3ray.types import EngineStats

if TYPE_CHECKING:
    from s3ray.generator.engines.base import Timing

Clock = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class Life:
    """One process of an engine: when it was there, in seconds of the record's clock, and its reports, oldest first."""

    engine: str
    ready_at: float
    left_at: float = math.inf
    readings: list[tuple[float, EngineStats]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class PhaseRecord:
    """One phase: the engines' lives, and three moments in seconds of the same clock, each None until it comes.

    ``started_at``: the first request was handed over. ``dry_at``: no request waited any more, and the first engine held
    fewer than it decodes at once. ``ended_at``: the last answer came. ``again_prompt_tokens`` and
    ``again_output_tokens`` are those of requests that were handed over more than once (hedged copies at the end, or
    what a lost engine held), which engines may have computed more often than they were answered.
    """

    lives: list[Life] = field(default_factory=list)
    started_at: float | None = None
    dry_at: float | None = None
    ended_at: float | None = None
    again_prompt_tokens: int = 0
    again_output_tokens: int = 0
    timings: "list[Timing]" = field(default_factory=list)


class PhaseRecorder:
    """Keeps the record of the phase in progress (``dispatch.Recorder``)."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.record = PhaseRecord()
        self._now = clock
        self._current: dict[str, Life] = {}
        self._num_dealt: Counter[int] = Counter()

    def begin_record(self) -> PhaseRecord:
        """Begin a new record with the engines that are there."""
        now = self._now()
        present = [life.engine for life in self._current.values() if life.left_at == math.inf]
        self.record = PhaseRecord()
        self._current.clear()
        self._num_dealt.clear()
        for engine in present:
            self._begin_life(Life(engine=engine, ready_at=now))
        return self.record

    def joined(self, engine: str) -> None:
        """See ``Recorder``."""
        now = self._now()
        self._begin_life(Life(engine=engine, ready_at=now, readings=[(now, EngineStats())]))

    def left(self, engine: str) -> None:
        """See ``Recorder``."""
        self._current[engine].left_at = self._now()

    def reported(self, engine: str, stats: EngineStats) -> None:
        """See ``Recorder``."""
        self._current[engine].readings.append((self._now(), stats))

    def timed(self, timings: "Sequence[Timing]") -> None:
        """See ``Recorder``."""
        self.record.timings += timings

    def assigned(self, indexes: Collection[int], *, is_dry: bool) -> None:
        """See ``Recorder``."""
        record, now = self.record, self._now()
        if indexes and record.started_at is None:
            record.started_at = now
        self._num_dealt.update(indexes)
        if is_dry and record.started_at is not None and record.dry_at is None:
            record.dry_at = now

    def ended(self, index: int, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """See ``Recorder``."""
        self.record.ended_at = self._now()
        if self._num_dealt[index] > 1:
            self.record.again_prompt_tokens += num_prompt_tokens
            self.record.again_output_tokens += num_output_tokens

    def _begin_life(self, life: Life) -> None:
        self.record.lives.append(life)
        self._current[life.engine] = life


# -- arithmetic over a record: windows of time, what was counted in them, where engine-seconds went -----------------

Counted = Callable[[EngineStats], float]
"""Reads one of the counters that an engine reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of time, in seconds of the record's clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


def whole_phase(record: PhaseRecord) -> Window:
    """From the first request that was handed over to the last answer.

    Raises:
        ValueError: nothing was answered.
    """
    if record.started_at is None or record.ended_at is None:
        raise ValueError("no request of the phase was answered")
    return Window(start=record.started_at, end=record.ended_at)


def steady_window(record: PhaseRecord) -> Window:
    """The phase until the first engine ran dry; of no length if no engine ever had as many as it decodes at once."""
    whole = whole_phase(record)
    return Window(start=whole.start, end=whole.end if record.dry_at is None else min(record.dry_at, whole.end))


def value_at(life: Life, counted: Counted, at: float) -> float:
    """A counter of a life at a moment, interpolated between its readings; 0 without any reading."""
    if not life.readings:
        return 0.0
    times, stats = zip(*life.readings, strict=True)
    return float(np.interp(at, times, [counted(each) for each in stats]))


def increase(lives: Sequence[Life], counted: Counted, window: Window) -> float:
    """How much a counter of all engines together grew in a window."""
    return sum(value_at(life, counted, window.end) - value_at(life, counted, window.start) for life in lives)


def growth(lives: Sequence[Life], counted: Counted) -> float:
    """How much a counter of all engines grew from the first to the last reading of each."""
    told = [life.readings for life in lives if life.readings]
    return sum(counted(readings[-1][1]) - counted(readings[0][1]) for readings in told)


def level(lives: Sequence[Life], counted: Counted, window: Window) -> Level:
    """Mean over time and peak of what goes up and down, over all engines.

    A reading stands for the time since the one before it.

    Raises:
        UnknownError: no engine reported anything in the window.
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
    if not seconds:
        raise UnknownError("the phase was over before any engine reported")
    return Level(mean=total / seconds, peak=peak)


def shares_of(record: PhaseRecord, num_engines: int) -> Shares:
    """How engines spent the whole phase; each second has exactly one state."""
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
    return sum(max(0.0, min(window.end, life.left_at) - max(window.start, life.ready_at)) for life in lives)
