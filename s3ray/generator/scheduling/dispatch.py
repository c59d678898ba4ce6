"""Who gets which request. Pure: no clock, no Ray, no chance; the same calls lead to the same deals.

Called by the pool, once for each exchange with an engine: ``settle`` what it finished, ``report`` what it says of
itself, ``deal`` what it gets next. Requests are known by their ``index``, unique within a stage.

Invariant: a request taken from the source waits, or is held by one engine or two, or has ended; it ends once. A
request that was in flight at two deaths for which it may be to blame is only ever in flight alone.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from s3ray.generator.scheduling.estimates import Expectations, Feedback, Fleet
from s3ray.generator.scheduling.ledger import Entry, Holding, Ledger
from s3ray.generator.scheduling.policy import Facts, room_of
from s3ray.generator.scheduling.queue import MIN_AHEAD, Queue, RequestSource
from s3ray.types import EngineLimits, EngineStats, GenerationRequest

if TYPE_CHECKING:
    from s3ray.generator.engines.base import Timing

# A slow engine's requests should take this part of the time left: some turn out longer, and all wait in its line.
SAFETY = 0.6
# Of a request that should be finished by now, so much of what was expected counts as still to come.
LEAST_LEFT = 0.1
# Deaths from which on a request is dealt alone: a single one is rarely its fault, and its companions die with it.
MAX_DEATHS = 2
# Deaths alone that make poison of a request in quarantine: at a single one the engine may have had reasons of its own.
MAX_DEATHS_ALONE = 2
# The engine may have been stuck the first time.
MAX_TIMEOUTS = 2
# One engine in so many is a quarantine, at the most.
QUARANTINE_SHARE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """What an engine gets with its next exchange, which is to be held even if nothing but ``cancel`` is in it.

    ``requests`` come with the number of the attempt, from 1. ``cancel`` are the indexes of those that another engine
    answered first: give them up.
    """

    requests: list[tuple[GenerationRequest, int]]
    cancel: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What came of an engine's departure: how much it held, and the requests that end as poison."""

    num_in_flight: int
    poisoned: list[Entry]


