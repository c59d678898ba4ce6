"""The events of a run, one JSON line each: progress, status and the report are made from these alone.

There is one class for each event; its name in the files is the class's in snake case, its keys there are the fields.
A field with a default was added after the first release or is empty in most events: where an older line lacks it, the
default holds. Fields of newer versions are ignored (``docs/metrics.md`` lists all).

Invariant: an event is in the store's hands before any listener hears of it (in ``events.jsonl``; on an object store
some wait a moment, see ``object_store.EventWriter``).
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from s3ray.errors import StoreError
from s3ray.redaction import mask
from s3ray.storage.lineages import Lineage
from s3ray.storage.local import Position
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.logs import move_log
from s3ray.telemetry.records import from_plain, to_plain
from s3ray.types import EngineLimits, EngineReport, EpochReport

Counts = Mapping[str, int]
"""Numbers of requests or rows, by reason or by label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The fields of every event. ``EventLog`` fills in ``time`` (unix seconds), ``run`` and ``attempt`` (from 1).

    What happens within a round also has its ``round`` and ``phase`` (generate, train, score), and while a stage is
    written its ``stage``.
    """

    kind: ClassVar[str] = "event"

    time: float = 0.0
    run: str = ""
    attempt: int = 0
    round: int | None = None
    phase: str | None = None
    stage: str | None = None

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event that another version wrote: only its time and place are known."""


# -- of a run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A driver started the run, for the first time or again (``resumed``).

    ``rounds`` is the number of the last round; ``generator`` is None where nothing is generated.
    """

    task: str
    strategy: str
    generator: str | None
    student: str
    rounds: int
    engines: int
    workers: int
    version: str
    fingerprint: str
    lineage: Lineage | None = None
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvent(Event):
    """An event of one stage of one round."""

    round: int
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(StageEvent):
    """A stage of a round began, or went on with ``known`` outcomes from disk; ``target`` None: one row a request."""

    target: int | None
    known: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWritten(StageEvent):
    """A chunk of outcomes is in the journal; ``accepted`` counts the rows of the whole stage so far.

    ``rejected`` and ``failed`` are by reason; ``starving`` are labels that will miss their quota.
    """

    chunk: str
    rows: int
    ok: int
    rejected: Counts
    failed: Counts
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    engines: Mapping[str, EngineReport]
    accepted: int
    target: int | None
    starving: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished(StageEvent):
    """A stage has its examples, or gave up: ``short`` says by label what is missing.

    ``given_up`` counts requests under way that were not needed any more, ``thinking`` answers that were cut while the
    model was thinking aloud. ``causes`` are the three most frequent reasons for which requests gave nothing, in words,
    where the stage ended short or with nothing.
    """

    requested: int
    accepted: int
    rejected: Counts
    failed: Counts
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    seconds: float
    short: Counts = field(default_factory=dict)
    given_up: int = 0
    thinking: int = 0
    causes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClosed(Event):
    """The round's tables are on disk and its counts balance; ``rows`` is the size of the training set.

    ``off_policy`` of the accepted rows were written from the student before the last one (``strategy.ahead``).
    """

    round: int
    requested: int
    accepted: int
    rejected: Counts
    failed: Counts
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    rows: int
    off_policy: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLinked(RoundClosed):
    """The round is the same as that of another run of the campaign, where it cost ``busy_s`` engine-seconds."""

    from_run: str
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLinked(Event):
    """The student (its folder) is the same as that of another run of the campaign, and was copied."""

    from_run: str
    student: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStarted(Event):
    """A fresh student is being trained."""

    round: int
    rows: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentStarted(TrainingStarted):
    """The student of a round is being trained on all rounds so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerStarted(TrainingStarted):
    """The student that is to weigh written rows is being trained on gold, before the first student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFinished(Event):
    """A student and its score on the selection part are on disk; ``seconds`` are by step (start, train, score ...)."""

    round: int
    rows: int
    best_epoch: int
    epochs: tuple[EpochReport, ...]
    select: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFinished(TrainingFinished):
    """A student and its ``mistakes`` among ``mined`` gold rows are on disk; ``mined`` is None if none were needed."""

    mistakes: int | None = None
    mined: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerFinished(TrainingFinished):
    """The student that weighs written rows is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestScored(Event):
    """The last student answered the test part, once."""

    round: int
    test: Mapping[str, float]
    num_examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reparsed(Event):
    """The generations of another lineage (``parent``) were read again into this one; no engine was asked."""

    parent: str
    rounds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run is complete, ``seconds`` after this start of it."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(Event):
    """The run could not go on; what is on disk is safe."""

    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(Event):
    """A signal (``problem`` names it) ended this start of the run, or of the campaign; the same command goes on."""

    problem: str


