"""What happened in one phase of a benchmark, as the dispatcher tells it. Pure but for its clock.

The dispatcher hears of everything that the pool does: which engine joined or left, what it was dealt, what it finished
and what it said of itself. So the pool that is measured is the pool that runs use, line by line.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3ray.types import EngineStats

if TYPE_CHECKING:
    from s3ray.generator.engines.base import Timing

Clock = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class Life:
    """One process of an engine: when it was there (seconds of the record's clock), and what it said, oldest first."""

    engine: str
    ready_at: float
    left_at: float | None = None
    readings: list[tuple[float, EngineStats]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class PhaseRecord:
    """One phase: the engines' lives, and its three moments in seconds of the same clock, None before they come.

    ``started_at``: the first request was handed over. ``dry_at``: no request waited any more, and the first engine held
    fewer than it decodes at once. ``ended_at``: the last answer came. ``again_prompt_tokens`` and
    ``again_output_tokens`` belong to requests that were handed over more than once (copies at the end, what a lost
    engine held): engines may have computed them once more than there are answers.
    """

    lives: list[Life] = field(default_factory=list)
    started_at: float | None = None
    dry_at: float | None = None
    ended_at: float | None = None
    again_prompt_tokens: int = 0
    again_output_tokens: int = 0
    timings: "list[Timing]" = field(default_factory=list)
    _num_dealt: Counter[int] = field(default_factory=Counter)
    _current: dict[str, Life] = field(default_factory=dict)

    def begin_life(self, life: Life) -> None:
        """An engine is there, for the first time in this phase or again."""
        self.lives.append(life)
        self._current[life.engine] = life

    def life_of(self, engine: str) -> Life:
        """The process that an engine has now."""
        return self._current[engine]

    def note_deal(self, now: float, indexes: Collection[int], *, is_dry: bool) -> None:
        """Requests go to an engine; ``is_dry``: it could hold more, and there are none."""
        if indexes and self.started_at is None:
            self.started_at = now
        self._num_dealt.update(indexes)
        if is_dry and self.started_at is not None and self.dry_at is None:
            self.dry_at = now

    def note_answer(self, now: float, index: int, prompt_tokens: int, output_tokens: int) -> None:
        """A request ended."""
        self.ended_at = now
        if self._num_dealt[index] > 1:
            self.again_prompt_tokens += prompt_tokens
            self.again_output_tokens += output_tokens


class PhaseRecorder:
    """Keeps the record of the phase under way (``dispatch.Recorder``)."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.record = PhaseRecord()
        self._now = clock

    def begin_record(self) -> PhaseRecord:
        """Forget what was; the engines that are there begin the new record."""
        now = self._now()
        present = [life.engine for life in self.record.lives if life.left_at is None]
        self.record = PhaseRecord()
        for engine in present:
            self.record.begin_life(Life(engine=engine, ready_at=now))
        return self.record

    def joined(self, engine: str) -> None:
        """See ``Recorder``."""
        now = self._now()
        self.record.begin_life(Life(engine=engine, ready_at=now, readings=[(now, EngineStats())]))

    def left(self, engine: str) -> None:
        """See ``Recorder``."""
        self.record.life_of(engine).left_at = self._now()

    def reported(self, engine: str, stats: EngineStats) -> None:
        """See ``Recorder``."""
        self.record.life_of(engine).readings.append((self._now(), stats))

    def timed(self, timings: "Sequence[Timing]") -> None:
        """See ``Recorder``."""
        self.record.timings += timings

    def dealt(self, indexes: Collection[int], *, is_dry: bool) -> None:
        """See ``Recorder``."""
        self.record.note_deal(self._now(), indexes, is_dry=is_dry)

    def ended(self, index: int, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """See ``Recorder``."""
        self.record.note_answer(self._now(), index, num_prompt_tokens, num_output_tokens)
