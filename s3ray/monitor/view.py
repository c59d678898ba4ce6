"""What people want to know of a run, folded from its events. Live progress, status and the report read this.

Invariant: pure. Replaying the events of all attempts gives the same view as having listened; what a restarted attempt
repeats is set, not added, and the time between two attempts counts for nothing.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from s3ray.methods import STAGES_ASIDE
from s3ray.monitor.engines import PoolView
from s3ray.monitor.events import Event

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
    starving: list[str] = field(default_factory=list)
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

    about: Event = field(default_factory=dict)
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
    closed: dict[int, Event] = field(default_factory=dict)
    students: dict[int, Event] = field(default_factory=dict)
    test: dict[str, float] | None = None
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
        if event["attempt"] != self.attempt:
            self._begin_attempt(event)
        elif self.updated is not None:
            self._spend(max(0.0, event["time"] - self.updated))
        self.updated = event["time"]
        fold = _FOLDS.get(event["event"])
        if fold:
            fold(self, event)

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
        return int(self.about.get("rounds", 0))

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
        self.attempt = event["attempt"]
        self.attempt_started = event["time"]
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


def _run_started(view: RunView, event: Event) -> None:
    view.about = event


def _engine(state: str) -> Callable[[RunView, Event], None]:
    def fold(view: RunView, event: Event) -> None:
        view.engines[event["engine"]] = state
        view.pool.engine(event["engine"]).note_state(state, event, view._generate_s)
        view.num_lost += state == "lost"
        if state == "ready" and len(view._points) == 1:
            # The rate of a stage that waited for its engines is measured from the first one that could work.
            view._points[0] = (event["time"], *view._points[0][1:])

    return fold


def _stage_of(view: RunView, event: Event) -> StageView:
    key = (event["round"], event["stage"])
    return view.stages.setdefault(key, StageView(round=key[0], name=key[1]))


def _stage_started(view: RunView, event: Event) -> None:
    stage = _stage_of(view, event)
    stage.target, stage.finished = event["target"], False
    view.stage, view.round = stage, stage.round
    view._points = deque([(event["time"], stage.accepted, stage.output_tokens)])


def _chunk_written(view: RunView, event: Event) -> None:
    stage = _stage_of(view, event)
    name = str(event["chunk"])
    if name in stage.chunks:
        return
    stage.chunks.add(name)
    stage.accepted = event["accepted"]
    stage.outcomes += event["rows"]
    stage.rejected.update(event["rejected"])
    stage.failed.update(event["failed"])
    stage.output_tokens += event["output_tokens"]
    stage.starving = event["starving"]
    ready = {name for name, state in view.engines.items() if state == "ready"}
    view.pool.note_chunk(event, ready, view._generate_s)
    points = view._points
    points.append((event["time"], stage.accepted, stage.output_tokens))
    while len(points) > 2 and points[1][0] <= event["time"] - RATE_WINDOW_S:
        points.popleft()


def _stage_finished(view: RunView, event: Event) -> None:
    stage = _stage_of(view, event)
    stage.accepted, stage.outcomes = event["accepted"], event["requested"]
    stage.rejected, stage.failed = Counter(event["rejected"]), Counter(event["failed"])
    stage.output_tokens, stage.finished = event["output_tokens"], True
    stage.starving = []


def _round_closed(view: RunView, event: Event) -> None:
    view.closed[event["round"]] = event
    view.stage = None


def _student_started(view: RunView, event: Event) -> None:
    view.round = view.student = event["round"]
    view._student_s = 0.0


def _student_finished(view: RunView, event: Event) -> None:
    view.students[event["round"]] = event
    _training_finished(view, event)


def _training_finished(view: RunView, event: Event) -> None:
    num = event["round"]
    view.student = None
    # The trainer knows better than the clock between two events what of that time was start, training and scoring.
    view.spent[num, "train"] -= view._student_s
    for phase in ("start", "train", "score"):
        view.spent[num, phase] += event["seconds"][phase]
    view._student_s = 0.0


def _test_scored(view: RunView, event: Event) -> None:
    view.test = event["test"]


def _run_finished(view: RunView, event: Event) -> None:
    view.ended = "finished"


def _reparsed(view: RunView, event: Event) -> None:
    view.ended = "reparsed"


def _nothing(view: RunView, event: Event) -> None:
    """What changes no number."""


def _run_failed(view: RunView, event: Event) -> None:
    view.ended, view.problem = "failed", event["problem"]


_FOLDS: dict[str, Callable[[RunView, dict[str, Any]], None]] = {
    "run_started": _run_started,
    "engine_starting": _engine("starting"),
    "engine_ready": _engine("ready"),
    "engine_lost": _engine("lost"),
    "engine_waiting": _engine("waiting"),
    "engine_given_up": _engine("given up"),
    "engine_asleep": _engine("asleep"),
    "engine_awake": _engine("ready"),
    "engine_stopped": _engine("stopped"),
    "stage_started": _stage_started,
    "chunk_written": _chunk_written,
    "stage_finished": _stage_finished,
    "round_closed": _round_closed,
    "round_linked": _round_closed,
    "student_linked": _nothing,
    "student_started": _student_started,
    "student_finished": _student_finished,
    "checker_started": _student_started,
    "checker_finished": _training_finished,
    "test_scored": _test_scored,
    "reparsed": _reparsed,
    "run_finished": _run_finished,
    "run_failed": _run_failed,
}
