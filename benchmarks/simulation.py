"""Engines in virtual time, so that a scheduler can be tried on more of them than anybody has.

An engine has a fixed number of slots, and each writes a fixed number of tokens a second; a request that is given when
all are taken waits there in line. (A real engine's slots slow each other; that softens the cost of idle ones.) It
answers, like the actor, when a fifth of what is under way is finished, at the latest after two seconds; messages
take ``LATENCY_S`` each way, during which it goes on. One that dies loses all it held, what it finished since its last
answer included, and is back, empty, after ``RESTART_S``. The driver's own time costs no virtual time.
"""

import heapq
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.schedulers import StaticShards
from s3ray.generator.scheduling.dispatch import Assignment, Dispatcher
from s3ray.types import EngineLimits, EngineStats, GenerationRequest

TOKENS_PER_S = 40.0
REPLY_AFTER_S = 2.0
LATENCY_S = 0.01
RESTART_S = 30.0
ASK_AGAIN_S = 1.0
PROMPT_TOKENS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineShape:
    """``num_slots`` sequences at ``tokens_per_s`` each; ``dies_at`` is when it dies, in virtual seconds."""

    num_slots: int
    tokens_per_s: float = TOKENS_PER_S
    dies_at: float | None = None


class Work:
    """A source of requests, made when they are taken. ``limits`` are known to the scheduler, ``lengths`` are not."""

    def __init__(self, limits: "array[int]", lengths: "array[int]") -> None:
        self.lengths = lengths
        self.seconds = 0.0
        self._limits = limits
        self._num_taken = 0

    is_waiting = False

    @property
    def finished(self) -> bool:
        """Never said: the simulation ends when every request has."""
        return False

    def take(self, num: int) -> list[GenerationRequest]:
        """The next requests; each is the only one of its group."""
        started = time.thread_time()
        first, self._num_taken = self._num_taken, min(self._num_taken + num, len(self._limits))
        requests = [
            GenerationRequest(
                id=f"{index:x}",
                index=index,
                stage="seed",
                round=0,
                template="seed",
                group=f"{index:x}",
                seed=index,
                max_tokens=self._limits[index],
            )
            for index in range(first, self._num_taken)
        ]
        self.seconds += time.thread_time() - started
        return requests


