"""Who gets which request. Pure: no clock, no Ray, no chance; the same calls lead to the same deals.

Called by the pool, once for each exchange with an engine: ``settle`` what it finished, ``report`` what it says of
itself, ``deal`` what it gets next. Requests are known by their ``index``, unique within a stage.

Invariant: a request taken from the source waits, or is held by one engine or two, or has ended; it ends once. A
request that was in flight at two deaths for which it may be to blame is only ever in flight alone.
"""

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from s3ray.generator.copies import Copies
from s3ray.generator.expectations import Expectations
from s3ray.generator.feedback import Feedback, Fleet
from s3ray.generator.ledger import Entry, Holding, Ledger
from s3ray.generator.lookahead import MIN_AHEAD, Lookahead, RequestSource
from s3ray.generator.policy import Facts, Policy
from s3ray.types import EngineLimits, EngineStats, GenerationRequest

# A slow engine's requests should take this part of the time left: some turn out longer, and all wait in its line.
SAFETY = 0.6
# Of a request that should be finished by now, so much of what was expected counts as still to come.
LEAST_LEFT = 0.1
MAX_DEATHS = 2
# Deaths alone that make poison of a suspect: at a single one the engine may have had reasons of its own.
MAX_DEATHS_ALONE = 2
MAX_TIMEOUTS = 2
# One engine in so many runs suspects alone, at the most.
WARD_SHARE = 8


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


@dataclass(slots=True)
class _Member:
    """An engine that joined."""

    number: int
    feedback: Feedback


