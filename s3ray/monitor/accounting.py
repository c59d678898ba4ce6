"""Where the time of engines and train workers went, from the events of a run: each second has exactly one state.

Pure. The states are ``STATES``. Invariants: the spans of a lane do not overlap and leave no gap, for an engine from its
first start in an attempt to its end, for the train workers over the whole attempt. The time between two attempts is
left out.

Also what generation cost, as device-seconds: the seconds in which engines were busy, not the time that requests took,
as hundreds of requests are under way at once. Where runs share an engine, its busy seconds between two chunks are
divided by the tokens that it computed for each run: output, and prompt tokens that were not cached. No run is charged
for devices that waited.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from s3ray.telemetry import events
from s3ray.telemetry.events import Event
from s3ray.types import EngineReport

STARTING = "starting"
BUSY = "busy"
NO_WORK = "waiting for work"
OTHER_PHASE = "waiting for the other phase"
RECOVERING = "recovering"
STATES = (BUSY, STARTING, NO_WORK, OTHER_PHASE, RECOVERING)
TRAINER = "train workers"
CHECKER = "checker"

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

    ``lived_s`` are the seconds in which its process existed, loading or able to work; ``starts_s`` are the seconds of
    each start that succeeded, ``wakings_s`` those of each return from sleep.
    """

    name: str
    num: int = 1
    spans: list[Span] = field(default_factory=list)
    lived_s: float = 0.0
    starts_s: list[float] = field(default_factory=list)
    wakings_s: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> Counter[str]:
        """Seconds by state, of each one of ``num``."""
        total: Counter[str] = Counter()
        for span in self.spans:
            total[span.state] += span.end - span.start  # type: ignore[assignment]
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Tokens that an engine wrote from ``start`` to ``end`` (unix seconds)."""

    engine: str
    start: float
    end: float
    tokens: int


@dataclass(slots=True, kw_only=True)
class Step:
    """A stage or a training of a run, in unix seconds, cut by the end of the attempt.

    ``workers`` is the number of those that trained; ``seconds`` are those of a training that ended, by part.
    """

    run: str
    name: str
    start: float
    end: float = math.inf
    round: int = 0
    workers: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How a run, or a campaign, spent its time.

    ``engines`` holds a lane for each engine, ``trainers`` one for the train workers (of a campaign: one for each run).
    ``attempts`` are start and end of each; ``steps`` are stages and, in a run, trainings by name, with start and end;
    ``written`` are tokens with the time in which they were written. ``busy_s`` is how long engines were busy for a run,
    by round; a round that was copied from another run counts as if this run had generated it, as that is what the run
    would cost alone.
    """

    engines: tuple[Lane, ...]
    trainers: tuple[Lane, ...]
    attempts: tuple[Window, ...]
    steps: tuple[tuple[str, Window], ...]
    written: tuple[Written, ...]
    trainings: tuple[Step, ...]
    busy_s: Mapping[int, float]

    @property
    def total_s(self) -> float:
        """Seconds of working time: of all attempts, without the pauses between them."""
        return sum(end - start for start, end in self.attempts)

    def working_time(self, time: float) -> float:
        """Seconds of working time before ``time``, which lies in an attempt."""
        place = max(0, bisect_right([start for start, _ in self.attempts], time) - 1)
        return sum(end - start for start, end in self.attempts[:place]) + time - self.attempts[place][0]

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


def seconds_by_state(lanes: Iterable[Lane]) -> dict[str, float]:
    """Seconds in each of ``STATES``, of all engines and workers of some lanes together."""
    total: Counter[str] = Counter()
    for lane in lanes:
        total.update({state: seconds * lane.num for state, seconds in lane.seconds.items()})
    return {state: total[state] for state in STATES}


