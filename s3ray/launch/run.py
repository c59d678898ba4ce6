"""Puts a run together: the checked job, the cluster, the pool, the trainer and the driver. Prints nothing."""

import contextlib
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from s3ray import __version__
from s3ray.config.job import RunConfig, StudentConfig, to_yaml
from s3ray.devices import local_facts
from s3ray.errors import InputError, RunError, StoreError
from s3ray.generator.local_pool import LocalPool, alone
from s3ray.generator.worker import only_task
from s3ray.launch.forecast import forecast, guess, measured, says_ahead
from s3ray.launch.preflight import Job, check_job, check_placement, try_planned_student, try_student, warnings
from s3ray.launch.revisions import Revisions, kept_commits
from s3ray.models import local_weights
from s3ray.monitor.metrics import build_metrics, read_metrics
from s3ray.monitor.run_view import RunView
from s3ray.placement.plan import NodeFacts
from s3ray.placement.plan import Plan as Placement
from s3ray.redaction import mask
from s3ray.report.export import export_dataset
from s3ray.report.run import write_pages
from s3ray.rounds.driver import Driver, Generator, Parts
from s3ray.rounds.students import Trainer
from s3ray.stopping import why_stopped
from s3ray.storage.lineages import choose, lineage_of
from s3ray.storage.local import Notify
from s3ray.storage.run_folder import METRICS, RunStore
from s3ray.strategies import make_strategy
from s3ray.strategies.check import without_effect
from s3ray.telemetry.events import EventLog, Listener, RunFailed, RunFinished, RunStarted, read_events
from s3ray.telemetry.logs import move_log