# -- of engines: in a run's events, or in those of the campaign whose runs share them ----------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent(Event):
    """An event of one engine of the pool, by its name."""

    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStarting(EngineEvent):
    """It is loading its model on ``nodes``; ``restarts`` counts its restarts since this start of the run."""

    nodes: tuple[str, ...] = ()
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReady(EngineEvent):
    """It can take work, ``seconds`` after it was started, within ``limits``.

    The run goes on with ``running`` (starting or ready) of ``wanted`` engines.
    """

    seconds: float
    limits: EngineLimits
    running: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLost(EngineEvent):
    """It died with ``in_flight`` requests. Other engines take them over, except ``poisoned`` ones."""

    problem: str
    in_flight: int
    poisoned: int = 0
    restarts: int = 0
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWaiting(EngineEvent):
    """It waits for a node with room; the run goes on with ``running`` of ``wanted`` engines."""

    problem: str
    running: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGivenUp(EngineEvent):
    """It died too often, or cannot start; the run goes on with ``running`` of ``wanted`` engines."""

    problem: str
    running: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAsleep(EngineEvent):
    """It freed its GPU's memory for a training (vLLM's sleep ``level``) and keeps its place."""

    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAwake(EngineEvent):
    """It slept and can take work again, ``seconds`` after it was woken."""

    seconds: float
    limits: EngineLimits
    running: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStopped(EngineEvent):
    """It was ended on purpose; ``reason`` is empty where it made way for training, or the run was over."""

    reason: str = ""


# -- of a campaign's own log, beside those of engines and what it takes over from its runs -----------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """The command, commit and machine that a campaign was run with."""

    command: str = ""
    commit: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignStarted(Event):
    """A campaign began or went on, with ``finished`` of its ``runs`` done."""

    runs: int
    finished: int
    made_by: MadeBy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFinished(Event):
    """The campaign ended: all runs are finished, except those that ``failed``."""

    seconds: float
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersDealt(Event):
    """Engines that runs share answered, and the answers went to the runs that had asked."""

    rows: int
    engines: Mapping[str, EngineReport]


_EVENTS: tuple[type[Event], ...] = (
    *(RunStarted, EngineStarting, EngineReady, EngineLost, EngineWaiting, EngineGivenUp, EngineAsleep, EngineAwake),
    *(EngineStopped, StageStarted, ChunkWritten, StageFinished, RoundClosed, RoundLinked, StudentLinked),
    *(StudentStarted, StudentFinished, CheckerStarted, CheckerFinished, TestScored, Reparsed, RunFinished, RunFailed),
    RunStopped,
    *(CampaignStarted, CampaignFinished, AnswersDealt),
)
EVENTS: Mapping[str, type[Event]] = {event.kind: event for event in _EVENTS}
"""All events by their names in the files."""

Listener = Callable[[Event], None]


def event_to_dict(event: Event) -> dict[str, Any]:
    """An event as it stands in the files, secrets masked."""
    plain: dict[str, Any] = mask(to_plain(event))
    head = {name: plain.pop(name) for name in ("time", "run", "attempt")}
    return {**head, "event": event.kind, **plain}


def event_from_dict(record: Mapping[str, Any]) -> Event:
    """An event from the files. The module's docstring says what happens to missing and to unknown fields.

    Raises:
        StoreError: a field is missing that every version wrote, or has another type.
    """
    name = str(record.get("event"))
    return from_plain(EVENTS.get(name, UnknownEvent), record, f"events: {name}")


def read_events(store: RunStore, position: Position | None = None) -> Iterator[Event]:
    """The events of all attempts, oldest first, or those after a position; a line that was cut short is skipped.

    Raises:
        StoreError: see ``event_from_dict``.
    """
    return (event_from_dict(record) for record in store.events(position))


class _At(threading.local):
    """Where a thread is in the run."""

    def __init__(self) -> None:
        self.place: dict[str, Any] = {}


class EventLog:
    """Writes the events of one attempt of one run. Thread-safe; listeners are called with one event at a time."""

    def __init__(self, store: RunStore, run: str, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._run = run
        self._attempt = attempt
        self._clock = clock
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._is_over = False
        self._at = _At()

    def listen(self, listener: Listener) -> None:
        """Hand every later event to ``listener``, after it is on disk."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def within(self, **place: Any) -> Iterator[None]:
        """Put ``place`` (round, phase, stage) into every event of this thread until the block ends.

        Log lines carry round and phase until the next block.
        """
        before, self._at.place = self._at.place, self._at.place | place
        move_log(**self._at.place)
        try:
            yield
        finally:
            self._at.place = before

    def emit(self, event: Event) -> None:
        """Write one event with its time and place, then call the listeners; a place set in the event itself is kept."""
        place = {name: value for name, value in self._at.place.items() if getattr(event, name) is None}
        self.pass_on(replace(event, time=self._clock(), run=self._run, attempt=self._attempt, **place))

    def stop(self, problem: str) -> None:
        """Write that a signal ended this start, as its last event: what threads say while they are torn down is lost.

        If that cannot be written either (a full disk), the process ends all the same.
        """
        with self._lock, contextlib.suppress(StoreError):
            self.emit(RunStopped(problem=problem))
        self._is_over = True

    def pass_on(self, event: Event) -> None:
        """Write an event from the log of a run into its campaign's, unchanged, then call the listeners."""
        record = event_to_dict(event)
        written = event_from_dict(record)
        with self._lock:
            if self._is_over:
                return
            self._store.append_events([record])
            for listener in self._listeners:
                listener(written)
