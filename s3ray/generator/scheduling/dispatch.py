"""Which engine gets which request. Pure: no clock, no Ray, no randomness; the same calls give the same assignments.

The pool calls it at each exchange with an engine: ``settle`` takes what the engine finished, ``report`` its statistics,
and ``assign`` returns what it gets next. Requests are known by their ``index``, which is unique within a stage.

Invariant: a request taken from the source waits, is held by one engine or two, or has ended; it ends once. A request
that was in flight when two engines died, and may be the cause, goes to quarantine: it runs alone on an engine.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from s3ray.generator.scheduling.estimates import Feedback, Fleet, Kind, Kinds
from s3ray.generator.scheduling.growth import Work
from s3ray.generator.scheduling.ledger import EngineLoad, Ledger, LedgerEntry
from s3ray.generator.scheduling.queue import MIN_AHEAD, Queue, RequestSource
from s3ray.types import EngineLimits, EngineStats, GenerationRequest

if TYPE_CHECKING:
    from s3ray.generator.engines.base import Timing

# Requests for a slow engine should take at most this part of the time left: some turn out longer than expected, and
# the engine's own queue adds to their time.
SAFETY = 0.6
# A request that is overdue counts as having at least this part of its expected tokens left to write.
LEAST_LEFT = 0.1
# After so many deaths a request runs alone: a single death is rarely its fault, and one more would cost others too.
MAX_DEATHS = 2
# After so many deaths while it ran alone, a request is poison: one of them may have had another cause.
MAX_DEATHS_ALONE = 2
# A request fails at its second time-out: the engine may have been stuck the first time.
MAX_TIMEOUTS = 2
# At most one engine in so many serves as a quarantine.
QUARANTINE_SHARE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an engine gets with its next exchange.

    ``requests`` come with the number of the attempt, from 1. ``cancel`` are the indexes of requests to give up, because
    another engine answered them first or can end them sooner; for these alone, too, an exchange is needed.
    """

    requests: list[tuple[GenerationRequest, int]]
    cancel: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How many requests an engine held when it left, and which of them now fail as poison."""

    num_in_flight: int
    poisoned: list[LedgerEntry]


class Recorder(Protocol):
    """Notified of everything that the dispatcher does; ``bench.record`` measures engines with it."""

    def joined(self, engine: str) -> None:
        """An engine is ready to work; its counters are at zero."""

    def left(self, engine: str) -> None:
        """An engine died or left."""

    def reported(self, engine: str, stats: EngineStats) -> None:
        """An engine reported its statistics."""

    def timed(self, timings: "Sequence[Timing]") -> None:
        """When texts were written (called by the pool)."""

    def assigned(self, indexes: Collection[int], *, is_dry: bool) -> None:
        """Requests go to an engine; ``is_dry``: it could decode more at once, but no request waits."""

    def ended(self, index: int, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """A request ended."""


class Dispatcher:
    """Assigns the requests of one stage after the other to the engines that have joined."""

    def __init__(self, num_engines: int = 1, min_ahead: int = MIN_AHEAD, recorder: Recorder | None = None) -> None:
        """``num_engines`` should join in all: requests are drawn ahead for those that have not yet, too.

        ``min_ahead`` is the least number of requests to draw from the source ahead of need.
        """
        self._num_engines = num_engines
        self._min_ahead = min_ahead
        self._recorder = recorder
        self._queue = Queue(min_ahead)
        self._kinds = Kinds(Kind)
        self._ledger = Ledger()
        self._hedges = _HedgeCandidates()
        self._fleet = Fleet()
        self._members: dict[str, Feedback] = {}
        # Requests that wait in quarantine, and the engines that answer them, each one alone (None: it has none now).
        self._quarantined: deque[LedgerEntry] = deque()
        self._quarantines: dict[str, LedgerEntry | None] = {}

    # -- engines -------------------------------------------------------------------------------------------------------

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
        """An engine died or left: what it held waits again. Deaths count against its requests only if ``is_blamed``."""
        feedback = self._members.pop(engine, None)
        if feedback is None:
            return Loss(num_in_flight=0, poisoned=[])
        self._fleet.add(feedback, -1)
        if self._recorder is not None:
            self._recorder.left(engine)
        return self._take_away(engine, is_blamed=is_blamed)

    def take_back(self, engine: str) -> None:
        """Requests or answers were lost between pool and a healthy engine: what it held waits again."""
        self._take_away(engine, is_blamed=False)
        self._ledger.open(engine)

    def _take_away(self, engine: str, *, is_blamed: bool) -> Loss:
        self._hedges.expire()
        lost = self._ledger.close(engine)
        poisoned: list[LedgerEntry] = []
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
        """Take the statistics that an engine sends with every exchange."""
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
        """Whether nothing is in flight and nothing waits."""
        return not (self._ledger.num_in_flight or self._queue.num or self._quarantined)

    def look_ahead(self, source: RequestSource, num_seqs: int) -> None:
        """Draw from the source as for engines that decode ``num_seqs`` sequences in all, before one has joined."""
        self._queue.draw(source, num_seqs, 0, self._kinds)

    @property
    def work(self) -> Work:
        """What is left of the stage."""
        is_known, pace, num = self._queue.is_ending, self._fleet.pace, len(self._members)
        # On average, half of what is in flight is written already.
        num_tokens = self._queue.num_output_tokens + self._ledger.num_output_tokens / 2
        return Work(
            num_requests=self._num_left if is_known else math.inf,
            num_waiting=self._queue.num + len(self._quarantined),
            engine_s=num_tokens * num / (pace * self._fleet.capacity) if is_known and pace and num else math.inf,
        )

    # -- answers -------------------------------------------------------------------------------------------------------

    def settle(
        self,
        engine: str,
        indexes: Sequence[int],
        *,
        prompt_tokens: Sequence[int],
        output_tokens: Sequence[int],
        timed_out: Collection[int] = (),
    ) -> list[bool] | None:
        """Take answers. Returns for each row whether it ends its request, or None if all do.

        A row does not end its request if the engine does not hold it (another answered first), or if its index is in
        ``timed_out`` for the first time: then it is asked again, of another engine if there is one. Rows without
        output tokens are not used to estimate lengths.
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
        """A stage that shares the engines with others needs no more: forget its requests, wherever they are."""
        self._queue.withdraw(indexes)
        self._ledger.withdraw(indexes)
        self._hedges.expire()
        self._quarantined = deque(entry for entry in self._quarantined if entry.request.index not in indexes)
        for engine, entry in self._quarantines.items():
            if entry is not None and entry.request.index in indexes:
                self._quarantines[engine] = None

    def drop(self) -> list[str]:
        """The stage needs no more: forget all requests. Returns the engines that held some.

        Engines stay joined, and what was learned about them and about lengths is kept.
        """
        self._queue = Queue(self._min_ahead)
        self._hedges = _HedgeCandidates()
        self._quarantined.clear()
        self._quarantines.clear()
        return self._ledger.drop()

    def _note_timeout(self, engine: str, index: int) -> bool:
        """Whether this time-out ends the request; if not, it waits to be asked again."""
        load = self._ledger.load_of(engine) if engine in self._members else None
        entry = load.entries.get(index) if load else None
        if entry is None:
            return True  # the engine does not hold it, so there is nothing to ask again
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

    def _wait_again(self, entry: LedgerEntry) -> None:
        if entry.num_deaths >= MAX_DEATHS:
            self._quarantined.append(entry)
        else:
            self._queue.give_back(entry)

    # -- assignment ----------------------------------------------------------------------------------------------------

    def assign(self, engine: str, source: RequestSource) -> Assignment:
        """What an engine gets next, which may be nothing. Draws from the source."""
        feedback = self._members[engine]
        load = self._ledger.load_of(engine)
        is_quarantine = bool(self._quarantined or self._quarantines) and self._is_quarantine(engine, load)
        if is_quarantine:
            # It must run alone: the engine first finishes what it holds and gives up the cancelled copies.
            entries = [] if load.entries or load.cancelled or not self._quarantined else [self._quarantined.popleft()]
            if entries:
                self._quarantines[engine] = entries[0]
        else:
            entries = self._choose(feedback, load, source)
        cancel, load.cancelled = load.cancelled, []
        self._ledger.assign(load, entries, feedback.position)
        has_more = self._queue.num > 0
        feedback.note_assigned(len(load.entries), is_full=has_more and not is_quarantine and not self._queue.is_ending)
        if self._recorder is not None:
            has_room = len(load.entries) < feedback.capacity
            is_dry = has_room and not has_more and not self._quarantined
            self._recorder.assigned([entry.request.index for entry in entries], is_dry=is_dry)
        return Assignment(requests=[(entry.request, entry.num_attempts) for entry in entries], cancel=cancel)

    def _is_quarantine(self, engine: str, load: EngineLoad) -> bool:
        """Whether an engine answers only requests in quarantine now, one at a time.

        At most one engine in eight does, so that the work goes on; an idle one is preferred. It returns to normal when
        no request is left in quarantine.
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
        elif not load.entries and (idle := next((name for name in quarantines if quarantines[name] is None), None)):
            del quarantines[idle]
            quarantines[engine] = None
        return engine in quarantines

    def _choose(self, feedback: Feedback, load: EngineLoad, source: RequestSource) -> list[LedgerEntry]:
        queue = self._queue
        capacity = max(self._fleet.capacity, self._num_engines * feedback.capacity)
        queue.draw(source, capacity, math.ceil(feedback.capacity * feedback.allowance), self._kinds)
        longest = self._longest(load, feedback)
        if longest < math.inf and queue.is_ending and queue.num:
            self._recall(load, feedback, longest / SAFETY)
        num_slots = feedback.capacity - len(load.entries)
        num_left = self._num_left * self._fleet.share(feedback) if queue.is_ending else math.inf
        room = feedback.room(len(load.entries), load.num_tokens, num_left)
        avoided_by = load.engine if len(self._members) > 1 else ""
        entries = queue.take(room, longest=longest, avoided_by=avoided_by, num_slots=num_slots)
        if entries:
            self._hedges.expire()
        elif queue.is_ending and not (queue.num or load.entries or self._fleet.is_slow(feedback)):
            entries = self._hedge(load, feedback)
        return entries

    def _recall(self, load: EngineLoad, feedback: Feedback, longest: float) -> None:
        """A slow engine gives up those of its first requests that others end sooner, although they begin them anew.

        Nothing was known of its speed when it got them, and in a short stage they are the longest. ``longest`` is what
        it can write until all known requests are done.
        """
        pace = self._fleet.pace
        assert pace is not None  # the engine is known to be slow
        assert feedback.pace is not None
        for entry in [entry for entry in load.entries.values() if not entry.position]:
            num_left = entry.num_output_tokens - feedback.position
            is_sooner = entry.num_output_tokens / pace < num_left / feedback.pace
            if num_left > longest and is_sooner and entry.second is None and entry.avoid is None:
                self._ledger.recall(load, entry)
                self._wait_again(entry)

    def _hedge(self, load: EngineLoad, feedback: Feedback) -> list[LedgerEntry]:
        """Hedged copies for an engine that has nothing to do."""
        if self._hedges.needs_candidates:
            self._hedges.list_candidates(
                (self._seconds_left(entry, held), entry, held)
                for held, entry in self._ledger.in_flight()
                if entry.second is None and entry.num_deaths < MAX_DEATHS
            )
        # A few at a time: most requests end before their copy would, which is then wasted work.
        return self._hedges.take(max(1, feedback.capacity // 4), load.engine)

    @property
    def _num_left(self) -> int:
        return self._queue.num + len(self._quarantined) + self._ledger.num_in_flight

    # -- speed ---------------------------------------------------------------------------------------------------------

    def _longest(self, load: EngineLoad, feedback: Feedback) -> float:
        """The longest request, in output tokens, that a slow engine should take; infinite for other engines.

        That is what the engine can write until all known requests are done. An empty engine has no bound either before
        the end is in sight: any request is better than none.
        """
        pace = self._fleet.pace
        has_choice = self._queue.is_ending or load.entries
        if not has_choice or pace is None or feedback.pace is None or not self._fleet.is_slow(feedback):
            return math.inf
        # On average, half of what is in flight is written already.
        num_left = self._queue.num_output_tokens + self._ledger.num_output_tokens / 2
        return max(1.0, SAFETY * feedback.pace * num_left / (pace * self._fleet.capacity))

    def _seconds_left(self, entry: LedgerEntry, load: EngineLoad) -> float:
        """Seconds that an engine should still need for a request; above zero even if overdue, since it may be stuck."""
        feedback = self._members[load.engine]
        num_left = entry.num_output_tokens - (feedback.position - entry.position)
        return max(num_left, entry.num_output_tokens * LEAST_LEFT) / (feedback.pace or self._fleet.pace or 1.0)


class _HedgeCandidates:
    """The requests in flight that have no hedged copy; the one that should end last is the last of the list.

    At the very end of a stage nothing is left to assign, and all would wait for what is in flight at a slow, stuck or
    dying engine. Idle engines get a copy of it, and the first answer wins. A request has at most one copy.
    """

    def __init__(self) -> None:
        self._candidates: list[tuple[float, int, LedgerEntry, EngineLoad]] = []
        self._is_stale = True

    def expire(self) -> None:
        """The list is out of date: requests were assigned or came back since it was made."""
        self._is_stale = True

    @property
    def needs_candidates(self) -> bool:
        """Whether all listed candidates are used up and there may be new ones."""
        return not self._candidates and self._is_stale

    def list_candidates(self, candidates: Iterable[tuple[float, LedgerEntry, EngineLoad]]) -> None:
        """Replace the candidates: requests in flight, each with the seconds that its engine should still need."""
        self._candidates = sorted((seconds, entry.request.index, entry, held) for seconds, entry, held in candidates)
        self._is_stale = False

    def take(self, num: int, engine: str) -> list[LedgerEntry]:
        """Up to ``num`` requests for an idle engine, without those that timed out there."""
        taken: list[LedgerEntry] = []
        avoided: list[tuple[float, int, LedgerEntry, EngineLoad]] = []
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
