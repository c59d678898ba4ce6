"""What happened in one phase of a benchmark, and the dispatcher that writes it down. Pure but for its clock.

The dispatcher hears of everything that the pool does: which engine joined or left, what it was dealt, what it finished
and what it said of itself. So the pool that is measured is the pool that runs use, line by line.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3ray.generator.dispatch import Deal, Dispatcher, Loss
from s3ray.generator.lookahead import MIN_AHEAD, RequestSource
from s3ray.generator.policy import Policy
from s3ray.types import EngineLimits, EngineStats

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


class WatchedDispatcher(Dispatcher):
    """A dispatcher that keeps a record of the phase under way."""

    def __init__(self, policy: Policy, min_ahead: int = MIN_AHEAD, clock: Clock = time.monotonic) -> None:
        super().__init__(policy, min_ahead)
        self.now = clock
        self.record = PhaseRecord()

    def begin_record(self) -> PhaseRecord:
        """Forget what was; the engines that are there begin the new record."""
        now = self.now()
        self.record = PhaseRecord()
        for engine in self._members:
            self.record.begin_life(Life(engine=engine, ready_at=now))
        return self.record

    def join(self, engine: str, limits: EngineLimits) -> None:
        """See ``Dispatcher``. Its counters begin at zero."""
        super().join(engine, limits)
        now = self.now()
        self.record.begin_life(Life(engine=engine, ready_at=now, readings=[(now, EngineStats())]))

    def leave(self, engine: str, *, is_blamed: bool) -> Loss:
        """See ``Dispatcher``."""
        if engine in self._members:
            self.record.life_of(engine).left_at = self.now()
        return super().leave(engine, is_blamed=is_blamed)

    def report(self, engine: str, stats: EngineStats) -> None:
        """See ``Dispatcher``."""
        super().report(engine, stats)
        self.record.life_of(engine).readings.append((self.now(), stats))

    def deal(self, engine: str, source: RequestSource) -> Deal:
        """See ``Dispatcher``."""
        deal = super().deal(engine, source)
        has_room = self.num_in_flight(engine) < self._members[engine].feedback.capacity
        is_dry = has_room and not self._lookahead.num and not self._suspects
        self.record.note_deal(self.now(), [request.index for request, _ in deal.requests], is_dry=is_dry)
        return deal

    def settle(
        self,
        engine: str,
        indexes: Sequence[int],
        *,
        prompt_tokens: Sequence[int],
        output_tokens: Sequence[int],
        timed_out: Collection[int] = (),
    ) -> list[bool] | None:
        """See ``Dispatcher``."""
        ends = super().settle(
            engine, indexes, prompt_tokens=prompt_tokens, output_tokens=output_tokens, timed_out=timed_out
        )
        now = self.now()
        for place, index in enumerate(indexes):
            if ends is None or ends[place]:
                self.record.note_answer(now, index, prompt_tokens[place], output_tokens[place])
        return ends