class Dispatcher:
    """Deals the requests of one stage after the other to the engines that joined."""

    def __init__(self, policy: Policy, min_ahead: int = MIN_AHEAD) -> None:
        """``min_ahead``: requests that are drawn ahead of need, however few are decoded at once."""
        self._policy = policy
        self._min_ahead = min_ahead
        self._lookahead = self._new_lookahead()
        self._lengths = Expectations()
        self._ledger = Ledger()
        self._copies = Copies()
        self._fleet = Fleet()
        self._members: dict[str, _Member] = {}
        self._numbers: dict[str, int] = {}
        self._suspects: deque[Entry] = deque()
        self._wards: dict[str, Entry | None] = {}

    # -- who is there ----------------------------------------------------------------------------------------------

    def join(self, engine: str, limits: EngineLimits) -> None:
        """An engine is ready to work.

        Raises:
            ValueError: it joined before and has not left.
        """
        if engine in self._members:
            raise ValueError(f"engine {engine} joins twice")
        number = self._numbers.setdefault(engine, len(self._numbers))
        self._ledger.open(engine)
        feedback = Feedback(limits)
        self._fleet.add(feedback)
        self._members[engine] = _Member(number, feedback)

    def leave(self, engine: str, *, is_blamed: bool) -> Loss:
        """An engine died or left; what it held waits again. Its requests are suspected only if it is to blame."""
        member = self._members.pop(engine, None)
        if member is None:
            return Loss(num_in_flight=0, poisoned=[])
        self._fleet.add(member.feedback, -1)
        return self._take_away(engine, is_blamed=is_blamed)

    def take_back(self, engine: str) -> None:
        """Requests or answers were lost on the way, and the engine is well: what it held waits again."""
        self._take_away(engine, is_blamed=False)
        self._ledger.open(engine)

    def _take_away(self, engine: str, *, is_blamed: bool) -> Loss:
        self._copies.expire()
        lost = self._ledger.close(engine)
        poisoned: list[Entry] = []
        for entry in lost:
            entry.num_deaths += is_blamed
            entry.num_deaths_alone += is_blamed and entry is self._wards.get(engine)
            if entry.num_deaths_alone >= MAX_DEATHS_ALONE:
                poisoned.append(entry)
            elif entry.holder is None:
                self._wait_again(entry)
        self._wards.pop(engine, None)
        return Loss(num_in_flight=len(lost), poisoned=poisoned)

    def report(self, engine: str, stats: EngineStats) -> None:
        """What an engine tells of itself, with every exchange."""
        feedback = self._members[engine].feedback
        self._fleet.add(feedback, -1)
        feedback.note_report(stats)
        self._fleet.add(feedback)

    def num_in_flight(self, engine: str) -> int:
        """Requests that an engine holds."""
        return self._ledger.num_held_by(engine)

    @property
    def is_empty(self) -> bool:
        """Nothing is in flight and nothing waits to be dealt."""
        return not (self._ledger.num_in_flight or self._lookahead.num or self._suspects)

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
        verdicts: list[bool] | None = None
        for place, index in enumerate(indexes):
            if timed_out and index in timed_out and not self._note_timeout(engine, index):
                entry = None
            else:
                entry = self._ledger.end(engine, index)
            if entry is None:
                verdicts = verdicts or [True] * len(indexes)
                verdicts[place] = False
                continue
            if output_tokens[place]:
                entry.kind.learn(entry.request.max_tokens, prompt_tokens[place], output_tokens[place])
            if entry is self._wards.get(engine):
                self._wards[engine] = None
        return verdicts

    def withdraw(self, indexes: range) -> None:
        """Of many stages that share the engines one needs no more: forget its requests, wherever they are."""
        self._lookahead.withdraw(indexes)
        self._ledger.withdraw(indexes)
        self._copies.expire()
        self._suspects = deque(entry for entry in self._suspects if entry.request.index not in indexes)
        for engine, entry in self._wards.items():
            if entry is not None and entry.request.index in indexes:
                self._wards[engine] = None

    def drop(self) -> list[str]:
        """The stage needs no more: forget all requests. Returns the engines that held something.

        Engines stay joined, and what was learned of them and of lengths stays.
        """
        self._lookahead = self._new_lookahead()
        self._copies = Copies()
        self._suspects.clear()
        self._wards.clear()
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
        self._copies.expire()
        if entry is self._wards.get(engine):
            del self._wards[engine]
        if entry.holder is None:
            self._wait_again(entry)
        return False

    def _wait_again(self, entry: Entry) -> None:
        if entry.num_deaths >= MAX_DEATHS:
            self._suspects.append(entry)
        else:
            self._lookahead.lane(entry.request.index).give_back(entry)

    # -- who gets what ---------------------------------------------------------------------------------------------

    def deal(self, engine: str, source: RequestSource) -> Deal:
        """Hand out what an engine gets next; may be empty. Draws from the source."""
        member = self._members[engine]
        holding = self._ledger.holding(engine)
        cancel, holding.cancelled = holding.cancelled, []
        is_ward = bool(self._suspects or self._wards) and self._is_ward(engine, holding)
        if is_ward:
            # Alone means alone: what it still holds ends first, and what it is to give up is given up first.
            entries = [] if holding.entries or cancel or not self._suspects else [self._suspects.popleft()]
            if entries:
                self._wards[engine] = entries[0]
        else:
            entries = self._choose(member, holding, source)
        self._ledger.hand_out(holding, entries, member.feedback.position)
        has_more = self._lookahead.lane(member.number).num > 0
        member.feedback.note_deal(
            len(holding.entries), is_full=has_more and not is_ward and not self._lookahead.is_ending
        )
        return Deal(requests=[(entry.request, entry.num_attempts) for entry in entries], cancel=cancel)

    def _is_ward(self, engine: str, holding: Holding) -> bool:
        """Whether an engine is one of those that answer suspects alone; an empty one is better than one that is not.

        There is one in eight at the most, so that the others go on. When no suspect is left, it is an engine again.
        """
        wards, suspects = self._wards, self._suspects
        if engine in wards:
            if not suspects and wards[engine] is None:
                del wards[engine]
            return engine in wards
        if not suspects or (suspects[0].avoid == engine and len(self._members) > 1):
            return False
        if len(wards) < min(len(suspects), max(1, len(self._members) // WARD_SHARE)):
            wards[engine] = None
        elif not holding.entries and (waiting := next((name for name in wards if wards[name] is None), None)):
            del wards[waiting]
            wards[engine] = None
        return engine in wards

    def _choose(self, member: _Member, holding: Holding, source: RequestSource) -> list[Entry]:
        feedback, lookahead = member.feedback, self._lookahead
        lane = lookahead.lane(member.number)
        lookahead.draw(
            source, lane, self._fleet.capacity, math.ceil(feedback.capacity * feedback.allowance), self._lengths
        )
        facts = Facts(
            capacity=feedback.capacity,
            num_kv_tokens=feedback.num_kv_tokens,
            allowance=feedback.allowance,
            num_in_flight=len(holding.entries),
            num_tokens=holding.num_tokens,
            share=self._fleet.share(feedback),
            num_left=self._num_left if lookahead.is_ending else None,
        )
        room = self._policy.room(facts)
        avoided_by = holding.engine if len(self._members) > 1 else ""
        entries = lane.take(room, longest=self._longest(holding, feedback), avoided_by=avoided_by)
        if entries:
            self._copies.expire()
        elif lookahead.is_ending and not (lookahead.num or holding.entries or self._fleet.is_slow(feedback)):
            entries = self._copy(holding, feedback)
        return entries

    def _copy(self, holding: Holding, feedback: Feedback) -> list[Entry]:
        """Copies for an engine that has nothing to do."""
        if self._copies.needs_candidates:
            self._copies.list_candidates(
                (self._seconds_left(entry, held), entry, held)
                for held, entry in self._ledger.in_flight()
                if entry.second is None and entry.num_deaths < MAX_DEATHS
            )
        return self._copies.take(max(1, feedback.capacity // 4), holding.engine)

    @property
    def _num_left(self) -> int:
        return self._lookahead.num + len(self._suspects) + self._ledger.num_in_flight

    def _new_lookahead(self) -> Lookahead:
        return Lookahead(self._policy.num_lanes, has_endgame=self._policy.has_endgame, min_ahead=self._min_ahead)

    # -- how fast it goes ------------------------------------------------------------------------------------------

    def _longest(self, holding: Holding, feedback: Feedback) -> float:
        """Output tokens that a slow engine's sequence can write until what is in sight is done; no bound for others.

        Nor for one that holds nothing, before the end is in sight: it goes on whatever there is.
        """
        pace = self._fleet.pace
        has_choice = self._policy.has_endgame and (self._lookahead.is_ending or holding.entries)
        if not has_choice or pace is None or feedback.pace is None or not self._fleet.is_slow(feedback):
            return math.inf
        # What is under way is half done in the mean.
        num_left = self._lookahead.num_output_tokens + self._ledger.num_output_tokens / 2
        return max(1.0, SAFETY * feedback.pace * num_left / (pace * self._fleet.capacity))

    def _seconds_left(self, entry: Entry, holding: Holding) -> float:
        """Seconds that a holder should still need for a request; never nothing, since it may be stuck."""
        feedback = self._members[holding.engine].feedback
        num_left = entry.num_output_tokens - (feedback.position - entry.mark)
        return max(num_left, entry.num_output_tokens * LEAST_LEFT) / (feedback.pace or self._fleet.pace or 1.0)