if TYPE_CHECKING:
    from s3ray.generator.pool import GeneratorPool
    from s3ray.student.ray_trainer import RayStudentTrainer, TrainWorkers


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of a job would start; ``str`` is the text that ``s3ray plan`` prints.

    ``config`` is the job with the settings that depend on the cluster resolved. ``folder`` is where it would write;
    ``goes_on``: there is a run already, which it would continue. ``lines`` say the rest in words.
    """

    config: RunConfig
    cluster: str
    folder: str
    goes_on: bool
    fingerprint: str
    num_engines: int
    num_workers: int
    lines: Sequence[str]

    def __str__(self) -> str:
        head = f"{self.config.name}: this job can run {self.cluster}."
        place = f"{'goes on with the run in' if self.goes_on else 'would write to'} {self.folder}"
        return "\n  ".join((head, *self.lines, place))


_NODE_START_S = 300
"""How long train workers wait, each of three times, where the cluster is asked for nodes: machines take minutes."""


def ignore(_: object) -> None:
    """A callback that does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Functions that are called while a run goes on; an exception of theirs ends it.

    ``on_event`` gets every event of this start once it is on disk. ``on_note`` gets texts about what is not an event:
    which cluster is used, and what the run waits for.
    """

    on_event: Listener = ignore
    on_note: Notify = ignore


def plan_job(config: RunConfig, folder: str, *, fresh: bool = False) -> Plan:
    """Check a job against its cluster and return what a run would start; starts and writes nothing.

    Raises:
        InputError: the job cannot run.
    """
    from s3ray.cluster import joined, node_facts, occupancy  # imports Ray, which a run in one process does not need

    job = check_job(config)
    folder, _ = choose(folder, fresh=fresh)
    goes_on = RunStore(folder).check(job.settings, job.places)
    with joined(config.cluster.address) as cluster:
        job, placement = check_placement(job, node_facts() if cluster else local_facts())
        occupied = [occupancy(resource) for resource in ("GPU", "CPU")] if cluster else []
    lines = [*_plan_lines(job, placement), *_forecast(job, placement, folder)]
    lines += filter(None, [try_planned_student(job, RunStore(folder))])
    lines += [f"at this moment {each.in_words()}" for each in occupied if each.held]
    return Plan(
        config=job.config,
        cluster=cluster or "on this machine",
        folder=folder,
        goes_on=goes_on,
        fingerprint=job.fingerprint,
        num_engines=placement.num_planned,
        num_workers=placement.num_workers,
        lines=lines,
    )


def _plan_lines(job: Job, plan: Placement) -> Iterator[str]:
    config, gold = job.config, job.gold
    yield (
        f"task {job.task.name}: gold {len(gold.extrapolate)} extrapolate, {len(gold.select)} select, "
        f"{len(gold.test)} test" + (f" ({gold.num_left_out} rows left out)" if gold.num_left_out else "")
    )
    yield from gold.notes
    strategy, generator = config.strategy, config.generator
    on_gold = ", students learn from gold too" if strategy.train_on_gold else ""
    yield f"strategy {strategy.name}: {make_strategy(strategy).in_words()}{on_gold}"
    yield from without_effect(strategy, job.task, generator.prompt_form)
    yield from says_ahead(config, plan)
    if config.generates:
        dtype = f", {generator.dtype}" if generator.engine == "vllm" else ""
        yield (
            f"generator {generator.model or generator.engine} ({generator.engine}, {generator.prompt_form} "
            f"prompts{dtype})"
        )
    yield f"student {config.student.model}"
    for section in ("generator", "student"):
        if getattr(config, section).trust_remote_code:
            yield f"RUNS CODE that comes with the {section}'s model ({section}.trust_remote_code)"
    yield from plan.lines()
    yield from warnings(job)
    yield f"fingerprint {job.fingerprint}"


def _forecast(job: Job, plan: Placement, folder: str) -> Iterator[str]:
    if plan.asking:
        return  # how many devices there will be is not known
    figures, store = guess(job.config, len(job.gold.extrapolate), plan.device), RunStore(folder)
    if store.has(METRICS):
        figures = measured(read_metrics(store), job.config, plan, figures)
    yield from forecast(job.config, plan, 1 + make_strategy(job.config.strategy).last_round, figures)


def run_job(
    config: RunConfig, folder: str, *, fresh: bool = False, local: bool = False, callbacks: Callbacks
) -> RunStore:
    """Run a job to the end, or go on with it; then write dataset, metrics and report. Returns the run's folder.

    ``folder`` is that of the first lineage. The newest lineage goes on; with ``fresh`` a new one begins (``lineages``).
    With ``local`` everything happens in this process, without Ray, with one engine and one train worker.

    Raises:
        InputError: the job cannot run; nothing was written yet that a later start would go on from.
        RunError: the run could not go on; the message says what is safe and how to go on.
    """
    job = check_job(config)
    folder, lineage = choose(folder, fresh=fresh)
    store = RunStore(folder)
    store.check(job.settings, job.places)
    job = Revisions(callbacks.on_note).pin(job, store)
    if local:
        job = replace(job, config=alone(job.config))
    _try_student(job, store, callbacks.on_note, local=local)
    with _place(config, local=local) as (where, nodes):
        callbacks.on_note(where)
        job, placement = check_placement(job, nodes)
        with store.lock(callbacks.on_note):
            store.check(job.settings, job.places)  # once more, now that no other driver can write
            task = job.task.spec.model_dump(mode="json")
            store.create(
                job.settings,
                to_yaml(job.config),
                requests=job.requests,
                lineage=lineage.as_dict(),
                task=task,
                **kept_commits(job.config),
            )
            events = EventLog(store, job.config.name, attempt=next_attempt(store))
            events.listen(callbacks.on_event)
            if not local:
                from s3ray.monitor.prometheus import RayMetrics

                events.listen(RayMetrics().of(job.config.name, RunView.replay(read_events(store))))
            with recorded_failures(store, events):
                _run(job, placement, store, events, local=local)
    return store


def _try_student(job: Job, store: RunStore, tell: Notify, *, local: bool) -> None:
    model = job.config.student.model
    if local_weights(model) is None and not store.students():
        tell(f"fetching the student {model}, to try it before anything is written")
    if note := try_student(job, store, here=local):
        tell(note)


@contextlib.contextmanager
def _place(config: RunConfig, *, local: bool) -> Iterator[tuple[str, list[NodeFacts]]]:
    """Join or start the cluster of a run; yields where it runs, in words, and the nodes there."""
    if local:
        yield "in this process, without Ray: one engine and one train worker", local_facts()
        return
    from s3ray.cluster import connected, node_facts

    with connected(config.cluster.address) as cluster:
        yield cluster, node_facts()


def _run(job: Job, placement: Placement, store: RunStore, events: EventLog, *, local: bool) -> None:
    move_log(run=job.config.name, phase="start")
    with contextlib.ExitStack() as ends:
        pool, trainer = _parts_of(job, placement, store, events, ends, local=local)
        carry_out(job, placement, store, events, pool, trainer)


def _parts_of(
    job: Job, plan: Placement, store: RunStore, events: EventLog, ends: contextlib.ExitStack, *, local: bool
) -> "tuple[LocalPool | GeneratorPool, Trainer]":
    """The pool and the trainer of a run, in this process or on the cluster; ``ends`` closes them."""
    config, tasks = job.config, only_task(job.config, job.task)
    if local:
        from s3ray.student.local_trainer import LocalStudentTrainer

        local_pool = LocalPool(config, tasks, plan, emit=events.emit)
        ends.callback(local_pool.close)
        return local_pool, LocalStudentTrainer(config.student, job.task)
    from s3ray.generator.pool import GeneratorPool

    pool = GeneratorPool(config, tasks, plan, emit=events.emit)
    ends.callback(pool.close)
    workers = make_workers(plan, store, config.name)
    ends.callback(workers.close)
    return pool, make_trainer(config.student, job, plan, store, workers, run_name=config.name)


def make_workers(plan: Placement, store: RunStore, name: str) -> "TrainWorkers":
    """The train workers of a run or a campaign; Ray Train keeps its own files in the folder of that."""
    # Imported here, since a plan does not need Ray Train, which takes seconds to import.
    from s3ray.student.ray_trainer import TrainWorkers

    if plan.is_elastic:  # handed on to Ray Train's controller
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_NODE_START_S))
    return TrainWorkers(name, store.url("ray_train"), stay=plan.workers_stay)


def make_trainer(
    student: StudentConfig,
    job: Job,
    plan: Placement,
    store: RunStore,
    workers: "TrainWorkers",
    *,
    run_name: str,
    num_trainings: int = 1,
) -> "RayStudentTrainer":
    """The trainer of a run's students; checkpoints lie in the run's folder."""
    from s3ray.student.ray_trainer import RayStudentTrainer

    return RayStudentTrainer(
        student,
        job.task,
        workers,
        run_name=run_name,
        storage_path=store.url("ray_train"),
        gpus_per_worker=plan.gpus_per_worker,
        cpus_per_worker=plan.cpus_per_worker,
        num_trainings=num_trainings,
    )


def carry_out(
    job: Job, plan: Placement, store: RunStore, events: EventLog, generator: Generator, trainer: Trainer
) -> None:
    """Do what is left of a run whose folder is locked, up to its dataset, metrics and report."""
    started = time.monotonic()
    config = job.config
    strategy = make_strategy(config.strategy)
    events.emit(
        RunStarted(
            task=job.task.name,
            strategy=config.strategy.name,
            generator=(config.generator.model or config.generator.engine) if config.generates else None,
            student=config.student.model,
            rounds=strategy.last_round,
            engines=plan.num_planned,
            workers=plan.num_workers,
            version=__version__,
            fingerprint=job.fingerprint,
            lineage=lineage_of(store),
            resumed=bool(store.rounds() or store.students()) or next_attempt(store) > 1,
        )
    )
    parts = Parts(
        config=config,
        task=job.task,
        gold=job.gold,
        store=store,
        events=events,
        requests=store.requests,
        generator=generator,
        trainer=trainer,
    )
    Driver(parts).run()
    if config.generates:
        export_dataset(store, None)
    events.emit(RunFinished(seconds=time.monotonic() - started))
    happened = list(read_events(store))
    metrics = build_metrics(store, happened)
    store.write_json(METRICS, metrics.as_dict())
    write_pages(store, happened, metrics)


def next_attempt(store: RunStore) -> int:
    """The number of the start that begins now, counted from 1."""
    return 1 + max((event.attempt for event in read_events(store)), default=0)


@contextlib.contextmanager
def recorded_failures(store: RunStore, events: EventLog) -> Iterator[None]:
    """Record whatever ends a run in its events, and raise an error that says what is safe and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        events.stop(why_stopped(error))
        raise
    except Exception as error:
        with contextlib.suppress(StoreError):  # a full disk, say: the error that ended the run is more important
            events.emit(RunFailed(problem=f"{type(error).__name__}: {error}"))
        if isinstance(error, RunError):
            way_out = _NO_WAY_OUT if error.comes_again else _GOES_ON
            raise type(error)(error.problem, f"{error.hint}\n  {_safe(store, way_out)}".strip()) from error
        if isinstance(error, InputError):
            if not _has_results(store):
                raise  # mostly what only the engines could find out, at their start
            raise RunError(str(error), _safe(store, f"Once that is mended, t{_GOES_ON[1:]}")) from error
        with contextlib.suppress(StoreError):
            store.write_text("crash.txt", mask(traceback.format_exc()))
        way_out = f"{_NO_WAY_OUT} Please report it with that file." if isinstance(error, _COME_AGAIN) else _GOES_ON
        hint = f"The traceback is in {store.url('crash.txt')}.\n  {_safe(store, way_out)}"
        raise RunError(f"{type(error).__name__}: {error}", hint) from error


def _has_results(store: RunStore) -> bool:
    """Whether the run has written anything that a later start goes on from."""
    return bool(store.rounds() or store.students() or store.num_chunks_in_work())


_GOES_ON = "The same command (without --fresh) goes on from there."
_NO_WAY_OUT = "The same command would end here again."
_COME_AGAIN = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
"""What data and programs raise, and raise again; machines, networks and their libraries raise other errors."""


def _safe(store: RunStore, way_out: str) -> str:
    rounds = ", ".join(map(str, store.rounds())) or "none yet"
    students = ", ".join(map(str, store.students())) or "none yet"
    return (
        f"Safe in {store.root}: finished rounds: {rounds}; students: {students}; and every chunk of the round under "
        f"way. {way_out}"
    )
