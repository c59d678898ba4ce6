"""What people want to know of a run, folded from its events. Live progress, status and the report read this.

Invariant: pure. Replaying the events of all attempts gives the same view as having listened; what a restarted attempt
repeats is set, not added, and the time between two attempts counts for nothing.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from s3ray.methods import STAGES_ASIDE
from s3ray.monitor.engines import PoolView
from s3ray.monitor.events import (
    ChunkWritten,
    EngineAsleep,
    EngineAwake,
    EngineEvent,
    EngineGivenUp,
    EngineLost,
    EngineReady,
    EngineStarting,
    EngineStopped,
    EngineWaiting,
    Event,
    Reparsed,
    RoundClosed,
    RunFailed,
    RunFinished,
    RunStarted,
    StageEvent,
    StageFinished,
    StageStarted,
    StudentFinished,
    TestScored,
    TrainingFinished,
    TrainingStarted,
)

RATE_WINDOW_S = 30.0
SILENT_S = 900.0  # a training epoch on a slow machine passes without a word for minutes

State = Literal["running", "finished", "failed", "reparsed", "unknown"]
Phase = Literal["start", "generate", "train", "score"]


@dataclass(slots=True, kw_only=True)
class StageView:
    """One stage of one round: how far it is, what its requests became, and which labels will miss their quota."""

    round: int
    name: str
    target: int | None = None
    accepted: int = 0
    outcomes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
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

    about: RunStarted | None = None
    attempt: int = 0
    updated: float | None = None
    attempt_started: float = 0.0
    total_s: float = 0.0
    ended: Literal["finished", "failed", "reparsed"] | None = None
    problem: str = ""
    round: int = 0
    stage: StageView | None = None
    student: int | None = None
    stages: dict[tuple[int, str], StageView] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    pool: PoolView = field(default_factory=PoolView)
    num_lost: int = 0
    closed: dict[int, RoundClosed] = field(default_factory=dict)
    students: dict[int, StudentFinished] = field(default_factory=dict)
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
        """Fold one event in. An event of a name unknown to this version only moves the clock."""
        if event.attempt != self.attempt:
            self._begin_attempt(event)
        elif self.updated is not None:
            self._spend(max(0.0, event.time - self.updated))
        self.updated = event.time
        self._fold(event)

    def state(self, now: float) -> State:
        """Whether the run goes on at ``now`` (unix seconds); ``unknown`` after ``SILENT_S`` without a word."""
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
        """Rejections of examples by reason, of one round or of all; what a note stage lost is no example."""
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
        self.pool.begin_attempt()
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
            case EngineEvent():
                self._note_engine(event)
            case StageEvent():
                self._note_stage(event)
            case TrainingStarted():
                self.round = self.student = event.round
                self._student_s = 0.0
            case TrainingFinished():
                self._note_training(event)
            case RunStarted():
                self.about = event
            case RoundClosed():
                self.closed[event.round] = event
                self.stage = None
            case TestScored():
                self.test = event.test
            case Reparsed():
                self.ended = "reparsed"
            case RunFinished():
                self.ended = "finished"
            case RunFailed():
                self.ended, self.problem = "failed", event.problem

    def _note_engine(self, event: EngineEvent) -> None:
        state = _ENGINE_STATES[type(event)]
        self.engines[event.engine] = state
        self.pool.engine(event.engine).note_state(state, event, self._generate_s)
        self.num_lost += state == "lost"
        if state == "ready" and len(self._points) == 1:
            # The rate of a stage that waited for its engines is measured from the first one that could work.
            self._points[0] = (event.time, *self._points[0][1:])

    def _note_stage(self, event: StageEvent) -> None:
        key = (event.round, event.stage)
        stage = self.stages.setdefault(key, StageView(round=key[0], name=key[1]))
        match event:
            case StageStarted():
                stage.target, stage.finished = event.target, False
                self.stage, self.round = stage, stage.round
                self._points = deque([(event.time, stage.accepted, stage.output_tokens)])
            case ChunkWritten() if event.chunk not in stage.chunks:
                self._note_chunk(event, stage)
            case StageFinished():
                stage.accepted, stage.outcomes = event.accepted, event.requested
                stage.rejected, stage.failed = Counter(event.rejected), Counter(event.failed)
                stage.output_tokens, stage.finished = event.output_tokens, True
                stage.starving = ()

    def _note_chunk(self, event: ChunkWritten, stage: StageView) -> None:
        stage.chunks.add(event.chunk)
        stage.accepted = event.accepted
        stage.outcomes += event.rows
        stage.rejected.update(event.rejected)
        stage.failed.update(event.failed)
        stage.output_tokens += event.output_tokens
        stage.starving = event.starving
        ready = {name for name, state in self.engines.items() if state == "ready"}
        self.pool.note_chunk(event, ready, self._generate_s)
        points = self._points
        points.append((event.time, stage.accepted, stage.output_tokens))
        while len(points) > 2 and points[1][0] <= event.time - RATE_WINDOW_S:
            points.popleft()

    def _note_training(self, event: TrainingFinished) -> None:
        self.student = None
        if isinstance(event, StudentFinished):
            self.students[event.round] = event
        # The trainer knows better than the clock between two events what of that time was start, training and scoring.
        self.spent[event.round, "train"] -= self._student_s
        for phase in ("start", "train", "score"):
            self.spent[event.round, phase] += event.seconds[phase]
        self._student_s = 0.0


_ENGINE_STATES: dict[type[EngineEvent], str] = {
    EngineStarting: "starting",
    EngineReady: "ready",
    EngineAwake: "ready",
    EngineLost: "lost",
    EngineWaiting: "waiting",
    EngineGivenUp: "given up",
    EngineAsleep: "asleep",
    EngineStopped: "stopped",
}
