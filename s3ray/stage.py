"""One stage of a round: which requests still have to be sent, and which outcomes become examples.

A stage has a fixed sequence of requests. Outcomes arrive in any order, but they are *judged* in the order of the
sequence, so that duplicates, quotas and the final set depend neither on the number of engines nor on time. Called by
the driver; the pool sees it as a source of requests only.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from s3ray.errors import StoreError
from s3ray.types import GenerationRequest, Outcome, OutcomeStatus, Rejection, RejectionReason

ANY = ""
"""Key of the quota that counts every label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What a strategy asks of one stage.

    ``requests`` is lazy and may be endless where ``quota`` ends the stage: accepted outcomes wanted per label (or in
    all, under the key ``ANY``). Without a quota every request is sent. ``max_requests`` bounds the stage.
    """

    name: str
    requests: Iterator[GenerationRequest]
    quota: Mapping[str, int] | None = None
    max_requests: int | None = None

    @property
    def target(self) -> int | None:
        """Accepted outcomes wanted in all."""
        return None if self.quota is None else sum(self.quota.values())


class Judge(Protocol):
    """Decides, in sequence order, whether what was written is kept; keeps it if so."""

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """None if the outcome was kept, else why not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one request finally ended: the engine's outcome, then the judge's word on it."""

    request: GenerationRequest
    outcome: Outcome
    status: OutcomeStatus
    reason: str
    detail: str


class Stage:
    """A stage under way. ``take`` hands out requests, ``settle`` brings their outcomes back, each exactly once."""

    def __init__(self, plan: StagePlan, judge: Judge, known: Iterable[Outcome] = ()) -> None:
        """``known`` are the outcomes that an earlier start left on disk: their requests are not sent again."""
        self.plan = plan
        self.verdicts: list[Verdict] = []
        self.finished = False
        self._judge = judge
        self._known = {outcome.request_id: outcome for outcome in known}
        self._last_known = max((outcome.index for outcome in self._known.values()), default=-1)
        self._resend: deque[GenerationRequest] = deque()
        self._num_drawn = 0
        self._exhausted = False
        self._deferred: dict[str, deque[GenerationRequest]] = {}
        self._in_flight: dict[str, GenerationRequest] = {}
        self._waiting: dict[int, tuple[GenerationRequest, Outcome | None]] = {}
        self._next_index = 0
        self._accepted: Counter[str] = Counter()
        self._outstanding: Counter[str] = Counter()
        self._num_arrived = 0
        self._num_usable = 0
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

    def take(self, num: int) -> list[GenerationRequest]:
        """Up to ``num`` requests to send. Few or none do not mean the end: ``finished`` says that."""
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

    def replay(self) -> None:
        """Settle what an earlier start left on disk, so that a stage that was complete needs no engine.

        Requests on the way that have no outcome were lost with that start: they are sent again before any other,
        since later outcomes wait for them.

        Raises:
            StoreError: an outcome belongs to no request of this stage.
        """
        while self._known and not self.finished and (request := self._draw_known()) is not None:
            key = self._key(request)
            if request.id in self._known:
                self._send(request, key)
                self.settle([self._known.pop(request.id)])
            elif self._is_full(key):
                self._pass_over(request)
            else:
                self._resend.append(request)
        self._finish_if_done()

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes back and judge those whose turn has come.

        Raises:
            KeyError: an outcome's request was never handed out, or it was settled before.
        """
        for outcome in outcomes:
            request = self._in_flight.pop(outcome.request_id)
            self._waiting[request.index] = (request, outcome)
            self._num_arrived += 1
            self._num_usable += outcome.status is OutcomeStatus.ACCEPTED
        self._judge_in_order()

    def is_in_flight(self, request_id: str) -> bool:
        """Whether a request was handed out and has not come back."""
        return request_id in self._in_flight

    # -- which requests to send ------------------------------------------------------------------------------------

    def _draw(self) -> GenerationRequest | None:
        if self._exhausted or self._num_drawn == self.plan.max_requests:
            self._exhausted = True
            return None
        request = next(self.plan.requests, None)
        if request is None:
            self._exhausted = True
            return None
        if request.index != self._num_drawn:
            raise ValueError(f"request {request.id} has index {request.index}, expected {self._num_drawn}")
        self._num_drawn += 1
        return request

    def _draw_known(self) -> GenerationRequest | None:
        """The next request as long as outcomes on disk lie ahead."""
        request = self._draw() if self._num_drawn <= self._last_known else None
        if request is None and self._known:
            raise StoreError(
                f"the journal of stage {self.plan.name} has {len(self._known)} outcomes of requests it never makes",
                "Another version of s3ray wrote them. Start a new run with another `name` or --out.",
            )
        return request

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
        """Whether what is under way for a label will, at the yield measured so far, fall short of its quota."""
        quota = self.plan.quota
        if quota is None:
            return True
        measured = (self._num_usable + 4) / (self._num_arrived + 4)
        needed = math.ceil((quota[key] - self._accepted[key]) / measured) + 1
        return self._outstanding[key] < needed

    # -- which outcomes to keep ------------------------------------------------------------------------------------

    def _judge_in_order(self) -> None:
        while self._next_index in self._waiting:
            request, outcome = self._waiting.pop(self._next_index)
            self._next_index += 1
            if outcome is not None:
                key = self._key(request)
                self._outstanding[key] -= 1
                self._conclude(request, outcome, key)
        self._finish_if_done()

    def _conclude(self, request: GenerationRequest, outcome: Outcome, key: str) -> None:
        status, reason, detail = outcome.status, outcome.reason, outcome.detail
        if status is OutcomeStatus.ACCEPTED:
            surplus = Rejection(reason=RejectionReason.SURPLUS, detail="the quota of its label was full")
            rejection = surplus if self._is_full(key) else self._judge.judge(request, outcome)
            if rejection is None:
                self._accepted[key] += 1
            else:
                status, reason, detail = OutcomeStatus.REJECTED, rejection.reason.value, rejection.detail
        self.verdicts.append(Verdict(request=request, outcome=outcome, status=status, reason=reason, detail=detail))

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
            self._conclude_known()
        elif self._exhausted and not self._in_flight and not self._resend and not any(self._deferred.values()):
            self.finished = True

    def _conclude_known(self) -> None:
        """Account for outcomes of an earlier start that lie beyond the end of the stage."""
        while self._known and (request := self._draw_known()) is not None:
            outcome = self._known.pop(request.id, None)
            if outcome is not None:
                self._conclude(request, outcome, self._key(request))
