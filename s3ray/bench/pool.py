"""The pool of a run, with a record kept of all that its dispatcher decides and its engines say."""

from collections.abc import Mapping
from typing import Any

from s3ray.bench.record import PhaseRecord, WatchedDispatcher
from s3ray.config import RunConfig
from s3ray.generator.actor import Exchange
from s3ray.generator.leaving import answers_in_time
from s3ray.generator.plan import Plan
from s3ray.generator.policy import PullPolicy
from s3ray.generator.pool import Emit, GeneratorPool
from s3ray.generator.recipe import Recipe
from s3ray.generator.seat import Seat, SeatState, no_engine_left
from s3ray.generator.wire import pack
from s3ray.types import GenerationRequest

_ANSWER_S = 60.0


class _Nothing:
    """A source that has no request while engines are waited for."""

    finished = False
    is_waiting = True

    def take(self, num: int) -> list[GenerationRequest]:
        """None."""
        return []


class MeasuredPool(GeneratorPool):
    """A pool whose engines are all there before anything is asked, and whose phases are recorded."""

    def __init__(self, config: RunConfig, recipes: Mapping[str, Recipe], plan: Plan, *, emit: Emit) -> None:
        super().__init__(config, recipes, plan, emit=emit)
        self._dispatcher = self._watched = WatchedDispatcher(PullPolicy(), self.min_ahead)
        for seat in self._seats:
            seat.is_timed = True

    def get_ready(self) -> None:
        """Start all engines and wait for every one of them.

        Raises:
            PoolError: one of them died too often, or finds no place.
        """
        self.start()
        while any(seat.state is not SeatState.READY for seat in self._seats):
            if any(seat.state is SeatState.GIVEN_UP for seat in self._seats):
                raise no_engine_left(self._seats, ", for all were to be measured")
            self._wait(_Nothing())
            self._tend()

    def begin_phase(self) -> PhaseRecord:
        """A new record, which begins with the counters of every engine as they stand while nothing is under way."""
        record = self._watched.begin_record()
        self._ask_for_counters()
        record.timings.clear()
        return record

    def end_phase(self) -> None:
        """Close the record with the counters of every engine."""
        self._ask_for_counters()

    def _ask_for_counters(self) -> None:
        """Exchange nothing with every engine: what it says comes with the answer."""
        self._epoch += 1  # the epoch of the last stage was aborted, and engines say nothing of it any more
        now = self._watched.now()
        calls: dict[Any, Seat] = {}
        for seat in self._seats:
            if seat.state is SeatState.READY and seat.call is None:
                seat.exchange(self._epoch, pack([]), [], now)
                calls[seat.call] = seat
        for call in answers_in_time(list(calls), _ANSWER_S):
            self._receive(calls[call])

    def _take_in(self, seat: Seat, answer: Exchange) -> None:
        self._watched.record.timings += answer.timings
        super()._take_in(seat, answer)
