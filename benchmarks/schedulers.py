"""The simpler schedulers that the dispatcher is compared with: first come, first served, and no endgame."""

import math
from collections import deque
from collections.abc import Sequence

from s3ray.generator.scheduling.dispatch import Assignment, Loss
from s3ray.generator.scheduling.estimates import Feedback, Kind, Kinds
from s3ray.generator.scheduling.ledger import Ledger, LedgerEntry
from s3ray.generator.scheduling.queue import MIN_AHEAD, RequestSource
from s3ray.types import EngineLimits, EngineStats


class StaticShards:
    """Each engine has its fixed part of the requests, given as it has room; a dead engine's part waits for it.

    A request belongs to shard ``index % num_shards``; the n-th engine that joined answers shard n.
    """

    def __init__(self, num_shards: int) -> None:
        self._shards = [deque[LedgerEntry]() for _ in range(num_shards)]
        self._numbers: dict[str, int] = {}
        self._members: dict[str, Feedback] = {}
        self._ledger = Ledger()
        self._kinds = Kinds(Kind)

    def join(self, engine: str, limits: EngineLimits) -> None:
        """An engine is ready to work."""
        self._numbers.setdefault(engine, len(self._numbers))
        self._members[engine] = Feedback(limits)
        self._ledger.open(engine)

    def leave(self, engine: str, *, is_blamed: bool) -> Loss:
        """An engine died; what it held is assigned again before any other."""
        del self._members[engine]
        lost = self._ledger.close(engine)
        for entry in reversed(lost):
            self._shard(entry.request.index).appendleft(entry)
        return Loss(num_in_flight=len(lost), poisoned=[])

    def report(self, engine: str, stats: EngineStats) -> None:
        """What an engine tells of itself."""
        self._members[engine].note_report(stats)

    def settle(
        self, engine: str, indexes: Sequence[int], *, prompt_tokens: Sequence[int], output_tokens: Sequence[int]
    ) -> list[bool] | None:
        """Take answers; each ends its request."""
        for index in indexes:
            self._ledger.end(engine, index)
        return None

    def num_in_flight(self, engine: str) -> int:
        """Requests that an engine holds."""
        return self._ledger.num_held_by(engine)

    def assign(self, engine: str, source: RequestSource) -> Assignment:
        """What an engine gets next."""
        feedback = self._members[engine]
        shard = self._shard(self._numbers[engine])
        self._draw(source, shard, math.ceil(feedback.capacity * feedback.allowance))
        room = self._room(feedback, self.num_in_flight(engine))
        entries = [shard.popleft() for _ in range(max(0, min(room, len(shard))))]
        load = self._ledger.load_of(engine)
        self._ledger.assign(load, entries, feedback.position)
        feedback.note_assigned(len(load.entries), is_full=bool(shard))
        return Assignment(requests=[(entry.request, entry.num_attempts) for entry in entries], cancel=[])

    def _room(self, feedback: Feedback, num_in_flight: int) -> int:
        """How many more requests an engine may get now."""
        return math.ceil(feedback.capacity * feedback.allowance) - num_in_flight

    def _shard(self, number: int) -> deque[LedgerEntry]:
        return self._shards[number % len(self._shards)]

    def _draw(self, source: RequestSource, shard: deque[LedgerEntry], num_held: int) -> None:
        """As far ahead as the dispatcher draws at the least."""
        num = MIN_AHEAD + (num_held - len(shard)) * len(self._shards)
        for request in source.take(num) if num > 0 else ():
            self._shard(request.index).append(
                LedgerEntry(request, self._kinds[request.served_task, request.template, request.label])
            )


class BatchBarrier(StaticShards):
    """An engine gets the next batch when its last one is wholly answered."""

    def __init__(self, size: int) -> None:
        super().__init__(num_shards=1)
        self._size = size

    def _room(self, feedback: Feedback, num_in_flight: int) -> int:
        return 0 if num_in_flight else self._size