def account(events: Iterable[Event], campaign: str = "") -> Account:
    """Account for the time of a run from its events, oldest first; ``campaign``: they are those of this campaign.

    A campaign's engines serve many stages at once and many students train at once, so it is treated as one run that
    writes, and trains, while any of its runs does. Its train workers exist only while they start and work, so they
    have no idle time: each run has one lane for them.
    """
    attempts: list[_Attempt] = []
    busy_s: dict[int, float] = {}
    for event in events:
        is_own = campaign in ("", event.run)
        if not attempts or (is_own and attempts[-1].number != event.attempt):
            now = event.time
            attempts.append(_Attempt(number=event.attempt, start=now, now=now, wrote_at=now, busy_s=busy_s))
        attempts[-1].fold(event)
    lanes: dict[str, Lane] = {}
    trainer = Lane(name=TRAINER, num=max((attempt.num_workers for attempt in attempts), default=0))
    for attempt in attempts:
        attempt.close()
        for name, lives in attempt.engines.items():
            lane = lanes.setdefault(name, Lane(name=name))
            lane.spans += _merged(_engine_spans(attempt, lives))
            lane.starts_s += [life.ready - life.start for life in lives if life.ready < math.inf]
            lane.wakings_s += [end - start for life in lives for start, end in life.wakings]
            lane.lived_s += sum(life.end - life.start for life in lives if life.is_process)
        trainer.spans += _merged(_trainer_spans(attempt))
    trainings = tuple(step for attempt in attempts for step in attempt.trainings)
    steps = [step for attempt in attempts for step in _united(attempt.stages)]
    if not campaign:
        steps += [step for attempt in attempts for step in _united(attempt.trainings)]
    return Account(
        engines=tuple(sorted(lanes.values(), key=lambda lane: (len(lane.name), lane.name))),
        trainers=_trainers_by_run(trainings) if campaign else (trainer,) if trainer.num else (),
        attempts=tuple((attempt.start, attempt.now) for attempt in attempts),
        steps=tuple(steps),
        written=tuple(written for attempt in attempts for written in attempt.written),
        trainings=trainings,
        busy_s=busy_s,
    )


class BusyClock:
    """Seconds that each engine was busy since its last report; an engine that was restarted counts from zero."""

    def __init__(self) -> None:
        self._busy_s: dict[str, float] = {}

    def newly(self, engines: Mapping[str, EngineReport]) -> dict[str, float]:
        """Seconds since the chunk before, by engine."""
        newly = {}
        for name, report in engines.items():
            before = self._busy_s.get(name, 0.0)
            newly[name] = report.busy_s - (before if report.busy_s >= before else 0.0)
            self._busy_s[name] = report.busy_s
        return newly


