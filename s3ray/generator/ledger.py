"""Who has which request. Pure: no clock, no Ray.

Invariant: a request that was handed out is held by exactly one engine, waits to be handed out again, or has ended.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from s3ray.types import FailureReason, GenerationRequest, Outcome, OutcomeStatus


class Ledger:
    """The requests in flight at each engine, and those that a lost engine gave back."""

    def __init__(self, max_attempts: int) -> None:
        """``max_attempts``: how often a request may be lost with its engine before it ends as failed."""
        self._max_attempts = max_attempts
        self._held: dict[str, dict[str, GenerationRequest]] = {}
        self._returned: deque[GenerationRequest] = deque()
        self._num_lost: dict[str, int] = {}

    def num_held_by(self, engine: str) -> int:
        """Requests in flight at one engine."""
        return len(self._held.get(engine, ()))

    def attempt(self, request_id: str) -> int:
        """The number of the attempt under way, from 1."""
        return self._num_lost.get(request_id, 0) + 1

    def take_returned(self, num: int) -> list[GenerationRequest]:
        """Up to ``num`` of the requests that lost engines gave back, oldest first."""
        return [self._returned.popleft() for _ in range(min(num, len(self._returned)))]

    def hand_out(self, engine: str, requests: Iterable[GenerationRequest]) -> None:
        """Note that an engine holds these requests."""
        self._held.setdefault(engine, {}).update((request.id, request) for request in requests)

    def settle(self, engine: str, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """The outcomes that end a request; one for a request that the engine does not hold is dropped."""
        held = self._held.get(engine, {})
        ended = []
        for outcome in outcomes:
            if held.pop(outcome.request_id, None) is not None:
                self._num_lost.pop(outcome.request_id, None)
                ended.append(outcome)
        return ended

    def lose(self, engine: str) -> list[Outcome]:
        """Take back everything an engine held. Returns failures for requests that were lost too often."""
        failed = []
        for request in self._held.pop(engine, {}).values():
            num_lost = self._num_lost.get(request.id, 0) + 1
            if num_lost < self._max_attempts:
                self._num_lost[request.id] = num_lost
                self._returned.append(request)
            else:
                self._num_lost.pop(request.id, None)
                failed.append(_lost(request, engine, num_lost))
        return failed

    def drop(self) -> Sequence[str]:
        """Forget everything under way (the source wants no more); returns the engines that held something."""
        engines = [engine for engine, requests in self._held.items() if requests]
        self._held.clear()
        self._returned.clear()
        self._num_lost.clear()
        return engines


def _lost(request: GenerationRequest, engine: str, num_lost: int) -> Outcome:
    return Outcome(
        request_id=request.id,
        index=request.index,
        status=OutcomeStatus.FAILED,
        reason=FailureReason.ENGINE_LOST.value,
        detail=f"its engine died {num_lost} times while it was in flight",
        engine=engine,
        attempt=num_lost,
    )
