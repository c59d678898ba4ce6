"""`s3ray bench`: measures the cells of a sweep, one after the other on one cluster, and writes the profile.

Each cell has a pool of its own, started as a run starts it, and does what a run does: it answers the strategy's
requests, parses in the actors and curates in the driver. Only the journal is not written.
"""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from s3ray.bench.about import identity_of
from s3ray.bench.compare import profile_table
from s3ray.bench.measures import Measured, cell_profile, scaling_of
from s3ray.bench.measuring import MeasuredPool, Prepared, check_generating, make_requests, parameters_of
from s3ray.bench.profile import PROFILE, Cell, CellProfile, Profile, Sweep, write_profile
from s3ray.bench.sweep import Options, cells_of, known_prompts, make_sweep, split
from s3ray.cluster import connected, joined, node_facts
from s3ray.config.job import RunConfig
from s3ray.devices import local_facts
from s3ray.errors import InputError, RunError
from s3ray.launch.preflight import Job, check_placement
from s3ray.machine import collect_rarely
from s3ray.placement.plan import NodeFacts
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.logs import log_from
from s3ray.types import GenerationRequest


def bench_job(config: RunConfig, folder: str, console: Console, options: Options) -> None:
    """Measure a job's generation and write profile.json into ``folder``; print the table.

    Raises:
        InputError: job or options are wrong, or something does not fit; nothing was started and nothing written.
        RunError: a cell could not be measured; those before it are in the profile.
    """
    job = check_generating(config, "measure")
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
        self._prepared = Prepared()
        self._cells: list[CellProfile] = []
        self._notes: list[str] = []
        self._parameters = parameters_of(job.config, self._notes)

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
        with MeasuredPool(job, plan, self._console, parameters=self._parameters) as pool:
            if not self._requests:  # once, with the first pool, for all cells
                names = self._sweep.prompts
                total = max(each.requests + each.num_warm_up for each in cells_of(self._sweep))
                self._prepared = pool.prepare(names, total)
                self._requests = {name: make_requests(name, self._job, self._prepared, total) for name in names}
            measured, warm_up = split(self._requests[cell.prompts], cell.requests, cell.num_warm_up)
            pool.answer(warm_up, self._prepared.calibration)
            return pool.measure(cell, measured, self._prepared.calibration, self._sweep.min_seconds)


def _line(cell: CellProfile) -> str:
    """The result of a cell in one line, for the terminal."""
    steady = "never steady" if cell.steady is None else f"{cell.steady.output_tokens_per_s:.1f} output tokens/s steady"
    flags = f"; not {', not '.join(cell.validity.false)}" if cell.validity.false else ""
    return f"  {steady}, {cell.whole.output_tokens_per_s:.1f} over all, {cell.volumes.accepted} accepted{flags}"