# -- what the events of an attempt say -------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Life:
    """An engine from one start to its end, or (not ``is_process``) its waiting for a place."""

    start: float
    restarts: int = -1
    is_process: bool = True
    ready: float = math.inf
    end: float = math.inf
    ended: type[events.EngineEvent] | None = None
    reports: list[tuple[float, float]] = field(default_factory=list)
    wakings: list[Window] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Attempt:
    number: int
    start: float
    busy_s: dict[int, float]
    now: float
    wrote_at: float
    num_workers: int = 0
    engines: dict[str, list[_Life]] = field(default_factory=dict)
    stages: list[Step] = field(default_factory=list)
    trainings: list[Step] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    _clock: BusyClock = field(default_factory=BusyClock)
    _ready: dict[str, float] = field(default_factory=dict)

    def fold(self, event: Event) -> None:
        self.now = max(self.now, event.time)  # a clock that was set back makes no negative seconds
        match event:
            case events.RunStarted():
                self.num_workers = event.workers
            case events.StageStarted() | events.TrainingStarted():
                self._begin(event)
            case events.StageFinished() | events.TrainingFinished():
                self._end(event)
            case events.RoundLinked():
                self.busy_s[event.round] = event.busy_s
            case events.RunFailed() | events.RunStopped():
                self._cut_steps(event.run)
            case events.ChunkWritten() | events.AnswersDealt():
                for name, report in event.engines.items():
                    self._note_report(name, report)
                if isinstance(event, events.ChunkWritten):
                    self._note_chunk(event)
            case events.EngineEvent():
                self._note_engine(event)

    def close(self) -> None:
        """The end of the attempt cuts what is under way."""
        self._cut_steps()
        for lives in self.engines.values():
            lives[-1].end = min(lives[-1].end, self.now)

    def _cut_steps(self, run: str | None = None) -> None:
        for step in (*self.stages, *self.trainings):
            if run in (None, step.run):
                step.end = min(step.end, self.now)

    def _begin(self, event: events.StageStarted | events.TrainingStarted) -> None:
        step = Step(run=event.run, name=_name(event), start=self.now, round=event.round)
        if isinstance(event, events.StageStarted):
            self.stages.append(step)
            self.wrote_at, self._ready = self.now, {}
        else:
            self.trainings.append(replace(step, workers=event.workers))

    def _end(self, event: events.StageFinished | events.TrainingFinished) -> None:
        for step in (*self.stages, *self.trainings):
            if step.end == math.inf and (step.run, step.name) == (event.run, _name(event)):
                step.end = self.now
                if isinstance(event, events.TrainingFinished):
                    step.seconds = event.seconds

    def _last_life(self, engine: str) -> _Life:
        lives = self.engines.setdefault(engine, [])
        if not lives:
            lives.append(_Life(start=self.now, is_process=False))
        return lives[-1]

    def _note_engine(self, event: events.EngineEvent) -> None:
        match event:
            case events.EngineReady():
                self._last_life(event.engine).ready = self.now
                self._ready.setdefault(event.engine, self.now)
            case events.EngineAwake():
                self._last_life(event.engine).wakings.append((self.now - event.seconds, self.now))
            case events.EngineStarting() | events.EngineWaiting():
                lives = self.engines.setdefault(event.engine, [])
                if lives:  # it may have waited for a place and found one
                    lives[-1].end = min(lives[-1].end, self.now)
                is_process = isinstance(event, events.EngineStarting)
                restarts = event.restarts if isinstance(event, events.EngineStarting) else -1
                lives.append(_Life(start=self.now, restarts=restarts, is_process=is_process))
            case events.EngineLost() | events.EngineGivenUp() | events.EngineStopped():
                life = self._last_life(event.engine)
                life.end = min(life.end, self.now)
                life.ended = type(event)
                if isinstance(event, events.EngineLost):
                    # What it wrote before it was lost comes with the next chunk: its second start is no beginning.
                    self._ready.setdefault(event.engine, self.wrote_at)

    def _note_report(self, engine: str, report: EngineReport) -> None:
        for life in reversed(self.engines.get(engine, [])):
            if life.restarts == report.restarts:
                life.reports.append((min(life.end, self.now), report.busy_s))
                return

    def _note_chunk(self, event: events.ChunkWritten) -> None:
        """What a chunk holds was written since the chunk before it, or since its engine was ready."""
        for name, report in event.engines.items():
            if report.output_tokens:
                start = self._ready.get(name, self.wrote_at)
                self.written.append(Written(engine=name, start=start, end=self.now, tokens=report.output_tokens))
        self.wrote_at, self._ready = self.now, {}
        own = self._clock.newly({name: each for name, each in event.engines.items() if each.own_busy_s is None})
        shared = sum(each.own_busy_s or 0.0 for each in event.engines.values())
        self.busy_s[event.round] = self.busy_s.get(event.round, 0.0) + sum(own.values()) + shared


def _united(steps: Iterable[Step]) -> list[tuple[str, Window]]:
    """The windows of steps by name; steps that overlap are joined under the name of the first."""
    united: list[tuple[str, Window]] = []
    for step in steps:
        name, start, end = step.name, step.start, step.end
        if united and start < united[-1][1][1]:
            name, (start, before) = united.pop()
            end = max(before, end)
        united.append((name, (start, end)))
    return united


def _windows(steps: Iterable[Step]) -> list[Window]:
    return [window for _, window in _united(steps)]


def _name(event: events.StageEvent | events.TrainingStarted | events.TrainingFinished) -> str:
    match event:
        case events.StageEvent():
            return f"round {event.round} {event.stage}"
        case events.CheckerStarted() | events.CheckerFinished():
            return CHECKER
    return f"student {event.round}"


# -- spans -----------------------------------------------------------------------------------------------------------


