"""`s3ray bench`: measures the cells of a sweep, one after the other on one cluster, and writes the profile.

Each cell has a pool of its own, started as a run starts it, and does what a run does: it answers the strategy's
requests, parses in the actors and curates in the driver. Only the journal is not written.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from s3ray.bench.about import count_parameters, identity_of
from s3ray.bench.compare import profile_table
from s3ray.bench.measures import Measured, cell_profile, scaling_of, work_of
from s3ray.bench.profile import PROFILE, Cell, CellProfile, Profile, Sweep, known, write_profile
from s3ray.bench.record import PhaseRecorder
from s3ray.bench.sweep import Options, PromptSource, cells_of, known_prompts, make_sweep, split
from s3ray.cluster import connected, joined, node_facts
from s3ray.config.job import RunConfig
from s3ray.curation.calibrate import Calibration
from s3ray.devices import local_facts
from s3ray.errors import InputError, RunError
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.launch.preflight import Job, check_job, check_placement
from s3ray.machine import collect_rarely
from s3ray.monitor.metrics import per_engine
from s3ray.placement.plan import NodeFacts
from s3ray.redaction import mask
from s3ray.rounds.journal import Tally
from s3ray.rounds.judge import CalibrationJudge, ExampleJudge, NoteJudge, calibration_stage
from s3ray.rounds.stage import Ending, Judge, Stage
from s3ray.storage.run_folder import RunStore
from s3ray.strategies.base import StagePlan
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import EngineLost, EngineReady, Event
from s3ray.telemetry.logs import log_from
from s3ray.types import GenerationRequest, OutcomeStatus

_ANSWER_S = 60.0
"""How long to wait for the engines' counters."""


def bench_job(config: RunConfig, folder: str, console: Console, options: Options) -> None:
    """Measure a job's generation and write profile.json into ``folder``; print the table.

    Raises:
        InputError: job or options are wrong, or something does not fit; nothing was started and nothing written.
        RunError: a cell could not be measured; those before it are in the profile.
    """
    job = check_job(config)
    if not config.generates:
        hint = "It generates nothing. Choose another one, e.g. --set strategy.name=s3."
        raise InputError("has nothing to measure", field="strategy.name", value="gold", hint=hint)
    sweep = make_sweep(config, known_prompts(config, job.task, job.gold), options)
    store = _open(folder)
    with joined(config.cluster.address) as cluster:
        nodes = node_facts() if cluster else local_facts()
        for cell in {cell.engines: cell for cell in cells_of(sweep)}.values():
            check_placement(replace(job, config=cell.config(config)), nodes)
        with connected(config.cluster.address) as words:
            console.print(words, style="dim", highlight=False)
            log_from(run=config.name, phase="start")
            profile = Profiler(job, sweep, store, console).run(node_facts())
    console.print(profile_table(profile))
    console.print(f"Profile: {store.url(PROFILE)}", soft_wrap=True, highlight=False)


def _open(folder: str) -> RunStore:
    store = RunStore(folder)
    store.check_writable()
    if store.has(PROFILE):
        hint = "It stays as it is. Choose another --out, or move it away."
        raise InputError("is there already", where=store.url(PROFILE), hint=hint)
    return store


