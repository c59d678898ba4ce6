"""One stage of a round: which requests still have to be sent, and which outcomes become examples.

A stage has a fixed sequence of requests. Outcomes arrive in any order, but they are *judged* in the order of the
sequence, so that duplicates, quotas and the final set depend neither on the number of engines nor on time. The driver
runs stages; the pool sees them as sources of requests only.
"""

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from s3ray.errors import StoreError
from s3ray.strategies.base import ANY, StagePlan
from s3ray.types import NOT_YET, GenerationRequest, Outcome, OutcomeStatus, Rejection, RejectionReason

_ENOUGH_TO_TELL = 20
"""Number of requests of a label that must have been judged before its yield counts as measured."""

_MOST_AT_ONCE = 4096
"""Outcomes that are judged, or read from the journal, as one batch."""


class Judge(Protocol):
    """Decides, in sequence order, whether a text is kept, and keeps it."""

    def expect(self, coming: Sequence[tuple[GenerationRequest, Outcome]]) -> None:
        """Hear of the texts that will be judged next, so that they can be prepared together."""

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """None if the outcome was kept, else the reason why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one request finally ended: the engine's outcome, and the judge's decision on it."""

    request: GenerationRequest
    outcome: Outcome
    status: OutcomeStatus
    reason: str
    detail: str


