"""metrics.json: the results of a run in numbers, gathered from the files of its folder.

Invariant: every round balances (requested = accepted + rejected + failed), or there is no metrics.json.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from s3ray.errors import StoreError
from s3ray.monitor.accounting import STATES, Account, Lane, account, seconds_by_state
from s3ray.monitor.run_view import EngineMetrics, RunView
from s3ray.storage.contents import ScoreRecord
from s3ray.storage.run_folder import CHECKER_SCORE, METRICS, RunStore
from s3ray.telemetry.events import Counts, Event
from s3ray.telemetry.records import from_plain, to_plain

SCHEMA = 1
_PHASES = ("generate", "train", "score", "start")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMetrics:
    """What became of the requests of one stage.

    ``rejected`` and ``failed`` count requests by reason, ``short`` the rows that are missing by label; ``seconds`` are
    those of the driver's start that ended the stage.
    """

    requested: int = 0
    accepted: int = 0
    rejected: Counts = field(default_factory=dict)
    failed: Counts = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    short: Counts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSeconds:
    """What a round cost, in seconds times devices; None where the devices are unknown or nothing was measured."""

    generate: float | None = None
    train: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMetrics:
    """One round: what became of its requests, and the student that was trained after it.

    ``rejected`` and ``failed`` count requests by reason. ``output_tokens_per_s`` is None where nothing was written.
    ``rows`` is the size of the training set; ``off_policy`` of the accepted rows were written from mistakes of the
    student before the last one (``strategy.ahead``). Of the student, None while it is not trained: ``select`` (its
    scores on the selection part, 0 to 1, by metric), ``mistakes`` among ``mined`` gold rows (None also if it was asked
    none), ``best_epoch``. ``seconds`` are by phase (``generate``, ``train``, ``score``, ``start``), ``stages`` by name.
    """

    round: int
    requested: int = 0
    accepted: int = 0
    rejected: Counts = field(default_factory=dict)
    failed: Counts = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    output_tokens_per_s: float | None = None
    rows: int = 0
    off_policy: int = 0
    select: Mapping[str, float] | None = None
    mistakes: int | None = None
    mined: int | None = None
    best_epoch: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, StageMetrics] = field(default_factory=dict)
    device_s: DeviceSeconds = field(default_factory=DeviceSeconds)


def count_reasons(rounds: Iterable[RoundMetrics], *outcomes: Literal["rejected", "failed"]) -> Counter[str]:
    """How many requests of some rounds were rejected, or failed, or either, by reason."""
    total: Counter[str] = Counter()
    for entry in rounds:
        for outcome in outcomes:
            total.update(getattr(entry, outcome))
    return +total


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerMetrics:
    """The student that checks synthetic rows; ``select`` by metric (0 to 1), ``seconds`` by phase."""

    rows: int
    best_epoch: int
    select: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMetrics:
    """The engines by name, and all together; the peaks of ``total`` are those of the pool at one moment."""

    engines: Mapping[str, EngineMetrics] = field(default_factory=dict)
    total: EngineMetrics = field(default_factory=EngineMetrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeShares:
    """Total ``seconds``, and the share of each state in them. Shares add up to 1; without seconds they are None.

    ``workers`` is the number of train workers, None for engines.
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
    """How some lanes spent their time."""
    total = seconds_by_state(lanes)
    seconds = sum(total.values())
    each = {state.replace(" ", "_"): spent / seconds if seconds else None for state, spent in total.items()}
    return TimeShares(workers=workers, seconds=seconds, **each)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeMetrics:
    """How engines and train workers spent their time, by name and in total."""

    engines: Mapping[str, TimeShares]
    trainers: Mapping[str, TimeShares]
    total: TimeShares


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The results of a run, finished or so far.

    ``kind`` is ``classification`` or ``span``; ``generator`` is None where none writes. ``metric`` names the score that
    decides; None before the first student. ``test`` holds the last student's scores on the ``num_test`` rows of the
    test part (0 to 1, by metric); None until it was read. ``seconds`` are by phase and in ``total``, over all
    ``attempts`` (starts of the driver). ``engine_busy_share`` (0 to 1) is of the time in which engines existed,
    ``engine_start_s`` the mean seconds of a start. ``time`` and these two are None for runs that did not measure them.
    """

    run: str
    task: str
    kind: str
    strategy: str
    generator: str | None
    student: str
    seed: int
    engines: int
    workers: int
    fingerprint: str
    metric: str | None = None
    rounds: tuple[RoundMetrics, ...] = ()
    test: Mapping[str, float] | None = None
    num_test: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    checker: CheckerMetrics | None = None
    attempts: int = 0
    engines_lost: int = 0
    pool: PoolMetrics = field(default_factory=PoolMetrics)
    engine_busy_share: float | None = None
    engine_start_s: float | None = None
    time: TimeMetrics | None = None

    @property
    def scored(self) -> list[tuple[int, float]]:
        """(round, deciding score on the selection part) of every student."""
        name = self.metric
        return [(each.round, each.select[name]) for each in self.rounds if each.select and name]

    @property
    def score(self) -> float | None:
        """The deciding score on the test part; None until it was read."""
        return self.test[self.metric] if self.test and self.metric else None

    def as_dict(self) -> dict[str, Any]:
        """The content of metrics.json (schema 1)."""
        plain: dict[str, Any] = {"schema": SCHEMA, **to_plain(self)}
        num_test = plain.pop("num_test")
        if self.test is not None:
            plain["test"] = {**self.test, "num_examples": num_test}
        del plain["pool"]["total"]["state"]
        return plain


def read_metrics(store: RunStore) -> Metrics:
    """metrics.json of a run, also of one that an older commit made: what it did not measure is None or empty.

    Raises:
        StoreError: it cannot be read.
    """
    plain = store.read_record(METRICS, dict[str, Any])
    test = plain.get("test")
    if isinstance(test, Mapping):
        plain["test"] = {name: value for name, value in test.items() if name != "num_examples"}
        plain["num_test"] = test.get("num_examples")
    return from_plain(Metrics, plain, store.url(METRICS))


def build_metrics(store: RunStore, events: Sequence[Event]) -> Metrics:
    """The results of a run, finished or not; ``events`` are all of its events.

    A round counts once its round.json or score.json is on disk; scores and mistakes are None while its student is not
    trained. ``checker`` is None where no row is weighed.

    Raises:
        StoreError: a file cannot be read, or a round does not balance.
    """
    view, time_account = RunView.replay(events), account(events)
    students = {num: _read(_Score, store, store.score(num)) for num in store.students()}
    last = students[max(students)] if students else None
    checker = _read(CheckerMetrics, store, CHECKER_SCORE) if store.has(CHECKER_SCORE) else None
    rounds = tuple(_rounds(store, view, time_account, students))
    all_seconds = [each.seconds for each in rounds] + ([checker.seconds] if checker else [])
    return Metrics(
        **_identity(store),
        metric=last.main if last else None,
        rounds=rounds,
        test=last.test or None if last else None,
        num_test=last.num_test if last and last.test else None,
        seconds={"total": view.total_s} | {phase: sum(s.get(phase, 0.0) for s in all_seconds) for phase in _PHASES},
        checker=checker,
        attempts=view.attempt,
        engines_lost=view.num_lost,
        pool=PoolMetrics(
            engines={
                name: replace(engine.usage, state=view.engines.get(name)) for name, engine in view.pool.by_name.items()
            },
            total=view.pool.usage,
        ),
        engine_busy_share=time_account.engine_busy_share,
        engine_start_s=time_account.engine_start_s,
        time=TimeMetrics(
            engines={lane.name: shares([lane]) for lane in time_account.engines},
            trainers={lane.name: shares([lane], workers=lane.num) for lane in time_account.trainers},
            total=shares(time_account.lanes),
        ),
    )


def _identity(store: RunStore) -> dict[str, Any]:
    """Which run this is."""
    config = store.read_job()
    generator, name = config["generator"], config["strategy"]["name"]
    span = store.has(store.gold("select")) and "answers" in store.read_table(store.gold("select")).column_names
    return {
        "run": config["name"],
        "task": _task_name(config["task"]),
        "kind": "span" if span else "classification",
        "strategy": name,
        "generator": None if name == "gold" else generator["model"] or generator["engine"],
        "student": config["student"]["model"],
        "seed": config["seed"],
        "engines": generator["engines"],  # asked for; those that were placed are in ``run_started``
        "workers": config["student"]["workers"],
        "fingerprint": store.identity()["fingerprint"],
    }


def _task_name(task: str) -> str:
    """The task's name; of a task file its name without the path, as metrics and cards are passed on to others."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def _read(kind: type[_Value], store: RunStore, name: str) -> _Value:
    return from_plain(kind, store.read_record(name, ScoreRecord), store.url(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score(CheckerMetrics):
    """What is read of a student's score.json: what a checker's holds, and how it did on the other parts of gold."""

    mistakes: int | None
    mined: int | None
    main: str
    test: Mapping[str, float] | None
    num_test: int | None


def _rounds(
    store: RunStore, view: RunView, time_account: Account, students: Mapping[int, _Score]
) -> Iterator[RoundMetrics]:
    config = store.read_job()
    devices, workers = per_engine(config), config["student"]["workers"]
    closed = store.rounds()
    for num in sorted({*students, *closed}):
        written = _written(store, num) if num in closed else RoundMetrics(round=num)
        student = students.get(num)
        # The events know the seconds of all attempts, and which of them were spent waiting for engines.
        generate_s = view.spent.get((num, "generate"), written.seconds.get("generate", 0.0))
        trained = student.seconds if student else {"start": 0.0, "train": 0.0, "score": 0.0}
        # The rate counts the tokens of every stage that took time; the round's own counts leave notes out.
        tokens = sum(stage.output_tokens for stage in written.stages.values())
        written = replace(
            written,
            output_tokens_per_s=tokens / generate_s if generate_s else None,
            seconds={
                "generate": generate_s,
                "train": trained["train"],
                "score": trained["score"],
                "start": trained["start"] + view.spent[num, "engines"],
            },
            device_s=DeviceSeconds(
                generate=None if devices is None else time_account.busy_s.get(num, 0.0) * devices,
                train=training_s(student.seconds, workers) if student else 0.0,
            ),
        )
        if student is not None:
            written = replace(
                written,
                rows=student.rows,
                select=student.select,
                mistakes=None if student.mined is None else student.mistakes,
                mined=student.mined,
                best_epoch=student.best_epoch,
            )
        yield written


def _written(store: RunStore, num: int) -> RoundMetrics:
    """What round.json says: requests, tokens, rows and stages, and the seconds of the start that closed the round.

    Raises:
        StoreError: it cannot be read, or the requests that ended are not those that were made.
    """
    name = store.round_report(num)
    plain = store.read_record(name, dict[str, Any])
    plain |= {"round": num, "seconds": {"generate": plain.get("seconds", 0.0)}}
    written = from_plain(RoundMetrics, plain, store.url(name))
    ended = written.accepted + count_reasons([written], "rejected", "failed").total()
    if ended != written.requested:
        problem = f"round {num} does not balance: {written.requested} requested, {ended} ended"
        raise StoreError(problem, hint="This is a defect of s3ray: please report it with the run folder.")
    return written


def per_engine(config: Mapping[str, Any]) -> float | None:
    """Devices that an engine of a resolved job holds; None for endpoints, whose devices are unknown."""
    generator = config["generator"]
    if generator["engine"] == "openai":
        return None
    devices: float = generator["tensor_parallel"] * generator["pipeline_parallel"] * generator["gpu_share"]
    return devices


def training_s(seconds: Mapping[str, float], workers: int) -> float:
    """Device-seconds of a student from ``seconds`` of its score.json: of all workers, training and scoring.

    ``workers`` are the job's; in a campaign a student may have got fewer, and knows (``all_workers``).
    """
    return seconds.get("all_workers", workers * (seconds["train"] + seconds["score"]))