class Profiler:
    """Measures one cell after the other; prompts and calibration are made once for all of them."""

    def __init__(self, job: Job, sweep: Sweep, store: RunStore, console: Console) -> None:
        self._job = job
        self._sweep = sweep
        self._store = store
        self._console = console
        self._requests: dict[str, list[GenerationRequest]] = {}
        self._calibration: Calibration | None = None
        self._cells: list[CellProfile] = []
        self._notes: list[str] = []
        self._parameters: int | None = None
        model = job.config.generator.model
        if job.config.generator.loads_model:
            self._parameters = known(self._notes, "identity.parameters", lambda: count_parameters(model))
        else:
            self._notes.append("identity.parameters: no weights are loaded here")
        self._devices = per_engine(job.config.model_dump())
        if self._devices is None:
            self._notes.append("identity.devices_per_engine: nobody knows an endpoint's devices")

    def run(self, nodes: Sequence[NodeFacts]) -> Profile:
        """Measure all cells; the profile is on disk after each of them.

        Raises:
            RunError: a cell could not be measured.
        """
        collect_rarely()
        cells, profile = cells_of(self._sweep), None
        for number, cell in enumerate(cells, start=1):
            what = (
                f"{cell.engines} engine{'s' * (cell.engines > 1)} x {cell.max_num_seqs} sequences, "
                f"{cell.requests} {cell.prompts} requests"
            )
            self._console.print(f"cell {number} of {len(cells)}: {what}", style="dim", highlight=False)
            try:
                measured = self._measure(cell, nodes)
            except RunError as error:
                done = f"The {number - 1} cells before it are in {self._store.url(PROFILE)}." if number > 1 else ""
                raise type(error)(error.problem, f"{error.hint}\n  {done}".strip()) from error
            notes: list[str] = []
            self._cells.append(cell_profile(measured, notes))
            self._notes += [f"cells.{number - 1}.{note}" for note in notes]
            profile = self._profile(nodes, measured, is_complete=number == len(cells))
            write_profile(self._store, profile)
            self._console.print(_line(profile.cells[-1]), style="dim", highlight=False, markup=False)
        assert profile is not None, "a sweep has a cell"
        return profile

    def _profile(self, nodes: Sequence[NodeFacts], measured: Measured, *, is_complete: bool) -> Profile:
        """The cells so far; ``measured`` is the last one."""
        notes = list(self._notes)
        return Profile(
            complete=is_complete,
            identity=identity_of(self._job, nodes, measured, notes),
            settings=self._sweep,
            cells=tuple(self._cells),
            scaling=scaling_of(self._sweep, self._cells, notes),
            notes=tuple(notes),
        )

    # -- one cell --------------------------------------------------------------------------------------------------

    def _measure(self, cell: Cell, nodes: Sequence[NodeFacts]) -> Measured:
        wanted = replace(self._job, config=cell.config(self._job.config))
        job, plan = check_placement(wanted, nodes)
        events: list[Event] = []

        def emit(event: Event) -> None:
            events.append(event)
            if isinstance(event, EngineLost):
                self._console.print(mask(f"  {event.engine} was lost: {event.problem}"), style="red", markup=False)

        recorder = PhaseRecorder()
        tasks = only_task(job.config, job.task)
        pool = GeneratorPool(job.config, tasks, plan, emit=emit, recorder=recorder)
        try:
            pool.start_all()
            self._prepare(pool)
            measured, warm_up = split(self._requests[cell.prompts], cell.requests, cell.num_warm_up)
            self._answer(pool, warm_up)
            record = recorder.begin_record()
            # Both refreshes are made while nothing is in flight: their difference is then all of the phase.
            pool.refresh_stats(_ANSWER_S)
            record.timings.clear()  # those of the warm-up came with the counters
            tally, e2e_s = self._answer(pool, measured)
            pool.refresh_stats(_ANSWER_S)
        finally:
            pool.close()
        ready = [event for event in events if isinstance(event, EngineReady)]
        return Measured(
            cell=cell,
            engine=job.config.generator.engine,
            record=record,
            tally=tally,
            e2e_s=e2e_s,
            limits=list({event.engine: event.limits for event in ready}.values()),
            starts_s=[event.seconds for event in ready],
            restarts=sum(isinstance(event, EngineLost) for event in events),
            work=work_of(measured),
            parameters=self._parameters,
            devices_per_engine=self._devices,
            min_seconds=self._sweep.min_seconds,
        )

    def _prepare(self, pool: GeneratorPool) -> None:
        """Make notes and calibration as the first stages of a run do: once, with the first pool, for all cells."""
        if self._requests:
            return
        job, total = self._job, max(cell.requests + cell.num_warm_up for cell in cells_of(self._sweep))
        for name in self._sweep.prompts:
            fingerprint = job.requests["seed" if name == "seed" else "later"]
            source = PromptSource(name, job.config, job.task, job.gold, fingerprint, total)
            notes = {}
            for stage in source.strategy.note_stages(source.context):
                judge = NoteJudge(job.task, stage.keys, stage.num_each)
                _run_stage(pool, stage.plan, judge)
                notes[stage.plan.name] = judge.notes
            if self._calibration is None and _calibrates(job):
                verdicts = CalibrationJudge(job.task)
                plan = calibration_stage(source.context, job.config.curation.calibrate)
                _run_stage(pool, plan, verdicts)
                self._calibration = verdicts.calibration()
            self._requests[name] = source.requests(replace(source.context, notes=notes))

    def _answer(self, pool: GeneratorPool, requests: list[GenerationRequest]) -> tuple[Tally, list[float]]:
        """Have requests answered and judged as in a run. Returns the tally, and the seconds that each answer took."""
        job, tally, seconds = self._job, Tally(), list[float]()
        gold = (*job.gold.extrapolate, *job.gold.select, *job.gold.test)
        judge = ExampleJudge(
            job.task, gold, (), job.config.curation, lambda example: None, calibration=self._calibration
        )

        def record(ending: Ending) -> None:
            tally.add(ending)
            if ending.outcome.status is not OutcomeStatus.FAILED:
                seconds.append(ending.outcome.seconds)

        _run_stage(pool, StagePlan(name="bench", requests=iter(requests)), judge, record)
        return tally, seconds


def _calibrates(job: Job) -> bool:
    curation = job.config.curation
    return job.task.has_labels and curation.verify != "none" and curation.calibrate > 0


def _run_stage(
    pool: GeneratorPool, plan: StagePlan, judge: Judge, record: Callable[[Ending], None] = lambda ending: None
) -> None:
    stage = Stage(plan, judge, record)
    for chunk in pool.generate(stage):
        stage.settle(outcomes_from_table(chunk.table))


def _line(cell: CellProfile) -> str:
    """The result of a cell in one line, for the terminal."""
    steady = "never steady" if cell.steady is None else f"{cell.steady.output_tokens_per_s:.1f} output tokens/s steady"
    flags = f"; not {', not '.join(cell.validity.false)}" if cell.validity.false else ""
    return f"  {steady}, {cell.whole.output_tokens_per_s:.1f} over all, {cell.volumes.accepted} accepted{flags}"