class Stage:
    """A stage under way. ``take`` gives out requests, ``settle`` takes their outcomes back, each exactly once.

    ``is_waiting``: temporarily empty; more requests will come even though none is in flight. Memory is bounded by what
    is in flight, since each ending is passed on at once. ``take`` and ``settle`` may be called from different threads:
    a pool that several runs share draws requests while the driver of a run settles outcomes.
    """

    def __init__(self, plan: StagePlan, judge: Judge, record: Callable[[Ending], None]) -> None:
        """``record`` is called with every ending in the order of the sequence, and at the end with the surplus."""
        self.plan = plan
        self.finished = False
        self.is_waiting = False
        self._judge = judge
        self._record = record
        self._resend: deque[GenerationRequest] = deque()
        self._num_drawn = 0
        self._exhausted = False
        self._deferred: dict[str, deque[GenerationRequest]] = {}
        self._in_flight: dict[str, GenerationRequest] = {}
        self._waiting: dict[int, tuple[GenerationRequest, Outcome | None]] = {}
        self._next_index = 0
        self._accepted: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()
        self._outstanding: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._finish_if_done()

    @property
    def num_accepted(self) -> int:
        """Outcomes kept so far."""
        return self._accepted.total()

    @property
    def missing(self) -> dict[str, int]:
        """What the quota still lacks, per label."""
        quota = self.plan.quota or {}
        return {key: quota[key] - self._accepted[key] for key in quota if self._accepted[key] < quota[key]}

    @property
    def starving(self) -> list[str]:
        """Labels that will not reach their quota within ``max_requests`` at the yield measured so far."""
        quota, cap = self.plan.quota, self.plan.max_requests
        if quota is None or cap is None:
            return []
        share = cap / sum(quota.values())
        return [
            key
            for key in self._open_keys()
            if self._judged[key] >= _ENOUGH_TO_TELL and self._accepted[key] < self._judged[key] / share
        ]

    @property
    def num_under_way(self) -> int:
        """Requests in flight."""
        return len(self._in_flight)

    def take(self, num: int) -> list[GenerationRequest]:
        """Up to ``num`` requests to send. Few or none do not mean that the stage has finished."""
        with self._lock:
            return self._take(num)

    def _take(self, num: int) -> list[GenerationRequest]:
        taken: list[GenerationRequest] = []
        while len(taken) < num and not self.finished:
            is_resent = bool(self._resend)
            request = self._resend.popleft() if is_resent else self._from_deferred() or self._draw()
            if request is None:
                self._finish_if_done()
                break
            key = self._key(request)
            if self._is_full(key):
                self._pass_over(request)
            elif is_resent or self._wants(key):
                self._send(request, key)
                taken.append(request)
            else:
                self._deferred.setdefault(key, deque()).append(request)
                if all(not self._wants(other) for other in self._open_keys()):
                    break
        return taken

    def replay(self, journal: Iterable[Outcome]) -> None:
        """Settle the outcomes that earlier starts of the run left on disk; a complete stage then needs no engine.

        Earlier requests without an outcome were lost when that start ended. They are sent again before any other, since
        later outcomes wait for them.

        Raises:
            StoreError: an outcome belongs to no request of this stage.
        """
        unanswered: dict[int, GenerationRequest] = {}
        passed: dict[int, GenerationRequest] = {}
        outcomes = iter(journal)
        while some := list(islice(outcomes, _MOST_AT_ONCE)):
            for outcome in some:
                request = unanswered.pop(outcome.index, None) or passed.pop(outcome.index, None)
                if request is None:
                    request = self._draw_up_to(outcome.index, unanswered)
                if request is None or request.id != outcome.request_id:
                    raise _unknown(self.plan.name, outcome)
                key = self._key(request)
                if self.finished or outcome.index < self._next_index or outcome.index in self._waiting:
                    self._conclude(request, outcome, key)
                else:
                    self._outstanding[key] += 1
                    self._waiting[outcome.index] = (request, outcome)
            self._judge_in_order()
            self._pass_over_full(unanswered, passed)
        if not self.finished:
            self._resend.extend(unanswered[index] for index in sorted(unanswered))
        self._finish_if_done()

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes back and judge those whose turn has come.

        Raises:
            KeyError: an outcome's request was never handed out, or it was settled before.
        """
        with self._lock:
            for outcome in outcomes:
                request = self._in_flight.pop(outcome.request_id)
                self._waiting[request.index] = (request, outcome)
            self._judge_in_order()

    def end(self) -> None:
        """No more answers will come: judge the outcomes that wait behind missing ones, and finish short of quota."""
        for request in self._resend:
            self._waiting[request.index] = (request, None)
        self._resend.clear()
        self._judge_in_order()
        self.finished = True

    # -- which requests to send ------------------------------------------------------------------------------------

    def _draw(self) -> GenerationRequest | None:
        if self._exhausted or self._num_drawn == self.plan.max_requests:
            self._exhausted = True
            return None
        request = next(self.plan.requests, None)
        self.is_waiting = request is NOT_YET
        if request is None or request is NOT_YET:
            self._exhausted = request is None
            return None
        if request.index != self._num_drawn:
            raise ValueError(f"request {request.id} has index {request.index}, expected {self._num_drawn}")
        self._num_drawn += 1
        return request

    def _draw_up_to(self, index: int, unanswered: dict[int, GenerationRequest]) -> GenerationRequest | None:
        """The request at a position of the sequence; those before it are noted as unanswered."""
        while self._num_drawn <= index and (request := self._draw()) is not None:
            if request.index == index:
                return request
            unanswered[request.index] = request
        return None

    def _pass_over_full(self, unanswered: dict[int, GenerationRequest], passed: dict[int, GenerationRequest]) -> None:
        """Do not wait for requests of a label whose quota is full; their outcomes count as surplus if they arrive."""
        blocking = unanswered.get(self._next_index)
        while blocking is not None and not self.finished and self._is_full(self._key(blocking)):
            passed[blocking.index] = unanswered.pop(blocking.index)
            self._pass_over(blocking)
            blocking = unanswered.get(self._next_index)

    def _from_deferred(self) -> GenerationRequest | None:
        for key, requests in self._deferred.items():
            if requests and (self._is_full(key) or self._wants(key)):
                return requests.popleft()
        return None

    def _send(self, request: GenerationRequest, key: str) -> None:
        self._in_flight[request.id] = request
        self._outstanding[key] += 1

    def _pass_over(self, request: GenerationRequest) -> None:
        self._waiting[request.index] = (request, None)
        self._judge_in_order()

    def _key(self, request: GenerationRequest) -> str:
        quota = self.plan.quota
        return ANY if quota is None or ANY in quota else request.label or ANY

    def _open_keys(self) -> list[str]:
        quota = self.plan.quota
        return [ANY] if quota is None else [key for key in quota if not self._is_full(key)]

    def _is_full(self, key: str) -> bool:
        quota = self.plan.quota
        return quota is not None and self._accepted[key] >= quota.get(key, 0)

    def _wants(self, key: str) -> bool:
        """Whether the requests in flight for a label will not fill its quota at the yield measured so far."""
        quota = self.plan.quota
        if quota is None:
            return True
        # Four more count as judged and kept: at the start no more than the quota is sent, and one early rejection does
        # not multiply the requests. One more than needed is sent, so that a single rejection costs no round trip.
        measured = (self._accepted[key] + 4) / (self._judged[key] + 4)
        needed = math.ceil((quota[key] - self._accepted[key]) / measured) + 1
        return self._outstanding[key] < needed

    # -- which outcomes to keep ------------------------------------------------------------------------------------

    def _judge_in_order(self) -> None:
        while run := self._next_run():
            texts = [(request, outcome) for request, outcome in run if outcome is not None]
            self._judge.expect([pair for pair in texts if pair[1].status is OutcomeStatus.ACCEPTED])
            for request, outcome in texts:
                key = self._key(request)
                self._outstanding[key] -= 1
                self._conclude(request, outcome, key)
        self._finish_if_done()

    def _next_run(self) -> list[tuple[GenerationRequest, Outcome | None]]:
        """The requests whose turn has come, some thousands at most."""
        run: list[tuple[GenerationRequest, Outcome | None]] = []
        while self._next_index in self._waiting and len(run) < _MOST_AT_ONCE:
            run.append(self._waiting.pop(self._next_index))
            self._next_index += 1
        return run

    def _conclude(self, request: GenerationRequest, outcome: Outcome, key: str) -> None:
        status, reason, detail = outcome.status, outcome.reason, outcome.detail
        if status is OutcomeStatus.ACCEPTED:
            surplus = Rejection(reason=RejectionReason.SURPLUS, detail="the quota of its label was full")
            rejection = surplus if self._is_full(key) else self._judge.judge(request, outcome)
            if rejection is None:
                self._accepted[key] += 1
            else:
                status, reason, detail = OutcomeStatus.REJECTED, rejection.reason.value, rejection.detail
        self._judged[key] += 1
        self._record(Ending(request=request, outcome=outcome, status=status, reason=reason, detail=detail))

    def _finish_if_done(self) -> None:
        if self.finished:
            return
        quota = self.plan.quota
        if quota is not None and all(self._is_full(key) for key in quota):
            self.finished = True
            for index in sorted(self._waiting):
                request, outcome = self._waiting[index]
                if outcome is not None:
                    self._conclude(request, outcome, self._key(request))
            self._waiting.clear()
        elif self._exhausted and not self._in_flight and not self._resend and not any(self._deferred.values()):
            self.finished = True


def _unknown(stage: str, outcome: Outcome) -> StoreError:
    return StoreError(
        f"the journal of stage {stage} has the outcome of a request that it never makes ({outcome.request_id})",
        "Another version of s3ray wrote it. Start a new run with another `name` or --out.",
    )
