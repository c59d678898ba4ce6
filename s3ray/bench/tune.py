"""`s3ray bench --tune`: looks for the settings with which a job's engines write fastest, and writes them as a job file.

What is tried next is decided in ``search``; here it is measured. Each trial has a pool of its own and answers the
job's extrapolation prompts, the same ones for all trials; its file is written when it is over, so that a search that
was stopped goes on where it was. In the end the best settings and the job's own are measured in turns.
"""

import importlib.util
import statistics
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby

from pydantic import JsonValue
from rich.console import Console

from s3ray.bench.about import identity_of
from s3ray.bench.measures import MAX_ERROR_RATE, Measured, cell_profile
from s3ray.bench.measuring import MeasuredPool, Prepared, check_generating, make_requests, parameters_of
from s3ray.bench.profile import Cell, CellProfile
from s3ray.bench.search import OWN, Best, Candidate, Changes, Facts, Search, search
from s3ray.bench.sweep import EXTRAPOLATE, SEED, known_prompts, renumbered
from s3ray.bench.trials import (
    TABLE,
    TUNING,
    Pair,
    Start,
    Trial,
    Tuning,
    changes_name,
    read_part,
    speed,
    table,
    trial_name,
    trial_of,
    write_part,
)
from s3ray.bench.tuned import change_text
from s3ray.cluster import connected, joined, node_facts
from s3ray.config.job import RunConfig
from s3ray.config.load import set_fields, validate
from s3ray.curation.calibrate import Calibration
from s3ray.devices import local_facts
from s3ray.errors import InputError, RunError, StoreError
from s3ray.launch.preflight import Job, check_engine_args, check_placement
from s3ray.machine import collect_rarely
from s3ray.placement.plan import NodeFacts
from s3ray.placement.plan import in_words as cluster_in_words
from s3ray.redaction import mask
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.logs import log_from
from s3ray.telemetry.records import from_plain
from s3ray.types import GenerationRequest

REPEATS = 3
"""Measurements of each setting that may be the best, and turns of the comparison at the end."""
_FLEETS = 3
"""Requests of a measurement by default: so many times what the job's engines decode at once."""
_LEAST_REQUESTS = 32
_START = "start.json"
_TURNS = (("own", 0), ("best", 0), ("best", 1), ("own", 1), ("own", 2), ("best", 2))
"""The comparison at the end: pairs side by side, and neither side always first; equal neighbours share a pool."""
_NO_RETRY: Changes = {"generator.max_restarts": 0, "generator.min_engines": None}
"""Settings of all trials: an engine that is lost ends the trial, and all engines must be there."""


def tune_job(config: RunConfig, text: str, folder: str, console: Console, *, requests: int | None, lossy: bool) -> None:
    """Search, compare, and write tune.json, tune.md and NAME-tuned.yaml into ``folder``; ``text`` is the job file's.

    Raises:
        InputError: the job is wrong or does not fit, or the folder holds the search for another one.
        RunError: the job's own settings cannot be measured.
    """
    job = check_generating(config, "tune")
    store = RunStore(folder)
    store.check_writable()
    with store.lock(), joined(config.cluster.address) as cluster:
        check_placement(job, node_facts() if cluster else local_facts())
        with connected(config.cluster.address) as words:
            console.print(words, style="dim", highlight=False)
            log_from(run=config.name, phase="start")
            tuning = Tuner(job, store, console, node_facts(), requests=requests).run(lossy=lossy)
    write_part(store, TUNING, tuning)
    store.write_text(TABLE, table(tuning))
    console.print(table(tuning), soft_wrap=True, highlight=False, markup=False)
    name = f"{config.name}-tuned.yaml"
    if tuning.gains:
        about = (
            f"# {config.name}, tuned by `s3ray bench --tune`: {tuning.ratio:.2f} times as fast ({TABLE} beside it).\n"
        )
        store.write_text(name, about + change_text(text, tuning.changes))
        console.print(f"Job: {store.url(name)}", soft_wrap=True, highlight=False)
    console.print(f"Measurements: {store.url(TUNING)}", soft_wrap=True, highlight=False)