def _engine_spans(attempt: _Attempt, lives: Sequence[_Life]) -> Iterator[Span]:
    """From its first start to the end of the attempt, or until it was given up or stopped for good."""
    before: type[events.EngineEvent] | None = None
    for life, after in [*pairwise(lives), (lives[-1], None)]:
        ready = min(life.ready, life.end)
        yield Span(state=RECOVERING if before is events.EngineLost else STARTING, start=life.start, end=ready)
        yield from _work(attempt, life, ready)
        before = life.ended or before
        gap = life.end, attempt.now if after is None else after.start
        if life.ended is events.EngineLost:
            yield Span(state=RECOVERING, start=gap[0], end=gap[1])
        elif life.ended is events.EngineStopped:
            before = None
            yield from _absence(attempt, gap, is_last=after is None)


def _absence(attempt: _Attempt, gap: Window, *, is_last: bool) -> Iterator[Span]:
    """The time after an engine was stopped, for a training or for good; if for good, its lane ends."""
    training = _windows(attempt.trainings)
    for start, end, is_training in _cut(gap, training):
        if is_training:
            yield Span(state=OTHER_PHASE, start=start, end=end)
        elif not is_last or any(later >= end for later, _ in training):
            yield Span(state=NO_WORK, start=start, end=end)


def _work(attempt: _Attempt, life: _Life, ready: float) -> Iterator[Span]:
    """A ready engine: busy as it reported, otherwise without work, or waiting for a student to be trained.

    One that slept while a student was trained takes a while to wake up.
    """
    stages = _windows(attempt.stages)
    generating = [(start, stop) for stage in stages for start, stop, wakes in _cut(stage, life.wakings) if not wakes]
    known, last = 0.0, ready
    for now, busy_s in life.reports:
        yield from _until_report(attempt, life, generating, (last, max(last, now)), busy_s - known)
        known, last = busy_s, max(last, now)
    yield from _until_report(attempt, life, generating, (last, life.end), 0.0)


def _until_report(
    attempt: _Attempt, life: _Life, generating: Sequence[Window], window: Window, busy_s: float
) -> Iterator[Span]:
    """Between two reports: ``busy_s`` seconds of work, placed as late as the stages allow."""
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
    training = _windows(attempt.trainings)
    for start, end, wakes in _cut(window, life.wakings):
        if wakes:
            yield Span(state=STARTING, start=start, end=end)
        else:
            yield from _waiting((start, end), training)


def _trainer_spans(attempt: _Attempt) -> Iterator[Span]:
    """A training that ended says how long it waited for devices and for its workers to start; the rest was work."""
    generating = _windows(attempt.stages)
    last = attempt.start
    for training in attempt.trainings:
        start, end = training.start, training.end
        yield from _waiting((last, start), generating)
        granted = min(end, start + max(0.0, training.seconds.get("wait", 0.0)))
        begun = min(end, granted + max(0.0, training.seconds.get("start", 0.0)))
        yield Span(state=OTHER_PHASE, start=start, end=granted)
        yield Span(state=STARTING, start=granted, end=begun)
        yield Span(state=BUSY, start=begun, end=end)
        last = end
    yield from _waiting((last, attempt.now), generating)


def _trainers_by_run(trainings: Iterable[Step]) -> tuple[Lane, ...]:
    lanes: dict[str, Lane] = {}
    for step in sorted(trainings, key=lambda step: step.end):
        if not step.seconds:  # it was cut, so its parts are unknown
            continue
        lane = lanes.setdefault(step.run, Lane(name=step.run, num=step.workers))
        took = {part: step.seconds.get(part, 0.0) for part in ("start", "train", "score")}
        begun = step.end - took["train"] - took["score"]
        lane.spans += [
            Span(state=STARTING, start=begun - took["start"], end=begun),
            Span(state=BUSY, start=begun, end=step.end),
        ]
    return tuple(lanes.values())


def _waiting(window: Window, other_phase: Sequence[Window]) -> Iterator[Span]:
    """Time without work: spent waiting for the other phase while that is under way."""
    for start, end, is_other in _cut(window, other_phase):
        yield Span(state=OTHER_PHASE if is_other else NO_WORK, start=start, end=end)


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
    """Spans with neighbours in the same state joined, and empty spans left out."""
    merged: list[Span] = []
    for span in spans:
        if span.end <= span.start:
            continue
        if merged and merged[-1].state == span.state and merged[-1].end == span.start:
            span = Span(state=span.state, start=merged.pop().start, end=span.end)
        merged.append(span)
    return merged
