"""The requests that wait for an engine, and how long each is expected to be. Pure.

They are drawn from the source ahead of need, so that requests that share a prompt prefix (``group``) go together to one
engine, which then reads the prefix once. They leave in the order of arrival, group by group, until the end is in sight;
after that the longest first, so that no long one is left over when the others are done. Only what cannot begin at once,
because an engine's slots are taken by then, are short ones: they would wait behind long ones.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from s3ray.generator.scheduling.estimates import Kinds, Room
from s3ray.generator.scheduling.ledger import LedgerEntry
from s3ray.types import GenerationRequest

# How many requests are drawn ahead of need, for each sequence that all engines decode at once: with log-normal lengths
# the longest takes four times as long as the mean, and must be seen that long before the end. At least enough to see
# the variants of a few hundred contexts side by side; at most what costs about a hundred megabytes.
NUM_AHEAD = 4
MIN_AHEAD = 1024
MAX_AHEAD = 131072
# How many requests that are too long for a slow engine are skipped in search of shorter ones.
MAX_PASSED = 64
# Lengths that differ by less than a quarter count as equal, so that a group stays together: expectations are no better.
CLASSES_PER_DOUBLING = 3


class RequestSource(Protocol):
    """Where requests come from (``stage.Stage``)."""

    @property
    def finished(self) -> bool:
        """Whether no request is wanted any more."""

    @property
    def is_waiting(self) -> bool:
        """Temporarily empty: more requests will come even though none is in flight."""

    def take(self, num: int) -> list[GenerationRequest]:
        """Up to ``num`` requests; fewer mean that there are no more for now."""


class Queue:
    """Requests that wait: ``num`` of them, with ``num_output_tokens`` expected tokens of answers in all.

    ``is_ending``: the source gave fewer requests than it was asked for, so the longest now leave first.
    """

    def __init__(self, min_ahead: int = MIN_AHEAD) -> None:
        """``min_ahead`` is the least number of requests to draw ahead of need."""
        self.num = 0
        self.num_output_tokens = 0
        self.is_ending = False
        self._min_ahead = min_ahead
        self._num_filled = 0
        self._returned: deque[LedgerEntry] = deque()
        # Groups by name, and their names in the order in which the first request of each arrived.
        self._groups: dict[str, list[LedgerEntry]] = {}
        self._order: deque[str] = deque()
        # By class of length once the end is in sight; in each the order of arrival, group by group.
        self._classes: defaultdict[int, deque[LedgerEntry]] = defaultdict(deque)

    def draw(self, source: RequestSource, capacity: int, num_held: int, kinds: Kinds) -> None:
        """Fill the queue from the source with what an engine may hold (``num_held``) and what is drawn ahead.

        Notices when the source runs dry. ``capacity`` is how many sequences all engines together decode at once.
        ``kinds`` has the expected lengths.
        """
        num_ahead = min(max(self._min_ahead, NUM_AHEAD * capacity), MAX_AHEAD)
        num = num_ahead + num_held - self.num
        if num <= 0:
            return
        entries = [
            LedgerEntry(request, kinds[request.served_task, request.template, request.label])
            for request in source.take(num)
        ]
        self._extend(entries)
        if len(entries) < num:
            self._num_filled = 0
            if not self.is_ending:
                self._see_the_end()
        elif self.is_ending:
            # The source has more again, for example after rejections; a few requests do not mean that the end is far.
            self._num_filled += len(entries)
            if self._num_filled > num_ahead // 4:
                self._see_no_end()

    def give_back(self, entry: LedgerEntry) -> None:
        """A lost request waits again; it is sent before all others, since the results of later ones wait for it."""
        self.num += 1
        self.num_output_tokens += entry.num_output_tokens
        self._returned.append(entry)

    def withdraw(self, indexes: range) -> None:
        """Remove requests that are no longer wanted."""
        self._returned = deque(entry for entry in self._returned if entry.request.index not in indexes)
        ranked = [entry for entry in self._ranked() if entry.request.index not in indexes]
        self._classes.clear()
        self._rank(ranked)
        waiting = [entry for name in self._order for entry in self._groups[name] if entry.request.index not in indexes]
        self._groups.clear()
        self._order.clear()
        self._append(waiting)
        left = [*self._returned, *ranked, *waiting]
        self.num = len(left)
        self.num_output_tokens = sum([entry.num_output_tokens for entry in left])

    def take(self, room: Room, *, longest: float, avoided_by: str, num_slots: int) -> list[LedgerEntry]:
        """Up to ``room.num`` requests, until their expected tokens reach ``room.num_tokens``.

        The first ``num_slots`` (none, if that is negative) begin at once; those beyond wait in the engine. The rest of
        a group is included if it has at most ``room.num_extra`` requests more. A request of more than ``longest``
        output tokens is skipped as long as a shorter one is among the next few. Requests that timed out at the engine
        ``avoided_by`` are left for others.
        """
        num, num_tokens, num_extra = room
        taken = self._take_returned(num, num_tokens, longest, avoided_by) if self._returned else []
        num_tokens -= sum([entry.num_tokens for entry in taken])
        if self.is_ending:
            self._take_longest(taken, num, num_tokens, longest, num_slots)
        else:
            self._take_groups(taken, num, num_tokens, num_extra, longest)
        self.num -= len(taken)
        self.num_output_tokens -= sum([entry.num_output_tokens for entry in taken])
        return taken

    def _take_groups(
        self, taken: list[LedgerEntry], num: int, num_tokens: float, num_extra: int, longest: float
    ) -> None:
        left: list[str] = []
        while self._order and len(taken) < num and num_tokens > 0:
            name = self._order.popleft()
            group = self._groups[name]
            if group[0].num_output_tokens > longest and len(left) < MAX_PASSED:
                left.append(name)
                continue
            most = num - len(taken)
            mates = group if len(group) <= most + num_extra else group[:most]
            self._expect_anew(mates)
            mates = _until(num_tokens, mates)
            num_tokens -= sum([entry.num_tokens for entry in mates])
            taken += mates
            if len(mates) < len(group):
                del group[: len(mates)]
                left.append(name)
            else:
                del self._groups[name]
        self._order.extendleft(reversed(left))

    def _take_longest(
        self, taken: list[LedgerEntry], num: int, num_tokens: float, longest: float, num_slots: int
    ) -> None:
        bound = _length_class(longest) if longest < math.inf else math.inf
        ascending = sorted(self._classes)
        short = [each for each in ascending if each < bound]
        order = short[::-1] + ascending[len(short) :]
        # Free slots may mean that long ones got the others: what is beyond the last slot can wait until they are done.
        num_first = num_slots if len(taken) < num_slots < num else num
        num_tokens = self._take_classes(order, taken, num_first, num_tokens)
        if num_first < num:
            self._take_classes(sorted(self._classes), taken, num, num_tokens)

    def _take_classes(self, order: Iterable[int], taken: list[LedgerEntry], num: int, num_tokens: float) -> float:
        """Take from these classes, one after the other; returns what is left of ``num_tokens``."""
        for each in order:
            waiting = self._classes[each]
            while waiting and len(taken) < num and num_tokens > 0:
                entry = waiting.popleft()
                num_tokens -= entry.num_tokens
                taken.append(entry)
            if waiting:
                break
            del self._classes[each]
        return num_tokens

    def _take_returned(self, num: int, num_tokens: float, longest: float, avoided_by: str) -> list[LedgerEntry]:
        taken: list[LedgerEntry] = []
        left: list[LedgerEntry] = []
        while self._returned and len(taken) < num and num_tokens > 0 and len(left) < MAX_PASSED:
            entry = self._returned.popleft()
            # What timed out elsewhere is not skipped for its length: there may be no other engine that can take it.
            if entry.avoid == avoided_by or (entry.avoid is None and entry.num_output_tokens > longest):
                left.append(entry)
            else:
                num_tokens -= entry.num_tokens
                taken.append(entry)
        self._returned.extendleft(reversed(left))
        return taken

    def _extend(self, entries: Sequence[LedgerEntry]) -> None:
        self.num += len(entries)
        self.num_output_tokens += sum([entry.num_output_tokens for entry in entries])
        if self.is_ending:
            self._rank(entries)
        else:
            self._append(entries)

    def _see_the_end(self) -> None:
        """Estimate again, and send the longest first from here on."""
        self.is_ending = True
        for name in self._order:
            self._expect_anew(self._groups[name])
            self._rank(self._groups[name])
        self._groups.clear()
        self._order.clear()

    def _see_no_end(self) -> None:
        """The end is not near after all: back to the order of arrival."""
        self.is_ending = False
        self._append(sorted(self._ranked(), key=lambda entry: entry.request.index))
        self._classes.clear()

    def _rank(self, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            self._classes[_length_class(entry.num_output_tokens)].append(entry)

    def _ranked(self) -> list[LedgerEntry]:
        return [entry for waiting in self._classes.values() for entry in waiting]

    def _expect_anew(self, entries: Sequence[LedgerEntry]) -> None:
        for entry in entries:
            self.num_output_tokens -= entry.num_output_tokens
            entry.expect()
            self.num_output_tokens += entry.num_output_tokens

    def _append(self, entries: Iterable[LedgerEntry]) -> None:
        groups = self._groups
        for entry in entries:
            name = entry.request.group
            group = groups.get(name)
            if group is None:
                groups[name] = [entry]
                self._order.append(name)
            else:
                group.append(entry)


def _until(num_tokens: float, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The first entries whose tokens together reach ``num_tokens``."""
    taken = []
    for entry in entries:
        if num_tokens <= 0:
            break
        num_tokens -= entry.num_tokens
        taken.append(entry)
    return taken


def _length_class(num_output_tokens: float) -> int:
    return int(CLASSES_PER_DOUBLING * math.log2(num_output_tokens))