class Recorder(Protocol):
    """Hears of everything that the dispatcher does (``bench.record``)."""

    def joined(self, engine: str) -> None:
        """An engine is ready to work; its counters are at zero."""
        ...

    def left(self, engine: str) -> None:
        """An engine died or left."""
        ...

    def reported(self, engine: str, stats: EngineStats) -> None:
        """An engine told of itself."""
        ...

    def timed(self, timings: "Sequence[Timing]") -> None:
        """When texts were written (heard of by the pool)."""
        ...

    def dealt(self, indexes: Collection[int], *, is_dry: bool) -> None:
        """Requests go to an engine; ``is_dry``: it could decode more at once, and there are none."""
        ...

    def ended(self, index: int, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """A request ended."""
        ...


class Dispatcher:
    """Deals the requests of one stage after the other to the engines that joined."""

    def __init__(self, min_ahead: int = MIN_AHEAD, recorder: Recorder | None = None) -> None:
        """``min_ahead``: requests that are drawn ahead of need, however few are decoded at once."""
        self._min_ahead = min_ahead
        self._recorder = recorder
        self._queue = Queue(min_ahead)
        self._lengths = Expectations()
        self._ledger = Ledger()
        self._hedges = _HedgeCandidates()
        self._fleet = Fleet()
        self._members: dict[str, Feedback] = {}
        # Requests that wait in quarantine, and the engines that answer them, each one alone (None: it has none now).
        self._quarantined: deque[Entry] = deque()
        self._quarantines: dict[str, Entry | None] = {}

    # -- who is there ----------------------------------------------------------------------------------------------

    def join(self, engine: str, limits: EngineLimits) -> None:
        """An engine is ready to work.

        Raises:
            ValueError: it joined before and has not left.
        """
        if engine in self._members:
            raise ValueError(f"engine {engine} joins twice")
        self._ledger.open(engine)
        feedback = self._members[engine] = Feedback(limits)
        self._fleet.add(feedback)
        if self._recorder is not None:
            self._recorder.joined(engine)

    def leave(self, engine: str, *, is_blamed: bool) -> Loss:
        """An engine died or left; what it held waits again. Only if it is to blame, its requests may be too."""
        feedback = self._members.pop(engine, None)
        if feedback is None:
            return Loss(num_in_flight=0, poisoned=[])
        self._fleet.add(feedback, -1)
        if self._recorder is not None:
            self._recorder.left(engine)
        return self._take_away(engine, is_blamed=is_blamed)

    def take_back(self, engine: str) -> None:
        """Requests or answers were lost on the way, and the engine is well: what it held waits again."""
        self._take_away(engine, is_blamed=False)
        self._ledger.open(engine)

    def _take_away(self, engine: str, *, is_blamed: bool) -> Loss:
        self._hedges.expire()
        lost = self._ledger.close(engine)
        poisoned: list[Entry] = []
        for entry in lost:
            entry.num_deaths += is_blamed
            entry.num_deaths_alone += is_blamed and entry is self._quarantines.get(engine)
            if entry.num_deaths_alone >= MAX_DEATHS_ALONE:
                poisoned.append(entry)
            elif entry.holder is None:
                self._wait_again(entry)
        self._quarantines.pop(engine, None)
        return Loss(num_in_flight=len(lost), poisoned=poisoned)

    def report(self, engine: str, stats: EngineStats) -> None:
        """What an engine tells of itself, with every exchange."""
        feedback = self._members[engine]
        self._fleet.add(feedback, -1)
        feedback.note_report(stats)
        self._fleet.add(feedback)
        if self._recorder is not None:
            self._recorder.reported(engine, stats)

    def num_in_flight(self, engine: str) -> int:
        """Requests that an engine holds."""
        return self._ledger.num_held_by(engine)

    @property
    def is_empty(self) -> bool:
        """Nothing is in flight and nothing waits to be dealt."""
        return not (self._ledger.num_in_flight or self._queue.num or self._quarantined)

    # -- what ended ------------------------------------------------------------------------------------------------

    def settle(
        self,
        engine: str,
        indexes: Sequence[int],
        *,
        prompt_tokens: Sequence[int],
        output_tokens: Sequence[int],
        timed_out: Collection[int] = (),
    ) -> list[bool] | None:
        """Take answers; says which rows end their request (None: all of them).

        A row does not end its request if the engine does not hold it (another answered first), or if its index is in
        ``timed_out`` for the first time: it is asked once more, elsewhere where there is an elsewhere. Rows without
        output tokens teach nothing about lengths.
        """
        ends: list[bool] | None = None
        for place, index in enumerate(indexes):
            if timed_out and index in timed_out and not self._note_timeout(engine, index):
                entry = None
            else:
                entry = self._ledger.end(engine, index)
            if entry is None:
                ends = ends or [True] * len(indexes)
                ends[place] = False
                continue
            if output_tokens[place]:
                entry.kind.learn(entry.request.max_tokens, prompt_tokens[place], output_tokens[place])
            if entry is self._quarantines.get(engine):
                self._quarantines[engine] = None
            if self._recorder is not None:
                self._recorder.ended(index, prompt_tokens[place], output_tokens[place])
        return ends

    def withdraw(self, indexes: range) -> None:
        """Of many stages that share the engines one needs no more: forget its requests, wherever they are."""
        self._queue.withdraw(indexes)
        self._ledger.withdraw(indexes)
        self._hedges.expire()
        self._quarantined = deque(entry for entry in self._quarantined if entry.request.index not in indexes)
        for engine, entry in self._quarantines.items():
            if entry is not None and entry.request.index in indexes:
                self._quarantines[engine] = None

    def drop(self) -> list[str]:
        """The stage needs no more: forget all requests. Returns the engines that held something.

        Engines stay joined, and what was learned of them and of lengths stays.
        """
        self._queue = Queue(self._min_ahead)
        self._hedges = _HedgeCandidates()
        self._quarantined.clear()
        self._quarantines.clear()
        return self._ledger.drop()

    def _note_timeout(self, engine: str, index: int) -> bool:
        """Whether a request that timed out ends by that; if not, it is asked once more."""
        holding = self._ledger.holding(engine) if engine in self._members else None
        entry = holding.entries.get(index) if holding else None
        if entry is None:
            return True  # of no consequence: the engine does not hold it
        entry.num_timeouts += 1
        if entry.num_timeouts >= MAX_TIMEOUTS:
            return True
        entry.avoid = engine
        self._ledger.release(engine, index)
        self._hedges.expire()
        if entry is self._quarantines.get(engine):
            del self._quarantines[engine]
        if entry.holder is None:
            self._wait_again(entry)
        return False

    def _wait_again(self, entry: Entry) -> None:
        if entry.num_deaths >= MAX_DEATHS:
            self._quarantined.append(entry)
        else:
            self._queue.give_back(entry)

    # -- who gets what ---------------------------------------------------------------------------------------------

    def deal(self, engine: str, source: RequestSource) -> Deal:
        """Hand out what an engine gets next; may be empty. Draws from the source."""
        feedback = self._members[engine]
        holding = self._ledger.holding(engine)
        cancel, holding.cancelled = holding.cancelled, []
        is_quarantine = bool(self._quarantined or self._quarantines) and self._is_quarantine(engine, holding)
        if is_quarantine:
            # Alone means alone: what it still holds ends first, and what it is to give up is given up first.
            entries = [] if holding.entries or cancel or not self._quarantined else [self._quarantined.popleft()]
            if entries:
                self._quarantines[engine] = entries[0]
        else:
            entries = self._choose(feedback, holding, source)
        self._ledger.hand_out(holding, entries, feedback.position)
        has_more = self._queue.num > 0
        feedback.note_deal(len(holding.entries), is_full=has_more and not is_quarantine and not self._queue.is_ending)
        if self._recorder is not None:
            has_room = len(holding.entries) < feedback.capacity
            is_dry = has_room and not has_more and not self._quarantined
            self._recorder.dealt([entry.request.index for entry in entries], is_dry=is_dry)
        return Deal(requests=[(entry.request, entry.num_attempts) for entry in entries], cancel=cancel)

    def _is_quarantine(self, engine: str, holding: Holding) -> bool:
        """Whether an engine only answers requests in quarantine, each alone; better an empty one than one at work.

        There is one in eight at the most, so that the others go on. When no such request is left, it is as the others.
        """
        quarantines, waiting = self._quarantines, self._quarantined
        if engine in quarantines:
            if not waiting and quarantines[engine] is None:
                del quarantines[engine]
            return engine in quarantines
        if not waiting or (waiting[0].avoid == engine and len(self._members) > 1):
            return False
        if len(quarantines) < min(len(waiting), max(1, len(self._members) // QUARANTINE_SHARE)):
            quarantines[engine] = None
        elif not holding.entries and (idle := next((name for name in quarantines if quarantines[name] is None), None)):
            del quarantines[idle]
            quarantines[engine] = None
        return engine in quarantines

    def _choose(self, feedback: Feedback, holding: Holding, source: RequestSource) -> list[Entry]:
        queue = self._queue
        queue.draw(source, self._fleet.capacity, math.ceil(feedback.capacity * feedback.allowance), self._lengths)
        facts = Facts(
            capacity=feedback.capacity,
            num_kv_tokens=feedback.num_kv_tokens,
            allowance=feedback.allowance,
            num_in_flight=len(holding.entries),
            num_tokens=holding.num_tokens,
            share=self._fleet.share(feedback),
            num_left=self._num_left if queue.is_ending else None,
        )
        avoided_by = holding.engine if len(self._members) > 1 else ""
        entries = queue.take(room_of(facts), longest=self._longest(holding, feedback), avoided_by=avoided_by)
        if entries:
            self._hedges.expire()
        elif queue.is_ending and not (queue.num or holding.entries or self._fleet.is_slow(feedback)):
            entries = self._hedge(holding, feedback)
        return entries

    def _hedge(self, holding: Holding, feedback: Feedback) -> list[Entry]:
        """Hedged copies for an engine that has nothing to do."""
        if self._hedges.needs_candidates:
            self._hedges.list_candidates(
                (self._seconds_left(entry, held), entry, held)
                for held, entry in self._ledger.in_flight()
                if entry.second is None and entry.num_deaths < MAX_DEATHS
            )
        # A few at a time: most of what is under way ends before its copy would, and that work is lost.
        return self._hedges.take(max(1, feedback.capacity // 4), holding.engine)

    @property
    def _num_left(self) -> int:
        return self._queue.num + len(self._quarantined) + self._ledger.num_in_flight

    # -- how fast it goes ------------------------------------------------------------------------------------------

    def _longest(self, holding: Holding, feedback: Feedback) -> float:
        """Output tokens that a slow engine's sequence can write until what is in sight is done; no bound for others.

        Nor for one that holds nothing, before the end is in sight: it goes on whatever there is.
        """
        pace = self._fleet.pace
        has_choice = self._queue.is_ending or holding.entries
        if not has_choice or pace is None or feedback.pace is None or not self._fleet.is_slow(feedback):
            return math.inf
        # What is under way is half done in the mean.
        num_left = self._queue.num_output_tokens + self._ledger.num_output_tokens / 2
        return max(1.0, SAFETY * feedback.pace * num_left / (pace * self._fleet.capacity))

    def _seconds_left(self, entry: Entry, holding: Holding) -> float:
        """Seconds that a holder should still need for a request; never nothing, since it may be stuck."""
        feedback = self._members[holding.engine]
        num_left = entry.num_output_tokens - (feedback.position - entry.mark)
        return max(num_left, entry.num_output_tokens * LEAST_LEFT) / (feedback.pace or self._fleet.pace or 1.0)


class _HedgeCandidates:
    """The requests in flight that have no hedged copy, the one that its holder will finish last at the end.

    At the very end there is nothing left to deal, and what is under way at a slow, stuck or dying engine would be
    waited for. Idle engines get a copy of it; the first answer wins. A request has one copy at most.
    """

    def __init__(self) -> None:
        self._candidates: list[tuple[float, int, Entry, Holding]] = []
        self._is_stale = True

    def expire(self) -> None:
        """Something was dealt or came back since the candidates were listed."""
        self._is_stale = True

    @property
    def needs_candidates(self) -> bool:
        """Whether all that were listed are used up, and there may be others by now."""
        return not self._candidates and self._is_stale

    def list_candidates(self, candidates: Iterable[tuple[float, Entry, Holding]]) -> None:
        """Every request in flight, with the seconds that its holder should still need."""
        self._candidates = sorted((seconds, entry.request.index, entry, held) for seconds, entry, held in candidates)
        self._is_stale = False

    def take(self, num: int, engine: str) -> list[Entry]:
        """Up to ``num`` requests for an engine that holds nothing; not those that timed out there."""
        taken: list[Entry] = []
        avoided: list[tuple[float, int, Entry, Holding]] = []
        while self._candidates and len(taken) < num:
            candidate = self._candidates.pop()
            _, _, entry, holder = candidate
            if entry.holder is not holder:
                continue  # it has ended since, or its holder is gone
            if entry.avoid == engine:
                avoided.append(candidate)
            else:
                taken.append(entry)
        self._candidates += reversed(avoided)
        return taken