class _Engine:
    """What goes on inside one engine. Times are virtual; ``running`` is a heap of (end, start, index)."""

    def __init__(self, name: str, shape: EngineShape, lengths: Sequence[int]) -> None:
        self.name = name
        self.shape = shape
        self.dies_at = shape.dies_at
        self._lengths = lengths
        self.restart()

    def restart(self) -> None:
        self.is_joined = False
        self.finished: list[int] = []
        self._running: list[tuple[float, float, int]] = []
        self._queue: deque[int] = deque()
        self._num_finished_tokens = 0
        self._busy_s = 0.0
        self._busy_since = 0.0

    def accept(self, now: float, assignment: Assignment) -> float:
        """Take an assignment; returns when the answer is ready."""
        self._advance(now, None)
        for index in assignment.cancel:
            self._give_up(index, now)
        self._queue.extend(request.index for request, _ in assignment.requests)
        self._fill(now)
        under_way = len(self._running) + len(self._queue)
        return self._advance(now + REPLY_AFTER_S, max(1, under_way // 5)) if under_way else now

    def answer(self, now: float) -> tuple[list[int], EngineStats]:
        """What it finished since the last answer, and what it says of itself."""
        self._advance(now, None)
        finished, self.finished = self.finished, []
        under_way = sum([now - start for _, start, _ in self._running]) * self.shape.tokens_per_s
        stats = EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._queue),
            num_output_tokens=self._num_finished_tokens + int(under_way),
            busy_s=self._busy_s + (now - self._busy_since if self._running else 0.0),
        )
        return finished, stats

    def _advance(self, until: float, enough: int | None) -> float:
        """Go on until a time, or until enough is finished; returns when that was."""
        running = self._running
        if enough is not None and len(self.finished) >= enough:
            return until - REPLY_AFTER_S
        while running and running[0][0] <= until:
            end, _, index = heapq.heappop(running)
            self.finished.append(index)
            self._num_finished_tokens += self._lengths[index]
            self._fill(end)
            if not running:
                self._busy_s += end - self._busy_since
            if enough is not None and (len(self.finished) >= enough or not running):
                return end
        return until

    def _fill(self, now: float) -> None:
        while self._queue and len(self._running) < self.shape.num_slots:
            if not self._running:
                self._busy_since = now
            index = self._queue.popleft()
            seconds = self._lengths[index] / self.shape.tokens_per_s
            heapq.heappush(self._running, (now + seconds, now, index))

    def _give_up(self, index: int, now: float) -> None:
        if index in self._queue:
            self._queue.remove(index)
            return
        kept = [slot for slot in self._running if slot[2] != index]
        if len(kept) < len(self._running):
            heapq.heapify(kept)
            self._running = kept
            if not kept:
                self._busy_s += now - self._busy_since


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``makespan_s`` and ``ideal_s`` are virtual, ``driver_s`` was spent in the scheduler (the source left out)."""

    makespan_s: float
    ideal_s: float
    driver_s: float
    num_attempts: int

    @property
    def efficiency(self) -> float:
        """Ideal over real makespan."""
        return self.ideal_s / self.makespan_s


Scheduler = Dispatcher | StaticShards


class Simulation:
    """Drives a scheduler with simulated engines until every request has ended once."""

    def __init__(self, scheduler: Scheduler, shapes: Sequence[EngineShape], work: Work) -> None:
        self._scheduler = scheduler
        self._work = work
        self._engines = [_Engine(f"engine-{number}", shape, work.lengths) for number, shape in enumerate(shapes)]
        # What happens next: time, order among equals, engine, and whether it is an answer (else it asks afresh).
        self._events: list[tuple[float, int, int, bool]] = []
        self._num_events = 0
        self._ended = bytearray(len(work.lengths))
        self._num_open = len(work.lengths)
        self._num_attempts = 0
        self._driver_s = 0.0

    def run(self) -> Result:
        """Run to the end.

        Raises:
            RuntimeError: a request ended twice, or poison was found where there is none.
        """
        for number, _ in enumerate(self._engines):
            self._plan(0.0, number, is_answer=False)
        now = 0.0
        while self._num_open:
            now, _, number, is_answer = heapq.heappop(self._events)
            engine = self._engines[number]
            if engine.dies_at is not None and engine.dies_at <= now:
                self._die(number, engine)
            else:
                if not engine.is_joined:
                    self._join(engine)
                self._exchange(now, number, engine, is_answer=is_answer)
        ideal_s = ideal_makespan_s([engine.shape for engine in self._engines], self._work.lengths, now)
        return Result(makespan_s=now, ideal_s=ideal_s, driver_s=self._driver_s, num_attempts=self._num_attempts)

    def _exchange(self, now: float, number: int, engine: _Engine, *, is_answer: bool) -> None:
        """An answer arrives at the driver and brings the next assignment, or an idle engine asks again."""
        finished, stats = engine.answer(now - LATENCY_S) if is_answer else ([], None)
        lengths = [self._work.lengths[index] for index in finished]
        before = self._work.seconds
        started = time.thread_time()
        if stats is not None:
            ends = self._scheduler.settle(
                engine.name, finished, prompt_tokens=[PROMPT_TOKENS] * len(finished), output_tokens=lengths
            )
            self._scheduler.report(engine.name, stats)
        else:
            ends = None
        assignment = self._scheduler.assign(engine.name, self._work)
        self._driver_s += time.thread_time() - started - (self._work.seconds - before)
        for place, index in enumerate(finished):
            if ends is None or ends[place]:
                self._end(index)
        self._num_attempts += len(assignment.requests)
        if assignment.cancel or self._scheduler.num_in_flight(engine.name):
            ready = engine.accept(now + LATENCY_S, assignment)
            self._plan(ready + LATENCY_S, number, is_answer=True)
        else:
            self._plan(now + ASK_AGAIN_S, number, is_answer=False)

    def _plan(self, when: float, number: int, *, is_answer: bool) -> None:
        dies_at = self._engines[number].dies_at
        if dies_at is not None and dies_at < when:
            when = dies_at
        self._num_events += 1
        heapq.heappush(self._events, (when, self._num_events, number, is_answer))

    def _join(self, engine: _Engine) -> None:
        num = engine.shape.num_slots
        limits = EngineLimits(
            max_num_seqs=num, max_num_batched_tokens=8192, max_model_len=2048, num_kv_tokens=0, dtype="", device=""
        )
        self._scheduler.join(engine.name, limits)
        engine.is_joined = True

    def _die(self, number: int, engine: _Engine) -> None:
        assert engine.dies_at is not None
        died, engine.dies_at = engine.dies_at, None
        if self._scheduler.leave(engine.name, is_blamed=True).poisoned:
            raise RuntimeError("a request was called poison")
        engine.restart()
        self._plan(died + RESTART_S, number, is_answer=False)

    def _end(self, index: int) -> None:
        if self._ended[index]:
            raise RuntimeError(f"request {index} ended twice")
        self._ended[index] = 1
        self._num_open -= 1


def ideal_makespan_s(shapes: Sequence[EngineShape], lengths: Sequence[int], end: float) -> float:
    """No schedule is shorter: all tokens over all speed while it is alive, or the longest request on the best slot."""
    speed = sum(shape.num_slots * shape.tokens_per_s for shape in shapes)
    away = sum(
        shape.num_slots * shape.tokens_per_s * min(RESTART_S, end - shape.dies_at)
        for shape in shapes
        if shape.dies_at is not None and shape.dies_at < end
    )
    return max((sum(lengths) + away) / speed, max(lengths) / max(shape.tokens_per_s for shape in shapes))
