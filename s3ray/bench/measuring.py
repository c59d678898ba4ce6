"""One pool that is measured: started as a run starts it, warmed up, it answers one set of requests after another.

It does what a run does: answers requests of the job's own strategy, parses in the actors, curates in the driver. Only
the journal is not written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console

from s3ray.bench.about import count_parameters
from s3ray.bench.measures import Measured, work_of
from s3ray.bench.profile import Cell, known
from s3ray.bench.record import PhaseRecorder
from s3ray.bench.sweep import SEED, PromptSource
from s3ray.config.job import RunConfig
from s3ray.curation.calibrate import Calibration
from s3ray.errors import InputError
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.launch.preflight import Job, check_job
from s3ray.monitor.metrics import per_engine
from s3ray.placement.plan import Plan
from s3ray.redaction import mask
from s3ray.rounds.journal import Tally
from s3ray.rounds.judge import CalibrationJudge, ExampleJudge, NoteJudge, calibration_stage
from s3ray.rounds.stage import Ending, Judge, Stage
from s3ray.strategies.base import Notes, StagePlan
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import EngineLost, EngineReady, Event
from s3ray.types import EngineLimits, GenerationRequest, OutcomeStatus

_ANSWER_S = 60.0
"""How long to wait for the engines' counters."""


def check_generating(config: RunConfig, verb: str) -> Job:
    """Check a job that is measured in order to ``verb`` it.

    Raises:
        InputError: it is wrong, or generates nothing.
    """
    job = check_job(config)
    if not config.generates:
        hint = "It generates nothing. Choose another one, e.g. --set strategy.name=s3."
        raise InputError(f"has nothing to {verb}", field="strategy.name", value=config.strategy.name, hint=hint)
    return job


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What engines wrote down before the first measurement: notes by set of prompts and stage, and the calibration."""

    notes: Mapping[str, Mapping[str, Notes]] = field(default_factory=dict)
    calibration: Calibration | None = None


class MeasuredPool:
    """A pool of a job, in a ``with`` block. ``parameters`` of its model is None where nobody knows their number."""

    def __init__(self, job: Job, plan: Plan, console: Console, *, parameters: int | None) -> None:
        self._job = job
        self._console = console
        self._parameters = parameters
        self._devices = per_engine(job.config.model_dump())
        self._events: list[Event] = []
        self._is_warm = False
        self._recorder = PhaseRecorder()
        tasks = only_task(job.config, job.task)
        self._pool = GeneratorPool(job.config, tasks, plan, emit=self._emit, recorder=self._recorder)

    def __enter__(self) -> "MeasuredPool":
        """Start all engines."""
        try:
            self._pool.start_all()
        except BaseException:
            self._pool.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them."""
        self._pool.close()

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, EngineLost):
            self._console.print(mask(f"  {event.engine} was lost: {event.problem}"), style="red", markup=False)

    @property
    def is_warm(self) -> bool:
        """Whether it has answered requests."""
        return self._is_warm

    def limits(self) -> list[EngineLimits]:
        """What each engine resolved."""
        ready = [event for event in self._events if isinstance(event, EngineReady)]
        return list({event.engine: event.limits for event in ready}.values())

    def lost(self) -> EngineLost | None:
        """The first engine that was lost."""
        return next((event for event in self._events if isinstance(event, EngineLost)), None)

    def prepare(self, names: Sequence[str], total: int) -> Prepared:
        """Make notes and calibration for sets of prompts, of ``total`` requests, as the first stages of a run do."""
        job, notes, calibration = self._job, dict[str, Mapping[str, Notes]](), None
        for name in names:
            source = _source(name, job, total)
            kept: dict[str, Notes] = {}
            for stage in source.strategy.note_stages(source.context):
                judge = NoteJudge(job.task, stage.keys, stage.num_each)
                self._run_stage(stage.plan, judge)
                kept[stage.plan.name] = judge.notes
            notes[name] = kept
            if calibration is None and _calibrates(job):
                verdicts = CalibrationJudge(job.task)
                self._run_stage(calibration_stage(source.context, job.config.curation.calibrate), verdicts)
                calibration = verdicts.calibration()
        return Prepared(notes=notes, calibration=calibration)

    def answer(self, requests: list[GenerationRequest], calibration: Calibration | None) -> tuple[Tally, list[float]]:
        """Have requests answered and judged as in a run. Returns the tally, and the seconds that each answer took."""
        job, tally, seconds = self._job, Tally(), list[float]()
        gold = (*job.gold.extrapolate, *job.gold.select, *job.gold.test)
        judge = ExampleJudge(job.task, gold, (), job.config.curation, lambda example: None, calibration=calibration)

        def record(ending: Ending) -> None:
            tally.add(ending)
            if ending.outcome.status is not OutcomeStatus.FAILED:
                seconds.append(ending.outcome.seconds)

        self._run_stage(StagePlan(name="bench", requests=iter(requests)), judge, record)
        self._is_warm = True
        return tally, seconds

    def measure(
        self, cell: Cell, requests: list[GenerationRequest], calibration: Calibration | None, min_seconds: float
    ) -> Measured:
        """Have requests answered, and measure it; the pool must be warm."""
        record = self._recorder.begin_record()
        # Both refreshes are made while nothing is in flight: their difference is then all of the phase.
        self._pool.refresh_stats(_ANSWER_S)
        record.timings.clear()  # those of the warm-up came with the counters
        tally, e2e_s = self.answer(requests, calibration)
        self._pool.refresh_stats(_ANSWER_S)
        ready = [event for event in self._events if isinstance(event, EngineReady)]
        return Measured(
            cell=cell,
            engine=self._job.config.generator.engine,
            record=record,
            tally=tally,
            e2e_s=e2e_s,
            limits=self.limits(),
            starts_s=[event.seconds for event in ready],
            restarts=sum(isinstance(event, EngineLost) for event in self._events),
            work=work_of(requests),
            parameters=self._parameters,
            devices_per_engine=self._devices,
            min_seconds=min_seconds,
        )

    def _run_stage(self, plan: StagePlan, judge: Judge, record: Callable[[Ending], None] = lambda ending: None) -> None:
        stage = Stage(plan, judge, record)
        for chunk in self._pool.generate(stage):
            stage.settle(outcomes_from_table(chunk.table))


def _source(name: str, job: Job, total: int) -> PromptSource:
    fingerprint = job.requests["seed" if name == SEED else "later"]
    return PromptSource(name, job.config, job.task, job.gold, fingerprint, total)


def make_requests(name: str, job: Job, prepared: Prepared, total: int) -> list[GenerationRequest]:
    """``total`` requests of a set of prompts, or as many as the strategy makes; ``prepared`` is for as many."""
    source = _source(name, job, total)
    return source.requests(replace(source.context, notes=prepared.notes[name]))


def parameters_of(config: RunConfig, notes: list[str]) -> int | None:
    """The number of the model's parameters; where it is not known, None and a note."""
    generator = config.generator
    if generator.loads_model:
        return known(notes, "identity.parameters", lambda: count_parameters(generator.model))
    notes.append("identity.parameters: no weights are loaded here")
    return None


def _calibrates(job: Job) -> bool:
    curation = job.config.curation
    return job.task.has_labels and curation.verify != "none" and curation.calibrate > 0
