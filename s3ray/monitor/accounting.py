"""Where the time of engines and train workers went: every second of each is booked once, from the events of a run.

A second is one of ``STATES``. Pure. Invariants: the spans of a lane do not overlap, and from an engine's first start
in an attempt to its end, and for the train workers over the whole attempt, there is no gap between them. Nobody knows
what happened between two attempts: that time is not booked.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from s3ray.monitor.events import (
    AnswersDealt,
    CheckerFinished,
    CheckerStarted,
    ChunkWritten,
    EngineAwake,
    EngineEvent,
    EngineGivenUp,
    EngineLost,
    EngineReady,
    EngineStarting,
    EngineStopped,
    EngineWaiting,
    Event,
    RunFailed,
    RunStarted,
    StageFinished,
    StageStarted,
    TrainingFinished,
    TrainingStarted,
)
from s3ray.types import EngineReport

STARTING = "starting"
BUSY = "busy"
NO_WORK = "waiting for work"
OTHER_PHASE = "waiting for the other phase"
RECOVERING = "recovering"
STATES = (BUSY, STARTING, NO_WORK, OTHER_PHASE, RECOVERING)
TRAINER = "train workers"

Window = tuple[float, float]
"""Start and end, in unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in one state, in unix seconds."""

    state: str
    start: float
    end: float


@dataclass(slots=True, kw_only=True)
class Lane:
    """One engine, or the ``num`` train workers of a run, which do everything together.

    ``lived_s`` are the seconds in which its process was there, loading or able to work; ``starts_s`` how long each of
    its starts took that came to an end.
    """

    name: str
    num: int = 1
    spans: list[Span] = field(default_factory=list)
    lived_s: float = 0.0
    starts_s: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> Counter[str]:
        """Seconds by state, of each one of ``num``."""
        total: Counter[str] = Counter()
        for span in self.spans:
            total[span.state] += span.end - span.start  # type: ignore[assignment]
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """All lanes, the engines' first; when each attempt ran; when stages and students were made, by name."""

    engines: tuple[Lane, ...]
    trainers: tuple[Lane, ...]
    attempts: tuple[Window, ...]
    stages: tuple[tuple[str, Window], ...]
    students: tuple[tuple[str, Window], ...]

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Engines, then train workers."""
        return self.engines + self.trainers

    @property
    def engine_busy_share(self) -> float | None:
        """Busy seconds of all engines / seconds in which they existed (0 to 1); None without an engine."""
        lived = sum(lane.lived_s for lane in self.engines)
        return min(1.0, sum(lane.seconds[BUSY] for lane in self.engines) / lived) if lived else None

    @property
    def engine_start_s(self) -> float | None:
        """Mean seconds until a started engine was ready; None where none was."""
        starts_s = [seconds for lane in self.engines for seconds in lane.starts_s]
        return sum(starts_s) / len(starts_s) if starts_s else None


def account(events: Iterable[Event], campaign: str = "") -> Account:
    """Book the time of a run from its events, oldest first; of ``campaign``, where they are of its log.

    A campaign's engines serve many stages at once and many students train at once: for them it is one run that writes
    while any of its runs does, and trains while any of its runs does.
    """
    attempts: list[_Attempt] = []
    for event in events:
        is_own = campaign in ("", event.run)
        if not attempts or (is_own and attempts[-1].number != event.attempt):
            attempts.append(_Attempt(number=event.attempt, start=event.time, now=event.time))
        attempts[-1].fold(event)
    lanes: dict[str, Lane] = {}
    trainer = Lane(name=TRAINER, num=max((attempt.num_workers for attempt in attempts), default=0))
    for attempt in attempts:
        for name, lives in attempt.engines.items():
            lane = lanes.setdefault(name, Lane(name=name))
            lane.spans += _merged(_engine_spans(attempt, lives))
            lane.starts_s += [life.ready - life.start for life in lives if life.ready is not None]
            lane.lived_s += sum((life.end or attempt.now) - life.start for life in lives if life.is_process)
        trainer.spans += _merged(_trainer_spans(attempt))
    return Account(
        engines=tuple(sorted(lanes.values(), key=lambda lane: (len(lane.name), lane.name))),
        trainers=(trainer,) if trainer.num else (),
        attempts=tuple((attempt.start, attempt.now) for attempt in attempts),
        stages=tuple((step.name, step.window(attempt.now)) for attempt in attempts for step in attempt.stages.all),
        students=tuple((step.name, step.window(attempt.now)) for attempt in attempts for step in attempt.students.all),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeShares:
    """``seconds`` in all and the share of each state: they add up to 1, or are None without a second.

    ``workers`` are those of train workers, which share a lane.
    """

    workers: int | None = None
    seconds: float
    busy: float | None
    starting: float | None
    waiting_for_work: float | None
    waiting_for_the_other_phase: float | None
    recovering: float | None

    @property
    def by_state(self) -> dict[str, float]:
        """The shares by ``STATES``; empty without a second."""
        shares = (self.busy, self.starting, self.waiting_for_work, self.waiting_for_the_other_phase, self.recovering)
        return {state: share for state, share in zip(STATES, shares, strict=True) if share is not None}


def shares(lanes: Sequence[Lane], workers: int | None = None) -> TimeShares:
    """What the time of some lanes went into."""
    total: Counter[str] = Counter()
    for lane in lanes:
        total.update({state: seconds * lane.num for state, seconds in lane.seconds.items()})
    seconds = sum(total[state] for state in STATES)
    each = {state.replace(" ", "_"): total[state] / seconds if seconds else None for state in STATES}
    return TimeShares(workers=workers, seconds=seconds, **each)


# -- what the events of an attempt say -----------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Life:
    """An engine from one start to its end, or (not ``is_process``) its waiting for a place."""

    start: float
    restarts: int = -1
    is_process: bool = True
    ready: float | None = None
    end: float | None = None
    ended: type[EngineEvent] | None = None
    reports: list[tuple[float, float]] = field(default_factory=list)
    wakings: list[Window] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Step:
    """A stage or a training, or several that overlap. Of a training: how long it waited, and its workers started."""

    name: str
    start: float
    end: float | None = None
    wait_s: float = 0.0
    start_s: float = 0.0

    def window(self, now: float) -> Window:
        """When it was; the end of the attempt may have cut it."""
        return self.start, now if self.end is None else self.end


@dataclass(slots=True)
class _Steps:
    """The steps of one kind in an attempt, in order; ``_under_way`` has the runs, and what of each is not done."""

    all: list[_Step] = field(default_factory=list)
    _under_way: set[tuple[str, str]] = field(default_factory=set)

    def begin(self, run: str, name: str, now: float) -> None:
        if not self._under_way:
            self.all.append(_Step(name=name, start=now))
        self._under_way.add((run, name))

    def end(self, run: str, name: str | None, now: float) -> None:
        """This step of a run ended; None: all that the run had under way."""
        left = {(of, each) for of, each in self._under_way if of != run or name not in (None, each)}
        if self._under_way and not left:
            self.all[-1].end = now
        self._under_way = left

    def windows(self, now: float) -> list[Window]:
        return [step.window(now) for step in self.all]


@dataclass(slots=True, kw_only=True)
class _Attempt:
    number: int
    start: float
    now: float
    num_workers: int = 0
    engines: dict[str, list[_Life]] = field(default_factory=dict)
    stages: _Steps = field(default_factory=_Steps)
    students: _Steps = field(default_factory=_Steps)

    def fold(self, event: Event) -> None:
        self.now = max(self.now, event.time)  # a clock that was set back makes no negative seconds
        match event:
            case RunStarted():
                self.num_workers = event.workers
            case StageStarted():
                self.stages.begin(event.run, f"round {event.round} {event.stage}", self.now)
            case StageFinished():
                self.stages.end(event.run, f"round {event.round} {event.stage}", self.now)
            case TrainingStarted():
                name = "checker" if isinstance(event, CheckerStarted) else f"student {event.round}"
                self.students.begin(event.run, name, self.now)
            case TrainingFinished():
                name = "checker" if isinstance(event, CheckerFinished) else f"student {event.round}"
                self.students.end(event.run, name, self.now)
                if self.students.all:
                    self.students.all[-1].wait_s = max(0.0, event.seconds.get("wait", 0.0))
                    self.students.all[-1].start_s = max(0.0, event.seconds.get("start", 0.0))
            case RunFailed():
                self.stages.end(event.run, None, self.now)
                self.students.end(event.run, None, self.now)
            case ChunkWritten() | AnswersDealt():
                for name, report in event.engines.items():
                    self._note_report(name, report)
            case EngineEvent():
                self._note_engine(event)

    def _last_life(self, engine: str) -> _Life:
        lives = self.engines.setdefault(engine, [])
        if not lives:
            lives.append(_Life(start=self.now, is_process=False))
        return lives[-1]

    def _note_engine(self, event: EngineEvent) -> None:
        match event:
            case EngineReady():
                self._last_life(event.engine).ready = self.now
            case EngineAwake():
                self._last_life(event.engine).wakings.append((self.now - event.seconds, self.now))
            case EngineStarting() | EngineWaiting():
                lives = self.engines.setdefault(event.engine, [])
                if lives and lives[-1].end is None:  # it waited for a place and found one
                    lives[-1].end = self.now
                is_process = isinstance(event, EngineStarting)
                restarts = event.restarts if isinstance(event, EngineStarting) else -1
                lives.append(_Life(start=self.now, restarts=restarts, is_process=is_process))
            case EngineLost() | EngineGivenUp() | EngineStopped():
                life = self._last_life(event.engine)
                life.end = self.now if life.end is None else life.end
                life.ended = type(event)

    def _note_report(self, engine: str, report: EngineReport) -> None:
        for life in reversed(self.engines.get(engine, [])):
            if life.restarts == report.restarts:
                life.reports.append((self.now if life.end is None else life.end, report.busy_s))
                return


# -- booking -------------------------------------------------------------------------------------------------------


def _engine_spans(attempt: _Attempt, lives: Sequence[_Life]) -> Iterator[Span]:
    """From its first start to the end of the attempt, or until it was given up or stopped for good."""
    before: type[EngineEvent] | None = None
    for life, after in [*pairwise(lives), (lives[-1], None)]:
        end = attempt.now if life.end is None else life.end
        ready = end if life.ready is None else min(life.ready, end)
        yield Span(state=RECOVERING if before is EngineLost else STARTING, start=life.start, end=ready)
        yield from _work(attempt, life, ready, end)
        before = life.ended or before
        gap = end, attempt.now if after is None else after.start
        if life.ended is EngineLost:
            yield Span(state=RECOVERING, start=gap[0], end=gap[1])
        elif life.ended is EngineStopped:
            before = None
            yield from _absence(attempt, gap, is_last=after is None)


def _absence(attempt: _Attempt, gap: Window, *, is_last: bool) -> Iterator[Span]:
    """An engine that has left: for a training, or for good, which is booked no longer."""
    training = attempt.students.windows(attempt.now)
    for start, end, is_training in _cut(gap, training):
        if is_training:
            yield Span(state=OTHER_PHASE, start=start, end=end)
        elif not is_last or any(later >= end for later, _ in training):
            yield Span(state=NO_WORK, start=start, end=end)


def _work(attempt: _Attempt, life: _Life, ready: float, end: float) -> Iterator[Span]:
    """A ready engine: busy as it reported, otherwise without work, or waiting for a student to be trained.

    One that slept while a student was trained takes a while to wake up.
    """
    stages = attempt.stages.windows(attempt.now)
    generating = [(start, stop) for stage in stages for start, stop, wakes in _cut(stage, life.wakings) if not wakes]
    known, last = 0.0, ready
    for now, busy_s in life.reports:
        yield from _until_report(attempt, life, generating, (last, max(last, now)), busy_s - known)
        known, last = busy_s, max(last, now)
    yield from _until_report(attempt, life, generating, (last, end), 0.0)


def _until_report(
    attempt: _Attempt, life: _Life, generating: Sequence[Window], window: Window, busy_s: float
) -> Iterator[Span]:
    """Between two reports: ``busy_s`` seconds of work, the latest in which there was any to do."""
    pieces = list(_cut(window, generating))
    left = max(0.0, busy_s)
    spans: list[Span] = []
    for start, end, is_generating in reversed(pieces):
        if not is_generating:
            spans += reversed(list(_idle(attempt, life, (start, end))))
            continue
        begin = max(start, end - left)
        left -= end - begin
        spans += [Span(state=BUSY, start=begin, end=end), Span(state=NO_WORK, start=start, end=begin)]
    yield from reversed(spans)


def _idle(attempt: _Attempt, life: _Life, window: Window) -> Iterator[Span]:
    training = attempt.students.windows(attempt.now)
    for start, end, wakes in _cut(window, life.wakings):
        if wakes:
            yield Span(state=STARTING, start=start, end=end)
            continue
        for begin, stop, is_training in _cut((start, end), training):
            yield Span(state=OTHER_PHASE if is_training else NO_WORK, start=begin, end=stop)


def _trainer_spans(attempt: _Attempt) -> Iterator[Span]:
    """A training knows when it ends how long it waited for devices and its workers took to start; else it was work."""
    generating = attempt.stages.windows(attempt.now)
    last = attempt.start
    for student in attempt.students.all:
        start, end = student.window(attempt.now)
        yield from _trainer_idle(generating, (last, start))
        granted = min(end, start + student.wait_s)
        begun = min(end, granted + student.start_s)
        yield Span(state=OTHER_PHASE, start=start, end=granted)
        yield Span(state=STARTING, start=granted, end=begun)
        yield Span(state=BUSY, start=begun, end=end)
        last = end
    yield from _trainer_idle(generating, (last, attempt.now))


def _trainer_idle(generating: Sequence[Window], window: Window) -> Iterator[Span]:
    for start, end, is_generating in _cut(window, generating):
        yield Span(state=OTHER_PHASE if is_generating else NO_WORK, start=start, end=end)


def _cut(window: Window, marks: Sequence[Window]) -> Iterator[tuple[float, float, bool]]:
    """The window in pieces, each inside or outside of the marks; marks are in order and do not overlap."""
    last, end = window
    for start, stop in marks:
        start, stop = max(last, start), min(end, stop)
        if start >= stop:
            continue
        if start > last:
            yield last, start, False
        yield start, stop, True
        last = stop
    if end > last:
        yield last, end, False


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Neighbours in one state as one; nothing for spans without a second."""
    merged: list[Span] = []
    for span in spans:
        if span.end <= span.start:
            continue
        if merged and merged[-1].state == span.state and merged[-1].end == span.start:
            span = Span(state=span.state, start=merged.pop().start, end=span.end)
        merged.append(span)
    return merged
