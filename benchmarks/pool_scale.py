"""How many requests a second pass through one driver, and what limits them?

    python -m benchmarks.pool_scale

Real Ray actors, each with a fake engine of fixed speed; everything else is real: requests made by the seed strategy,
prompts rendered and texts read in the actors, outcomes as Arrow, chunks durable in a journal, outcomes judged in order
by the default curation of a large run, beside gold of 1,000 rows. (Fake texts are drawn from 64 words and share far
more phrases than those of a model.) ``efficiency`` is requests/s against the speed of the engines; where it falls, the
CPU time of driver, actors and Ray says why. There are two speeds: many slow engines show what their number costs, few
fast ones how much one driver carries. The last line is a JSON object.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import below
from benchmarks.provenance import keep_result
from benchmarks.stages import curated_stage
from s3ray.cluster import node_facts, start_local
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.machine import collect_rarely
from s3ray.placement.place import plan_placement
from s3ray.rounds.stage import Stage
from s3ray.storage.run_folder import RunStore
from s3ray.strategies.base import RoundContext
from s3ray.strategies.requests import seed_plan
from s3ray.tables import outcomes_from_table
from s3ray.tasks import load_task

TASK = "review_sentences"
WORDS = 15  # a fake text has 6 to 24
WARM_UP = 2000
SPENT = 0.9  # of the engines' speed: where less comes through, more engines only queue


def make_config(num_actors: int, rate: float, slots: int) -> RunConfig:
    """A job whose engines answer ``rate`` requests a second each, ``slots`` at once."""
    generator = {
        "engine": "fake",
        "prompt_form": "completion",
        "engines": num_actors,
        "max_num_seqs": slots,
        "fake": {"tokens_per_s": rate * WORDS / slots},
    }
    strategy = {"seed_examples": 1_000_000}  # as many as searched for copies by sketches
    return validate(RunConfig, {"name": "scale", "task": TASK, "generator": generator, "strategy": strategy})


def make_stage(config: RunConfig, round_: int, num: int) -> Stage:
    """A stage of ``num`` seed requests, judged as in a run; nothing is booked."""
    context = RoundContext(round=round_, task=load_task(TASK), gold=(), fingerprint="scale", seed=0)
    return curated_stage(config, context.task, seed_plan(context, config.strategy, num).requests, num)


def cpu_times() -> dict[str, float]:
    """CPU seconds so far of this process, of the actors, and of the rest of Ray."""
    own = sum(psutil.Process().cpu_times()[:2])
    actors = sum(sum(process.cpu_times()[:2]) for process in below("GeneratorActor"))
    everything = sum(sum(process.cpu_times()[:2]) for process in below(""))
    return {"driver": own, "actors": actors, "ray": everything - actors}


def push(pool: GeneratorPool, store: RunStore, stage: Stage) -> list[tuple[float, int]]:
    """Everything that a driver does with a stage but judging; returns how many outcomes were on disk when."""
    progress = [(time.monotonic(), 0)]
    for chunk in pool.generate(stage):
        store.write_chunk(0, stage.plan.name, chunk.table)
        stage.settle(outcomes_from_table(chunk.table))
        progress.append((time.monotonic(), progress[-1][1] + chunk.table.num_rows))
    return progress


def steady_rate(progress: list[tuple[float, int]]) -> float:
    """Requests/s between the first and the last tenth: engines of long requests are slow to fill and to empty."""
    num = progress[-1][1]
    middle = [point for point in progress if 0.1 * num <= point[1] <= 0.9 * num]
    (began, first), (ended, last) = middle[0], middle[-1]
    return (last - first) / (ended - began)


def measure(num_actors: int, rate: float, slots: int, seconds: float) -> dict[str, Any]:
    """Push as many requests as the engines can answer in ``seconds``."""
    config = make_config(num_actors, rate, slots)
    tasks = only_task(config, load_task(TASK))
    pool = GeneratorPool(config, tasks, plan_placement(config, node_facts()), emit=lambda event: None)
    with tempfile.TemporaryDirectory(prefix="s3ray-scale-") as folder:
        store = RunStore(Path(folder))
        try:
            push(pool, store, make_stage(config, 0, WARM_UP * num_actors))  # all engines are up, all code was run once
            num = round(rate * num_actors * seconds)
            before, started = cpu_times(), time.monotonic()
            progress = push(pool, store, make_stage(config, 1, num))
            took, after = time.monotonic() - started, cpu_times()
        finally:
            pool.close()
    assert progress[-1][1] == num
    requests_s = steady_rate(progress)
    cores = {name: (after[name] - before[name]) / took for name in after}
    return {
        "actors": num_actors,
        "rate": rate,
        "requests": num,
        "requests_s": requests_s,
        "efficiency": requests_s / (rate * num_actors),
        "driver_rss_mb": psutil.Process().memory_info().rss / 2**20,
        "cores": cores,
        "us_per_request": {name: share * took / num * 1e6 for name, share in cores.items()},
    }


def limit_of(point: dict[str, Any], num_cores: int) -> str:
    """What kept a measurement from going faster."""
    cores = point["cores"]
    parts = ", ".join(f"{name} {share:.2f}" for name, share in cores.items())
    if cores["driver"] > 0.9:
        return f"the driver's one thread ({parts} cores)"
    if sum(cores.values()) > 0.85 * num_cores:
        return f"the machine's {num_cores} cores ({parts})"
    return f"none of the processors: the engines' own speed ({parts} cores)"


def measure_series(options: argparse.Namespace, rate: float) -> Iterator[dict[str, Any]]:
    """One speed of the engines, more and more of them."""
    for num in options.actors:
        point = measure(num, rate, options.slots, options.seconds)
        shares = ", ".join(f"{name} {share:.2f}" for name, share in point["cores"].items())
        speed = f"{point['requests_s']:8.0f} requests/s, efficiency {point['efficiency']:.3f}"
        print(f"{num:3d} actors of {rate:.0f}/s: {speed}; cores: {shares}", flush=True)
        yield point
        if point["efficiency"] < SPENT:
            return


def main() -> None:
    """Measure all sizes; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rates", type=float, nargs="+", default=[700.0, 5200.0], help="requests/s of one engine")
    parser.add_argument("--slots", type=int, default=1024, help="sequences that one engine decodes at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="of work for each measurement")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/pool_scale.json"))
    options = parser.parse_args()
    start_local()
    collect_rarely()  # as the driver does
    points = [point for rate in options.rates for point in measure_series(options, rate)]
    fastest = max(points, key=lambda point: point["requests_s"])
    unhindered = [point for point in points if point["efficiency"] >= 0.95]
    result = {
        "slots": options.slots,
        "requests_s": fastest["requests_s"],
        "limit": limit_of(fastest, len(os.sched_getaffinity(0))),
        "requests_s_at_0_95": max((point["requests_s"] for point in unhindered), default=0.0),
        "actors_at_0_95": max((point["actors"] for point in unhindered), default=0),
        "points": points,
    }
    keep_result(options.results, result)


if __name__ == "__main__":
    main()
