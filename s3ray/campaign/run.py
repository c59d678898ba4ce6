"""Runs a grid of jobs on one cluster: one pool, one queue for training, one folder and one thread for each run."""

import contextlib
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from s3ray.campaign.report import to_markdown, write_comparison
from s3ray.campaign.results import (
    PlannedStudent,
    check_finished,
    is_finished,
    num_students_left,
    planned_students,
    read_result,
)
from s3ray.campaign.reuse import SharedWork, TrainedStudent, copy_round, trained_students
from s3ray.campaign.sharing import DeviceQueue, Devices, PoolService, Remaining, RunGenerator, RunTrainer
from s3ray.campaign.table import Results, Row, compare
from s3ray.cluster import connected, node_facts
from s3ray.config.grid import Campaign, GridRun
from s3ray.config.job import RunConfig, to_yaml
from s3ray.errors import RunError, S3RayError, located
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.shared_pool import SharedSource, Sharing, Urgency
from s3ray.generator.worker import ServedTask
from s3ray.launch.preflight import Job, check_job, check_placement, try_student
from s3ray.launch.revisions import Revisions, kept_commits
from s3ray.launch.run import Callbacks, carry_out, make_trainer, make_workers, next_attempt, recorded_failures
from s3ray.monitor.accounting import account
from s3ray.monitor.prometheus import RayMetrics
from s3ray.monitor.run_view import RunView
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts, Plan, in_words
from s3ray.rounds.students import Trainer
from s3ray.stopping import why_stopped
from s3ray.storage.contents import RoundRecord
from s3ray.storage.local import join
from s3ray.storage.run_folder import RunStore, locked
from s3ray.student.trained import questions, training_id
from s3ray.telemetry import events
from s3ray.telemetry.events import Event, EventLog, read_events
from s3ray.telemetry.logs import log_apart, move_log
from s3ray.telemetry.provenance import code_version
from s3ray.telemetry.records import from_plain
from s3ray.types import StudentJob

