"""The state of a run, folded from its events, as live progress, status and the report show it.

Pure. Invariant: replaying the events of all attempts gives the same view as listening to them. What a restarted attempt
repeats is not counted twice, and the time between two attempts is not counted. An engine counts from zero after each
start: its counts are kept for each start and added up. Rows and output tokens come with the chunks, each counted once.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from s3ray.config.job import STAGES_ASIDE
from s3ray.telemetry import events
from s3ray.telemetry.events import Event
from s3ray.types import EngineReport

RATE_WINDOW_S = 30.0
SILENT_S = 900.0  # a training epoch on a slow machine takes minutes, without an event

State = Literal["running", "finished", "failed", "stopped", "reparsed", "unknown"]
Phase = Literal["start", "generate", "train", "score"]
MAX_ENGINES_NAMED = 8
"""Up to this many engines are shown with a row each; beyond it, only the pool's totals."""

# An engine process: the attempt of the run, the engine's stops on purpose before it, and its restarts before it.
_Process = tuple[int, int, int]


# -- engines ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sequences computed and waiting, and the share of the KV cache in use (0 to 1; of many engines, the fullest's)."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0

    def peak(self, other: "Load") -> "Load":
        """The larger of each."""
        return Load(
            running=max(self.running, other.running),
            waiting=max(self.waiting, other.waiting),
            kv_use=max(self.kv_use, other.kv_use),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """What an engine did over all its starts, or all engines together.

    Tokens count all work, also for answers that another engine gave first and for those that were lost with an engine.
    Shares are from 0 to 1, None of nothing: ``prefix_hit_rate`` is the share of prompt tokens that came from the prefix
    cache, ``busy_share`` that of the time in which the engine was ready and the run was generating. Peaks are of
    sequences, and of the share of the KV cache in use. ``state`` is that of the last start; None for engines of a
    campaign, and for all together.
    """

    state: str | None = None
    rows: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefix_hit_rate: float | None = None
    peak_running: int = 0
    peak_waiting: int = 0
    peak_kv_use: float = 0.0
    preemptions: int = 0
    restarts: int = 0
    busy_share: float | None = None


@dataclass(slots=True, kw_only=True)
class _Life:
    """One engine process and its last report.

    ``open_from`` and ``open_s`` are seconds in which the run generated: before it was ready, and since then.
    """

    open_from: float
    open_s: float = 0.0
    report: EngineReport = field(default_factory=EngineReport)


@dataclass(slots=True)
class EngineView:
    """One engine: its load, what it wrote in all chunks, its restarts by attempt, and its processes."""

    load: Load = Load()
    rows: int = 0
    output_tokens: int = 0
    restarts: dict[int, int] = field(default_factory=dict)
    lives: dict[_Process, _Life] = field(default_factory=dict)
    _peak: Load = Load()
    _num_stops: int = 0

    @property
    def usage(self) -> EngineMetrics:
        """Its work so far."""
        return _usage([self], self._peak)

    def note_state(self, state: str, event: events.EngineEvent, generate_s: float) -> None:
        """Note its new state. In any but ``ready`` it has no requests in progress."""
        if isinstance(event, events.EngineStarting):
            self.restarts[event.attempt] = event.restarts
        if state == "ready":
            self._life(event, self.restarts.get(event.attempt, 0), generate_s)
        else:
            self.load = Load()
        self._num_stops += state == "stopped"

    def note_report(self, event: Event, report: EngineReport, generate_s: float, *, is_ready: bool) -> None:
        """Add its report from a chunk. A process that has died since still counts, but not for the current load."""
        self.rows += report.rows
        self.output_tokens += report.output_tokens
        life = self._life(event, report.restarts, generate_s)
        life.report = report
        load = Load(running=report.running, waiting=report.waiting, kv_use=report.kv_use)
        self._peak = self._peak.peak(load)
        if is_ready and report.restarts == self.restarts.get(event.attempt, 0):
            self.load = load
            life.open_s = generate_s - life.open_from

    def _life(self, event: Event, restarts: int, generate_s: float) -> _Life:
        process = (event.attempt, self._num_stops, restarts)
        return self.lives.setdefault(process, _Life(open_from=generate_s))


@dataclass(slots=True)
class PoolView:
    """The engines of all attempts, by name. ``has_reported`` is False until a chunk says what an engine does."""

    engines: defaultdict[str, EngineView] = field(default_factory=lambda: defaultdict(EngineView))
    has_reported: bool = False
    _peak: Load = Load()

    @property
    def by_name(self) -> dict[str, EngineView]:
        """The engines in the order of their numbers."""
        return {name: self.engines[name] for name in sorted(self.engines, key=lambda name: (len(name), name))}

    @property
    def load(self) -> Load:
        """The load of all engines together."""
        loads = [engine.load for engine in self.engines.values()]
        return Load(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            kv_use=max((load.kv_use for load in loads), default=0.0),
        )

    @property
    def usage(self) -> EngineMetrics:
        """The work of all engines so far. The peak is that of the pool at one moment, not the sum of peaks."""
        return _usage(self.engines.values(), self._peak)

    def note_chunk(self, event: events.ChunkWritten, ready: Set[str], generate_s: float) -> None:
        """Add the engines' reports that came with a chunk.

        ``ready`` names those that can work; ``generate_s`` is how long the run has been generating.
        """
        for name, report in event.engines.items():
            self.engines[name].note_report(event, report, generate_s, is_ready=name in ready)
            self.has_reported = True
        self._peak = self._peak.peak(self.load)


def _usage(engines: Collection[EngineView], peak: Load) -> EngineMetrics:
    lives = [life for engine in engines for life in engine.lives.values()]
    prompt_tokens = sum(life.report.prompt_tokens for life in lives)
    cached_tokens = sum(life.report.cached_tokens for life in lives)
    busy_s, open_s = sum(life.report.busy_s for life in lives), sum(life.open_s for life in lives)
    return EngineMetrics(
        rows=sum(engine.rows for engine in engines),
        output_tokens=sum(engine.output_tokens for engine in engines),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        prefix_hit_rate=cached_tokens / prompt_tokens if prompt_tokens else None,
        peak_running=peak.running,
        peak_waiting=peak.waiting,
        peak_kv_use=peak.kv_use,
        preemptions=sum(life.report.preemptions for life in lives),
        restarts=sum(sum(engine.restarts.values()) for engine in engines),
        busy_share=min(1.0, busy_s / open_s) if open_s else None,
    )


# -- the run -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class StageView:
    """One stage of one round: how far it is, what its requests became, and which labels will miss their quota."""

    round: int
    name: str
    target: int | None = None
    accepted: int = 0
    outcomes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    starving: tuple[str, ...] = ()
    finished: bool = False
    chunks: set[str] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class RunView:
    """The state of a run after some of its events.

    ``students`` and ``closed`` hold the last ``student_finished`` and ``round_closed`` event by round; ``student`` is
    the round whose student, or the checker before it, is being trained; ``engines``
    maps each engine of the running attempt to ``starting``, ``ready``, ``waiting``, ``lost``, ``asleep``, ``given up``
    or ``stopped``, and ``pool`` says what each did and has in work; ``spent`` holds seconds by round and phase, where
    waiting for engines (``engines``) is apart from the trainer's own ``start``. While a stage is written from the
    mistakes of a student that is still being scored, a second counts for both.
    """

    about: events.RunStarted | None = None
    attempt: int = 0
    updated: float | None = None
    attempt_started: float = 0.0
    total_s: float = 0.0
    ended: Literal["finished", "failed", "stopped", "reparsed"] | None = None
    problem: str = ""
    round: int = 0
    stage: StageView | None = None
    student: int | None = None
    stages: dict[tuple[int, str], StageView] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    pool: PoolView = field(default_factory=PoolView)
    num_lost: int = 0
    closed: dict[int, events.RoundClosed] = field(default_factory=dict)
    students: dict[int, events.StudentFinished] = field(default_factory=dict)
    test: Mapping[str, float] | None = None
    spent: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    _student_s: float = 0.0
    _generate_s: float = 0.0
    _points: deque[tuple[float, int, int]] = field(default_factory=deque)

    @classmethod
    def replay(cls, events: Iterable[Event]) -> "RunView":
        """The view after all of ``events``, oldest first."""
        view = cls()
        for event in events:
            view.apply(event)
        return view

    def apply(self, event: Event) -> None:
        """Apply one event; one that this version does not know only moves the clock."""
        if event.attempt != self.attempt:
            self._begin_attempt(event)
        elif self.updated is not None:
            self._spend(max(0.0, event.time - self.updated))
        self.updated = event.time
        self._fold(event)

    def state(self, now: float) -> State:
        """The state at ``now`` (unix seconds); ``unknown`` after ``SILENT_S`` without an event."""
        if self.ended:
            return self.ended
        return "running" if self.updated is not None and now - self.updated < SILENT_S else "unknown"

    @property
    def phase(self) -> Phase:
        """What the run is doing: starting engines, generating, training, or scoring on the test part."""
        if self.student is not None and not self._is_writing():
            return "train"
        if self._waits_for_engines() or not (self.stages or self.students):
            return "start"
        return "score" if self.last_round in self.students else "generate"

    @property
    def last_round(self) -> int:
        """The number of the last round of this run."""
        return self.about.rounds if self.about else 0

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens per second over the last ``RATE_WINDOW_S`` of chunks of this stage."""
        return self._rate(2)

    @property
    def eta_s(self) -> float | None:
        """Seconds until this stage has its target, at its recent rate of acceptance; None where that is unknown."""
        rate = self._rate(1)
        if not rate or self.stage is None or self.stage.finished or self.stage.target is None:
            return None
        return max(0, self.stage.target - self.stage.accepted) / rate

    def rejected(self, round_: int | None = None) -> Counter[str]:
        """Rejected examples by reason, of one round or of all; stages that take notes write no examples."""
        total: Counter[str] = Counter()
        for stage in self.stages.values():
            if stage.name not in STAGES_ASIDE and round_ in (None, stage.round):
                total.update(stage.rejected)
        return total

    def seconds(self) -> dict[str, float]:
        """Seconds by phase (``start``, ``generate``, ``train``, ``score``), over all rounds and attempts."""
        total = dict.fromkeys(("start", "generate", "train", "score"), 0.0)
        for (_, phase), seconds in self.spent.items():
            total["start" if phase == "engines" else phase] += seconds
        return total

    def _begin_attempt(self, event: Event) -> None:
        self.attempt = event.attempt
        self.attempt_started = event.time
        self.ended, self.problem = None, ""
        self.stage = self.student = None
        self.engines.clear()
        for engine in self.pool.engines.values():
            engine.load = Load()  # the processes of the attempt before are gone
        self._points.clear()

    def _spend(self, seconds: float) -> None:
        self.total_s += seconds
        if self.student is not None:
            self._student_s += seconds
            self.spent[self.student, "train"] += seconds
        elif self._waits_for_engines():
            self.spent[max(self.closed, default=-1) + 1, "engines"] += seconds
        if self.stage is not None and self._is_writing():
            self.spent[self.stage.round, "generate"] += seconds
            self._generate_s += seconds

    def _is_writing(self) -> bool:
        """Whether engines write for a stage, maybe while the student before it is still being scored."""
        if self.stage is None or self.stage.finished or self._waits_for_engines():
            return False
        return self.student is None or self.student < self.stage.round

    def _waits_for_engines(self) -> bool:
        """Whether nothing is written because no engine can work yet, or again."""
        states = set(self.engines.values())
        if "ready" in states or self.last_round in self.closed:
            return False
        return not states.isdisjoint(("starting", "waiting", "lost", "asleep"))

    def _rate(self, column: Literal[1, 2]) -> float | None:
        if len(self._points) < 2:
            return None
        first, last = self._points[0], self._points[-1]
        return (last[column] - first[column]) / max(last[0] - first[0], 1e-3)

    # -- what each event changes -----------------------------------------------------------------------------------

    def _fold(self, event: Event) -> None:
        match event:
            case events.EngineEvent():
                self._note_engine(event)
            case events.StageEvent():
                self._note_stage(event)
            case events.TrainingStarted():
                self.round = self.student = event.round
                self._student_s = 0.0
            case events.TrainingFinished():
                self._note_training(event)
            case events.RunStarted():
                self.about = event
            case events.RoundClosed():
                self.closed[event.round] = event
                self.stage = None
            case events.TestScored():
                self.test = event.test
            case events.Reparsed():
                self.ended = "reparsed"
            case events.RunFinished():
                self.ended = "finished"
            case events.RunFailed():
                self.ended, self.problem = "failed", event.problem
            case events.RunStopped():
                self.ended, self.problem = "stopped", event.problem

    def _note_engine(self, event: events.EngineEvent) -> None:
        state = _ENGINE_STATES[type(event)]
        self.engines[event.engine] = state
        self.pool.engines[event.engine].note_state(state, event, self._generate_s)
        self.num_lost += state == "lost"
        if state == "ready" and len(self._points) == 1:
            # The rate of a stage that waited for its engines is measured from the first one that could work.
            self._points[0] = (event.time, *self._points[0][1:])

    def _note_stage(self, event: events.StageEvent) -> None:
        key = (event.round, event.stage)
        stage = self.stages.setdefault(key, StageView(round=key[0], name=key[1]))
        match event:
            case events.StageStarted():
                stage.target, stage.finished = event.target, False
                self.stage, self.round = stage, stage.round
                self._points = deque([(event.time, stage.accepted, stage.output_tokens)])
            case events.ChunkWritten() if event.chunk not in stage.chunks:
                self._note_chunk(event, stage)
            case events.StageFinished():
                stage.accepted, stage.outcomes = event.accepted, event.requested
                stage.rejected, stage.starving = Counter(event.rejected), ()
                stage.output_tokens, stage.finished = event.output_tokens, True

    def _note_chunk(self, event: events.ChunkWritten, stage: StageView) -> None:
        stage.chunks.add(event.chunk)
        stage.accepted = event.accepted
        stage.outcomes += event.rows
        stage.rejected.update(event.rejected)
        stage.output_tokens += event.output_tokens
        stage.starving = event.starving
        ready = {name for name, state in self.engines.items() if state == "ready"}
        self.pool.note_chunk(event, ready, self._generate_s)
        points = self._points
        points.append((event.time, stage.accepted, stage.output_tokens))
        while len(points) > 2 and points[1][0] <= event.time - RATE_WINDOW_S:
            points.popleft()

    def _note_training(self, event: events.TrainingFinished) -> None:
        self.student = None
        if isinstance(event, events.StudentFinished):
            self.students[event.round] = event
        # The trainer knows better than the clock between two events what of that time was start, training and scoring.
        self.spent[event.round, "train"] -= self._student_s
        for phase in ("start", "train", "score"):
            self.spent[event.round, phase] += event.seconds.get(phase, 0.0)
        self._student_s = 0.0


_ENGINE_STATES: dict[type[events.EngineEvent], str] = {
    events.EngineStarting: "starting",
    events.EngineReady: "ready",
    events.EngineAwake: "ready",
    events.EngineLost: "lost",
    events.EngineWaiting: "waiting",
    events.EngineGivenUp: "given up",
    events.EngineAsleep: "asleep",
    events.EngineStopped: "stopped",
}
