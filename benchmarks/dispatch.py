"""How near the ideal does the dispatcher come, and what does it cost the driver? Simulated engines, real dispatcher.

    python -m benchmarks.dispatch --engines 1000 --requests 1000000

The workload: each request has a limit on its output, log-normal (median 128, sigma 0.6, from 16 to 512 tokens) and
known to the dispatcher; it uses half of it to all of it, which is not known. A second run gives all requests the same
limit, so that nothing can be foreseen (keys ``blind_``). 10 % of the engines write at half speed, 1 % die once and are
back after 30 virtual seconds; what they held is asked again. The engines are those of ``benchmarks.simulation``.

Slots: 32 for each engine, so that a million requests are about 30 for each slot, and the stage is 95 virtual seconds
long, of which the longest request is an eighth. A hundred thousand requests are 3 for each slot: there the ideal is set
by the longest request alone, and the end is most of the stage (keys ``small_``).

The ideal makespan is the larger of all tokens over all speed (of the time that engines are alive), and the longest
request on a full-speed slot; no schedule is shorter. A late death alone costs up to an eighth of the stage, since what
was lost begins anew, and in a small stage it costs up to the whole length of the ideal: the dispatcher's runs of both
sizes are therefore done with several seeds, their keys are the medians, and ``efficiencies`` and ``small_efficiencies``
have them all, in the order of the seeds. ``static_``: request index modulo engines; a dead engine's part
waits for it. ``barrier_``: batches of 128, the next one when the last is wholly answered. ``driver_us_per_request`` is
CPU time of one thread in ``settle``, ``report`` and ``assign``, without the source of requests, over the requests. Each
run has a process of its own, whose peak memory (interpreter included) is ``peak_rss_mb``.
"""

import argparse
import multiprocessing
import resource
import statistics
from array import array
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.provenance import keep_result
from benchmarks.schedulers import BatchBarrier, StaticShards
from benchmarks.simulation import TOKENS_PER_S, EngineShape, Scheduler, Simulation, Work
from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.machine import collect_rarely

MEDIAN_LIMIT, SIGMA, MIN_LIMIT, MAX_LIMIT = 128, 0.6, 16, 512
LEAST_USE = 0.5
BATCH = 128
SLOW_SHARE, SLOW_SPEED = 0.1, 0.5
DYING_SHARE = 0.01

SCHEDULERS: dict[str, Callable[[int], Scheduler]] = {
    "pull": Dispatcher,
    "static": StaticShards,
    "barrier": lambda num_engines: BatchBarrier(BATCH),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: ``is_blind`` hides every request's own limit from the dispatcher."""

    scheduler: str
    num_engines: int
    num_requests: int
    num_slots: int
    seed: int
    is_blind: bool = False


def make_work(num_requests: int, seed: int, *, is_blind: bool = False) -> Work:
    """Requests with limits and lengths; the same lengths whether or not the limits tell of them."""
    rng = np.random.default_rng((seed, 0))
    limits = np.clip(rng.lognormal(np.log(MEDIAN_LIMIT), SIGMA, num_requests), MIN_LIMIT, MAX_LIMIT).astype(int)
    lengths = np.maximum(1, limits * rng.uniform(LEAST_USE, 1, num_requests)).astype(int)
    if is_blind:
        limits[:] = MAX_LIMIT
    return Work(array("H", limits.tolist()), array("H", lengths.tolist()))


def make_shapes(num_engines: int, num_slots: int, work: Work, seed: int) -> list[EngineShape]:
    """Engines, some slow, some dying within the first nine tenths of the work."""
    rng = np.random.default_rng((seed, 1))
    speeds = np.full(num_engines, TOKENS_PER_S)
    speeds[rng.permutation(num_engines)[: round(num_engines * SLOW_SHARE)]] *= SLOW_SPEED
    end = sum(work.lengths) / (num_slots * float(speeds.sum()))
    num_dying = round(num_engines * DYING_SHARE)
    dying: dict[int, float] = dict(
        zip(
            rng.permutation(num_engines)[:num_dying].tolist(),
            rng.uniform(0, 0.9 * end, num_dying).tolist(),
            strict=True,
        )
    )
    return [
        EngineShape(num_slots=num_slots, tokens_per_s=float(speed), dies_at=dying.get(number))
        for number, speed in enumerate(speeds)
    ]


def run_trial(trial: Trial) -> dict[str, float]:
    """Run one trial in this process, which collects garbage as the driver does."""
    collect_rarely()
    work = make_work(trial.num_requests, trial.seed, is_blind=trial.is_blind)
    shapes = make_shapes(trial.num_engines, trial.num_slots, work, trial.seed)
    result = Simulation(SCHEDULERS[trial.scheduler](trial.num_engines), shapes, work).run()
    return {
        "efficiency": round(result.efficiency, 4),
        "makespan_s": round(result.makespan_s, 1),
        "ideal_s": round(result.ideal_s, 1),
        "attempts_per_request": round(result.num_attempts / trial.num_requests, 4),
        "driver_us_per_request": round(1e6 * result.driver_s / trial.num_requests, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def trials(num_engines: int, num_requests: int, num_slots: int, seed: int) -> dict[str, Trial]:
    """What is run, by the prefix of its keys."""
    pull = Trial(scheduler="pull", num_engines=num_engines, num_requests=num_requests, num_slots=num_slots, seed=seed)
    sizes = {"": pull, "small_": replace(pull, num_requests=num_requests // 10)}
    names = {"": "pull", "static_": "static", "barrier_": "barrier"}
    planned = {size + name: replace(sizes[size], scheduler=names[name]) for size in sizes for name in names}
    return planned | {"blind_": replace(pull, is_blind=True)}


def main() -> None:
    """Run all trials one after the other; print a table and the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1_000_000, help="small runs have a tenth of it")
    parser.add_argument("--slots", type=int, default=32, help="sequences that an engine decodes at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5, help="seeds of the dispatcher's runs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/dispatch.json"))
    options = parser.parse_args()
    planned = trials(options.engines, options.requests, options.slots, options.seed)
    spawn = multiprocessing.get_context("spawn")
    measured: dict[str, float | list[float]] = {}
    print(
        f"{'scheduler':9} {'requests':>9} {'limits':7} {'efficiency':>10} {'makespan':>9} {'us/request':>10} {'MB':>5}"
    )
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for prefix, trial in planned.items():
            seeds = range(trial.seed, trial.seed + (options.repeats if prefix in ("", "small_") else 1))
            runs = [processes.submit(run_trial, replace(trial, seed=seed)).result() for seed in seeds]
            one = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            measured |= {prefix + name: value for name, value in one.items()}
            if len(runs) > 1:
                measured[prefix + "efficiencies"] = [run["efficiency"] for run in runs]
            print(
                f"{trial.scheduler:9} {trial.num_requests:9} {'equal' if trial.is_blind else 'known':7} "
                f"{one['efficiency']:10.3f} {one['makespan_s']:7.1f} s {one['driver_us_per_request']:10.2f} "
                f"{one['peak_rss_mb']:5.0f}",
                flush=True,
            )
    parameters = {name: getattr(options, name) for name in ("engines", "requests", "slots", "seed", "repeats")}
    keep_result(options.results, parameters | measured)


if __name__ == "__main__":
    main()