_PASSED_ON = (
    *(events.RunStarted, events.StageStarted, events.StageFinished, events.RoundClosed, events.StudentStarted),
    *(events.StudentFinished, events.CheckerStarted, events.CheckerFinished, events.TestScored, events.RunFinished),
    *(events.RunFailed, events.RunStopped),
)
"""Events of single runs that also stand in the campaign's own log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run of the campaign, ready to go."""

    number: int
    spec: GridRun
    job: Job
    plan: Plan
    store: RunStore

    @property
    def served_task(self) -> str:
        """A key for what the run's requests need in the actors; runs that need the same have the same key."""
        served = ServedTask.of(self.job.config, self.job.task)
        return f"{self.job.settings['task_content']}/{served.clean}/{served.verify}"

    def work(self, student: StudentJob) -> float:
        """How much a student is to learn: rows times epochs."""
        rows = self.store.read_record(self.store.round_report(student.round), RoundRecord)["rows"]
        return float(rows * self.job.config.student.epochs)

    @property
    def planned(self) -> tuple[PlannedStudent, ...]:
        """What its rounds should write and its students learn."""
        return planned_students(self.job.config, len(self.job.gold.extrapolate))

    def urgency(self) -> Urgency:
        """By priority, by the number of students left to train, by the work of the next one, by the order of the grid.

        Most students and most work go first: what is long must not begin last.
        """
        num_left = num_students_left(self.store, self.job.config)
        next_work = self.planned[-num_left].work if num_left else 0
        return (-self.spec.priority, -num_left, -next_work, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a campaign; ``str`` gives its tables of scores as Markdown.

    ``rows`` compare what is finished, ``results`` holds the finished runs by name, ``failed`` the names of the runs
    that could not go on. ``page`` is where compare.html lies; None while no run is finished.
    """

    campaign: Campaign
    folder: str
    rows: Sequence[Row]
    results: Results
    failed: Sequence[str]
    page: str | None

    def __str__(self) -> str:
        return to_markdown(self.campaign, self.rows)

    def raise_failed(self) -> None:
        """Raise if some of the runs could not go on.

        Raises:
            RunError: names them; the others are finished, and the same call goes on.
        """
        if self.failed:
            status = f"`{shlex.join(['s3ray', 'status', join(self.folder, self.failed[0])])}` says why."
            hint = f"The others are finished. The same command goes on; {status}"
            num = f"{len(self.failed)} of {len(self.campaign.runs)}"
            raise RunError(f"{num} runs could not go on: {', '.join(self.failed)}", hint)


def run_campaign(campaign: Campaign, folder: str, *, command: str, callbacks: Callbacks) -> Comparison:
    """Run a grid to its end, or go on with it; then write its comparison, which names ``command``.

    A run that cannot go on leaves the others alone and is among ``failed``.

    Raises:
        InputError: a job of it cannot run; nothing was started.
    """
    own = RunStore(folder)
    stores = {run.name: RunStore(join(folder, run.name)) for run in campaign.runs}
    todo = [run for run in campaign.runs if not is_finished(stores[run.name], run.config)]
    for run in campaign.runs:
        if run not in todo:
            check_finished(stores[run.name], run.config)
    failed = _finish(campaign, todo, stores, own, command, callbacks) if todo else []
    finished = [run.name for run in campaign.runs if is_finished(stores[run.name], run.config)]
    results = {name: read_result(stores[name]) for name in finished}
    rows = compare(campaign, results)
    if rows:
        write_comparison(own, campaign, rows, results, list(read_events(own)))
    page = own.url("compare.html") if rows else None
    return Comparison(campaign=campaign, folder=folder, rows=rows, results=results, failed=failed, page=page)


def _finish(
    campaign: Campaign,
    todo: Sequence[GridRun],
    stores: Mapping[str, RunStore],
    own: RunStore,
    command: str,
    callbacks: Callbacks,
) -> list[str]:
    """Run what is not finished. Returns the names of those that failed."""
    jobs = {}
    for spec in todo:
        with located(f"{campaign.file}: {spec.name}"):
            jobs[spec.name] = check_job(spec.config)
    revisions = Revisions(callbacks.on_note, others=stores.values())
    for name, job in jobs.items():
        stores[name].check(job.settings, job.places)
        with located(f"{campaign.file}: {name}"):
            job = jobs[name] = revisions.pin(job, stores[name])
            if note := try_student(job, stores[name]):
                callbacks.on_note(note)
    with contextlib.ExitStack() as cluster:
        with located(campaign.file):
            words = cluster.enter_context(connected(todo[0].config.cluster.address))
        callbacks.on_note(words)
        nodes = node_facts()
        runs = []
        for spec in todo:
            with located(f"{campaign.file}: {spec.name}"):
                job, plan = check_placement(jobs[spec.name], nodes)
            number = campaign.runs.index(spec)
            runs.append(_Run(number=number, spec=spec, job=job, plan=plan, store=stores[spec.name]))
        with locked([own, *(run.store for run in runs)], callbacks.on_note):
            for run in runs:
                run.store.check(run.job.settings, run.job.places)
                task = run.job.task.spec.model_dump(mode="json")
                kept = kept_commits(run.job.config)
                run.store.create(
                    run.job.settings, to_yaml(run.job.config), requests=run.job.requests, task=task, **kept
                )
            log = EventLog(own, campaign.config.name, attempt=next_attempt(own))
            made_by = events.MadeBy(command=command, commit=code_version(), machine=in_words(nodes))
            log.emit(events.CampaignStarted(runs=len(stores), finished=len(stores) - len(runs), made_by=made_by))
            return _run_all(
                _Shared(campaign=campaign, store=own, nodes=nodes, log=log, callbacks=callbacks), runs, stores.values()
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What all runs of a campaign share. ``log`` is the campaign's own; seed sets and students are made only once.

    ``store`` is the campaign's own folder.
    """

    campaign: Campaign
    store: RunStore
    nodes: Sequence[NodeFacts]
    log: EventLog
    callbacks: Callbacks
    metrics: RayMetrics = field(default_factory=RayMetrics)
    seeds: SharedWork[RunStore] = field(default_factory=SharedWork)
    students: SharedWork[TrainedStudent] = field(default_factory=SharedWork)


def _run_all(shared: _Shared, runs: Sequence[_Run], stores: Iterable[RunStore]) -> list[str]:
    """Run what is not finished, runs with the same generator together; ``stores`` are of all runs of the campaign.

    Returns the names of the runs that failed.
    """
    name, started = shared.campaign.config.name, time.monotonic()
    move_log(run=name)
    shared.log.listen(shared.metrics.of(name, RunView()))
    for key, student in trained_students(stores):
        shared.students.note(key, student)
    for store in stores:
        # A light copy of a finished run has the marker at the most.
        if 0 in store.rounds() and store.has(store.accepted(0)):
            shared.seeds.note(store.requests["seed"], store)
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        groups.setdefault(run.job.config.generator.model_dump_json(), []).append(run)
    failed = [name for group in groups.values() for name in _Group(shared, group).run()]
    shared.log.emit(events.CampaignFinished(seconds=time.monotonic() - started, failed=tuple(failed)))
    return failed


class _Group:
    """Runs with the same generator, all at once: one pool answers their requests, one queue hands out devices."""

    def __init__(self, shared: _Shared, runs: Sequence[_Run]) -> None:
        self._shared = shared
        self._runs = runs
        self._under_way: dict[str, EventLog] = {}
        # By run: rounds that are to be closed, and students that are to be trained.
        self._todo = {run.spec.name: _todo(run) for run in runs}
        self._is_stopped = False
        nodes, settings = shared.nodes, shared.campaign.config
        passes = _passes_devices(runs[0].job.config, nodes)
        self._num_trainings = 1 if passes else settings.trainings
        config = config_of_all(shared.campaign, [run.job.config for run in runs], passes)
        self._plan = plan_placement(config, nodes)
        source = SharedSource()
        self._devices = DeviceQueue(
            _devices(config, self._plan, nodes, settings.trainings, passes),
            lambda: source.num_customers,
            lambda: pool.num_units,
            self._remaining,
        )
        tasks = {run.served_task: ServedTask.of(run.job.config, run.job.task) for run in runs}
        sharing = Sharing(source=source, num_allowed=self._devices.num_allowed)
        pool = GeneratorPool(config, tasks, self._plan, emit=shared.log.emit, sharing=sharing)
        self._service = PoolService(pool, source, emit=shared.log.emit, on_busy=self._note_busy)
        self._workers = make_workers(self._plan, shared.store, settings.name)

    def run(self) -> list[str]:
        """Run each in a thread of its own; returns the names of those that failed, which leave the others alone."""
        failed: list[str] = []
        # Daemons: Ctrl-C ends the process although Ray Train waits in one of them. What is on disk is safe.
        threads = [
            threading.Thread(target=self._guarded, args=(run, failed), name=run.spec.name, daemon=True)
            for run in self._runs
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as error:
            self._stop(why_stopped(error))
            raise
        finally:
            self._service.close()
            self._workers.close()
        return failed

    def _stop(self, problem: str) -> None:
        """Note in the events of the campaign, and of each run under way, that a signal ended this start."""
        self._is_stopped = True
        for log in list(self._under_way.values()):
            log.stop(problem)
        self._shared.log.stop(problem)

    def _guarded(self, run: _Run, failed: list[str]) -> None:
        try:
            self._carry_out(run)
        except S3RayError as error:
            if self._is_stopped:  # torn down with the process
                return
            failed.append(run.spec.name)
            self._todo[run.spec.name] = ((), ())
            self._shared.callbacks.on_note(f"[{run.spec.name}] {error}")

    def _carry_out(self, run: _Run) -> None:
        """Carry out one run, in its own thread."""
        name, shared = run.spec.name, self._shared
        log_apart(run=name)
        log = self._under_way[name] = EventLog(run.store, name, attempt=next_attempt(run.store))
        log.listen(shared.callbacks.on_event)
        log.listen(shared.metrics.of(name, RunView.replay(read_events(run.store))))
        log.listen(lambda event: shared.log.pass_on(event) if type(event) in _PASSED_ON else None)
        log.listen(partial(self._note_progress, run))
        plan = replace(self._plan, num_workers=run.plan.num_workers)
        generator = RunGenerator(service=self._service, served_task=run.served_task, urgency=run.urgency)
        try:
            with recorded_failures(run.store, log), _seed_set(run, log, shared.seeds):
                carry_out(run.job, plan, run.store, log, generator, self._trainer(run, log))
        finally:
            del self._under_way[name]

    def _trainer(self, run: _Run, log: EventLog) -> RunTrainer:
        return RunTrainer(
            make_trainer=partial(self._trainer_with, run),
            most_workers=run.job.config.student.workers,
            devices=self._devices,
            students=self._shared.students,
            store=run.store,
            urgency=run.urgency,
            work=run.work,
            training_id=partial(training_id, run.job.config.student),
            questions=questions,
            on_copy=lambda student: log.emit(events.StudentLinked(from_run=student.store.name, student=student.folder)),
        )

    def _trainer_with(self, run: _Run, num_workers: int) -> Trainer:
        student = run.job.config.student.model_copy(update={"workers": num_workers, "min_workers": None})
        name = f"{self._shared.campaign.config.name}-{run.spec.name}"
        num, plan = self._num_trainings, self._plan
        return make_trainer(student, run.job, plan, run.store, self._workers, run_name=name, num_trainings=num)

    def _note_busy(self, seconds: float) -> None:
        self._devices.learn_generation(seconds * _per_engine(self._plan), 0, 0)

    def _remaining(self) -> Remaining:
        """What all runs have still to do."""
        todo = list(self._todo.values())
        return Remaining(
            num_rows=sum(each.num_rows for rounds, _ in todo for each in rounds),
            work=sum(each.work for _, students in todo for each in students),
        )

    def _note_progress(self, run: _Run, event: Event) -> None:
        if type(event) is events.RoundClosed:
            self._devices.learn_generation(0.0, 1, run.planned[event.round].num_rows)
            if event.round == 0:
                self._shared.seeds.note(run.job.requests["seed"], run.store)
        if type(event) in (events.RoundClosed, events.StudentFinished):
            self._todo[run.spec.name] = _todo(run)


def _todo(run: _Run) -> tuple[Sequence[PlannedStudent], Sequence[PlannedStudent]]:
    """What a run has planned for rounds that are not closed, and for students that are not trained."""
    return run.planned[len(run.store.rounds()) :], run.planned[len(run.store.students()) :]


@contextlib.contextmanager
def _seed_set(run: _Run, log: EventLog, seeds: SharedWork[RunStore]) -> Iterator[None]:
    """Copy round 0 from a run that has the same one, if there is such a run and this one has not begun its own."""
    if not run.job.config.generates or run.store.files(run.store.in_round(0, "")):
        yield
        return
    with seeds.claimed(run.job.requests["seed"]) as found:
        if found is not None:
            report = copy_round(found, run.store, 0)
            busy_s = account(read_events(found)).busy_s.get(0, 0.0)
            log.emit(from_plain(events.RoundLinked, report | {"from_run": found.name, "busy_s": busy_s}, found.root))
        yield


def _passes_devices(config: RunConfig, nodes: Sequence[NodeFacts]) -> bool:
    """Whether engines and trainings pass devices to each other; else each side has its own, or cores that both use."""
    return config.placement.mode == "swap" and any(node.num_gpus for node in nodes)


def config_of_all(campaign: Campaign, configs: Sequence[RunConfig], passes: bool) -> RunConfig:
    """The job that decides where engines and train workers of all runs are placed: one that generates, if any does."""
    config = next((config for config in configs if config.generates), configs[0])
    workers = max(config.student.workers for config in configs)
    if not passes:
        workers *= campaign.config.trainings
    student = config.student.model_copy(update={"workers": workers})
    return config.model_copy(update={"name": campaign.config.name, "student": student})


def _per_engine(plan: Plan) -> float:
    return plan.engines[0].num_gpus if plan.engines and plan.device == "gpu" else 1.0


def _devices(config: RunConfig, plan: Plan, nodes: Sequence[NodeFacts], num_trainings: int, passes: bool) -> Devices:
    """The devices to divide between engines and trainings; engines without devices have none to give up."""
    is_split = not passes or not _per_engine(plan)
    num_gpus = sum(node.num_gpus for node in nodes)
    return Devices(
        num_devices=num_gpus,
        per_engine=_per_engine(plan) or 1.0,
        per_worker=plan.gpus_per_worker,
        num_engines=plan.num_wanted,
        min_workers=config.student.least_workers,
        max_workers=config.student.workers // (1 if passes else num_trainings),
        is_split=is_split,
        num_trainings=num_trainings,
    )