class Tuner:
    """Measures what the search asks for, and does not measure again what lies in the folder."""

    def __init__(
        self, job: Job, store: RunStore, console: Console, nodes: Sequence[NodeFacts], *, requests: int | None
    ) -> None:
        """``requests`` of each measurement; None: as many as fill the job's engines three times."""
        self._job = job
        self._store = store
        self._console = console
        self._nodes = nodes
        self._asked = requests
        known = known_prompts(job.config, job.task, job.gold)
        self._prompts = EXTRAPOLATE if EXTRAPOLATE in known else SEED
        self._notes: list[str] = []
        self._parameters = parameters_of(job.config, self._notes)
        self._requests: list[GenerationRequest] = []
        self._calibration: Calibration | None = None
        self._num = 0

    def run(self, *, lossy: bool) -> Tuning:
        """Search to the end, and compare what was found with the job's own settings.

        Raises:
            InputError: the folder holds measurements of another job, or from another cluster.
            RunError: the job's own settings, or in the end the best ones, could not be measured.
        """
        collect_rarely()
        start = self._begin()
        self._num = start.requests
        own = self._own()
        facts = Facts(
            config=self._job.config,
            device=start.identity.device,
            requests=start.requests,
            fits=self._why_not,
            has_suffix=importlib.util.find_spec("arctic_inference") is not None,
            lossy=lossy,
        )
        trials: list[Trial] = []
        best = self._follow(search(facts), own, trials)
        final = self._compare(best.changes) if best.changes else ()
        return Tuning(
            identity=start.identity,
            requests=start.requests,
            trials=tuple(trials),
            final=final,
            changes=dict(best.changes),
            ratio=statistics.median(pair.ratio for pair in final) if final else 1.0,
            notes=(*self._notes, *start.notes),
        )

    def _follow(self, searching: Search, own: Trial, trials: list[Trial]) -> Best:
        """Measure what the search asks for, to its end; appends to ``trials``."""
        candidate = next(searching)
        while True:
            trials.append(self._measure(candidate, own))
            try:
                candidate = searching.send(trials[-1].finding(own))
            except StopIteration as ended:
                best: Best = ended.value
                return best

    # -- the folder ------------------------------------------------------------------------------------------------

    def _begin(self) -> Start:
        """Go on with the search of the folder, or begin one by starting the job's own engines."""
        settings = mask(self._job.config.model_dump(mode="json"))
        cluster = cluster_in_words(self._nodes)
        if (start := read_part(self._store, _START, Start)) is not None:
            different = start.differences(settings, cluster, self._asked)
            if different:
                hint = "Its measurements would not compare. Choose another --out, or move it away."
                raise InputError(f"holds a search with {different}", where=self._store.root, hint=hint)
            self._console.print("going on with the search of this folder", style="dim", highlight=False)
        else:
            start = self._first(settings, cluster)
            write_part(self._store, _START, start)
            return start
        if start.calibration is not None:
            self._calibration = from_plain(Calibration, start.calibration, self._store.url(_START))
        prepared = Prepared(notes={self._prompts: start.prompt_notes}, calibration=self._calibration)
        self._requests = make_requests(self._prompts, self._job, prepared, start.total)
        return start

    def _own(self) -> Trial:
        own = read_part(self._store, trial_name(OWN), Trial)
        if own is None:
            hint = "Its file was removed. Give the command with another --out."
            raise InputError("holds no measurement of the job's own settings", where=self._store.root, hint=hint)
        return own

    def _first(self, settings: dict[str, JsonValue], cluster: str) -> Start:
        """Measure the job's own settings, with the notes that all others get."""
        self._console.print("trial 1: the job's own settings", style="dim", highlight=False)
        job, plan = check_placement(self._changed({}), self._nodes)
        with MeasuredPool(job, plan, self._console, parameters=self._parameters) as pool:
            fleet = sum(limits.max_num_seqs for limits in pool.limits())
            requests = self._asked or max(_LEAST_REQUESTS, _FLEETS * fleet)
            total = (REPEATS + 1) * requests
            prepared = pool.prepare([self._prompts], total)
            self._calibration = prepared.calibration
            self._requests = make_requests(self._prompts, self._job, prepared, total)
            requests = min(requests, len(self._requests) // (REPEATS + 1))
            measured = [self._answer(pool, job, requests, number, fleet) for number in range(REPEATS)]
        unknown: list[str] = []
        cells = [self._profile(each) for each in measured]
        write_part(self._store, trial_name(OWN), trial_of(OWN, cells))
        self._console.print(_line(cells), style="dim", highlight=False)
        return Start(
            settings=settings,
            cluster=cluster,
            asked=self._asked,
            requests=requests,
            total=total,
            prompt_notes={
                stage: {key: list(items) for key, items in notes.items()}
                for stage, notes in prepared.notes[self._prompts].items()
            },
            calibration=prepared.calibration.as_dict() if prepared.calibration else None,
            identity=identity_of(self._job, self._nodes, measured[-1], unknown),
            notes=tuple(unknown),
        )

    # -- one trial -------------------------------------------------------------------------------------------------

    def _measure(self, candidate: Candidate, own: Trial) -> Trial:
        """The trial of a candidate: from its file, or measured now."""
        if candidate.problem:
            return trial_of(candidate)
        name = trial_name(candidate)
        if (known := read_part(self._store, name, Trial)) is not None:
            return known
        on_top = f" on top of {' + '.join(candidate.on_top)}" if candidate.on_top else ""
        self._console.print(f"trial: {candidate.setting}{on_top}", style="dim", highlight=False, markup=False)
        cells: list[CellProfile] = []
        problem = ""
        try:
            with closing(self._cells(candidate.changes, range(REPEATS))) as measured:
                for cell, first in zip(measured, own.cells, strict=False):
                    cells.append(cell)
                    if speed(cell) < speed(first) * candidate.best:
                        break  # it is no gain: what more measurements would tell is not worth their time
        except StoreError:
            raise
        except (RunError, InputError) as error:  # as an input vLLM itself refuses settings, when an engine starts
            cells, problem = [], _words(error)
        trial = trial_of(candidate, cells, problem)
        write_part(self._store, name, trial)
        self._console.print(_line(cells, trial.ratio(own), problem), style="dim", highlight=False, markup=False)
        return trial

    def _cells(self, changes: Changes, numbers: Sequence[int]) -> Generator[CellProfile]:
        """Measure the requests of these numbers with other settings, on one pool.

        Raises:
            RunError: an engine did not start or was lost, or requests failed.
        """
        job, plan = check_placement(self._changed(changes), self._nodes)
        with MeasuredPool(job, plan, self._console, parameters=self._parameters) as pool:
            fleet = sum(limits.max_num_seqs for limits in pool.limits())
            for number in numbers:
                yield self._profile(self._answer(pool, job, self._num, number, fleet))

    def _answer(self, pool: MeasuredPool, job: Job, num: int, number: int, fleet: int) -> Measured:
        """Warm a pool up, if it is cold, and measure a part of the requests."""
        if not pool.is_warm:
            pool.answer(renumbered(self._requests[REPEATS * num :][:fleet]), self._calibration)
        generator = job.config.generator
        cell = Cell(
            engines=generator.engines,
            max_num_seqs=fleet // generator.engines,
            prompts=self._prompts,
            requests=num,
            repeat=number,
        )
        part = renumbered(self._requests[number * num :][:num])
        measured = pool.measure(cell, part, self._calibration, min_seconds=0.0)
        if lost := pool.lost():
            raise RunError(f"{lost.engine} was lost: {lost.problem}")
        failed = sum(measured.tally.failed.values())
        if failed > MAX_ERROR_RATE * num:
            reasons = ", ".join(f"{count} {reason}" for reason, count in measured.tally.failed.items())
            raise RunError(f"{failed} of {num} requests failed: {reasons}")
        if not measured.tally.output_tokens:
            raise RunError("the engines wrote nothing")
        return measured

    def _profile(self, measured: Measured) -> CellProfile:
        # What is not known of a cell is known of none, and tune.json says it of the first one alone.
        return cell_profile(measured, [])

    def _changed(self, changes: Changes) -> Job:
        """The job with other settings.

        Raises:
            InputError: they are no valid ones.
        """
        fields = set_fields(self._job.config.model_dump(mode="json"), changes)
        return replace(self._job, config=validate(RunConfig, set_fields(fields, _NO_RETRY)))

    def _why_not(self, changes: Changes) -> str:
        """Why settings cannot be used here, by all that can be told without trying; empty if nothing is against it."""
        try:
            job = self._changed(changes)
            check_engine_args(job.config)
            check_placement(job, self._nodes)
        except InputError as error:
            return _words(error)
        return ""

    # -- the end ---------------------------------------------------------------------------------------------------

    def _compare(self, best: Changes) -> tuple[Pair, ...]:
        """Measure the job's own settings and the best in turns."""
        changes: dict[str, Changes] = {"own": {}, "best": best}
        names = {(side, number): f"final/{side}-{number}-{changes_name(changes[side])}.json" for side, number in _TURNS}
        done = {turn: read_part(self._store, name, CellProfile) for turn, name in names.items()}
        for side, turns in groupby((turn for turn in _TURNS if done[turn] is None), key=lambda turn: turn[0]):
            numbers = [number for _, number in turns]
            what = "the job's own settings" if side == "own" else "the best settings"
            self._console.print(f"in turns: {what}", style="dim", highlight=False)
            for number, cell in zip(numbers, self._cells(changes[side], numbers), strict=True):
                write_part(self._store, names[side, number], cell)
                done[side, number] = cell
                self._console.print(_line([cell]), style="dim", highlight=False)
        cells = {turn: cell for turn, cell in done.items() if cell is not None}
        return tuple(Pair(own=cells["own", number], best=cells["best", number]) for number in range(REPEATS))


def _words(error: RunError | InputError) -> str:
    """What went wrong, with the field that is to blame."""
    return f"{error.field}: {error.problem}" if isinstance(error, InputError) and error.field else error.problem


def _line(cells: Sequence[CellProfile], ratio: float | None = None, problem: str = "") -> str:
    """The result of a trial in one line, for the terminal."""
    if problem:
        return f"  failed: {problem}"
    speeds = ", ".join(f"{speed(cell):.1f}" for cell in cells)
    return f"  {speeds} output tokens/s" + ("" if ratio is None else f", {ratio:.2f} of the job's own")
