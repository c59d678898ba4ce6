"""What does a pool lose that begins without a node, grows, and gives its nodes back, also when they are preempted?

    python -m benchmarks.elastic

Fake engines of fixed speed on Ray's own autoscaler with fake nodes. First a stage from no node up and back to none,
against the same stage with all nodes there from the beginning: ``makespan_ratio`` is the time of the first against that
of the second plus the start of a node, ``node_ratio`` the seconds of all nodes against the seconds in which engines had
requests. Then schedules of preemptions, with notice and without, while a stage is written: every request must be
answered once, with the answer of an undisturbed stage. The last line is a JSON object. ``--work`` keeps the schedules
that are done, so that the same command goes on.
"""

import argparse
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.autoscaler.sdk import request_resources

from benchmarks.provenance import keep_result
from benchmarks.scaling_cluster import NodeClock, ScalingCluster
from benchmarks.stages import unjudged_stage
from s3ray.cluster import node_facts
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.placement.place import plan_placement
from s3ray.rounds.stage import Stage
from s3ray.strategies.base import RoundContext
from s3ray.strategies.requests import seed_plan
from s3ray.tables import outcomes_from_table
from s3ray.tasks import load_task
from s3ray.telemetry.events import EngineEvent, EngineLost, EngineStopped, Event

TASK = "review_sentences"
WORDS = 15  # a fake text has 6 to 24
NODE = {"CPU": 1, "GPU": 1}
SLOTS = 16
REQUESTS_S = 10.0  # of one engine
IDLE_S = 3.0  # the autoscaler takes nodes away that have been idle for so long
NOTICES_S = (0.0, 4.0, 10.0)  # the first without a word; the second is shorter than many requests take


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A stage: how long it took, how long its engines had requests, and each answer by the id of its request."""

    seconds: float
    busy_s: float
    answers: Counter[str]
    texts: dict[str, str]
    events: list[Event]

    def num(self, kind: type[EngineEvent]) -> int:
        """Events of a kind."""
        return sum(isinstance(event, kind) for event in self.events)


def make_config(num_engines: int, *, elastic: bool) -> RunConfig:
    """A job whose engines take a GPU each."""
    generator = {
        "engine": "fake",
        "prompt_form": "completion",
        "engines": num_engines,
        "max_num_seqs": SLOTS,
        "max_restarts": 1000,
        "fake": {"tokens_per_s": REQUESTS_S * WORDS / SLOTS, "takes_gpus": True},
    }
    placement = {"elastic": elastic}
    return validate(RunConfig, {"name": "elastic", "task": TASK, "generator": generator, "placement": placement})


def make_stage(config: RunConfig, num: int) -> Stage:
    """A stage of ``num`` seed requests; nothing is booked."""
    context = RoundContext(round=0, task=load_task(TASK), gold=(), fingerprint="elastic", seed=0)
    return unjudged_stage(seed_plan(context, config.strategy, num).requests, num)


def write(num_engines: int, num: int, *, elastic: bool, meanwhile: Callable[[], None] = lambda: None) -> Written:
    """Write a stage with a pool of its own; ``meanwhile`` is called in a thread once the first answers are there."""
    config, events = make_config(num_engines, elastic=elastic), list[Event]()
    plan = plan_placement(config, node_facts())
    pool = GeneratorPool(config, only_task(config, load_task(TASK)), plan, emit=events.append)
    stage, answers, texts, busy_s = make_stage(config, num), Counter[str](), dict[str, str](), dict[str, float]()
    disturber = threading.Thread(target=meanwhile, daemon=True)
    started = time.monotonic()
    try:
        for chunk in pool.generate(stage):
            if not answers:
                disturber.start()
            outcomes = list(outcomes_from_table(chunk.table))
            stage.settle(iter(outcomes))
            answers.update(outcome.request_id for outcome in outcomes)
            texts.update((outcome.request_id, outcome.text + outcome.reason) for outcome in outcomes)
            for engine, report in chunk.engines.items():
                busy_s[f"{engine} {report.restarts}"] = report.busy_s
        seconds = time.monotonic() - started
    finally:
        pool.close()
    disturber.join()
    return Written(seconds=seconds, busy_s=sum(busy_s.values()), answers=answers, texts=texts, events=events)


def compare_with_fixed(cluster: ScalingCluster, num_engines: int, seconds: float) -> tuple[dict[str, Any], Written]:
    """From no node to none; then with all nodes from the beginning. Also returns what the second wrote."""
    num = round(REQUESTS_S * num_engines * seconds)
    with NodeClock(cluster) as clock:
        grown = write(num_engines, num, elastic=True)
        is_empty = cluster.wait_for(0)
    request_resources(bundles=[NODE] * num_engines)
    if not cluster.wait_for(num_engines):
        raise SystemExit("the autoscaler does not start all nodes")
    fixed = write(num_engines, num, elastic=False)
    request_resources(bundles=[])
    cluster.wait_for(0)
    node_start_s = clock.first_s or 0.0
    return {
        "requests": num,
        "makespan_s": grown.seconds,
        "fixed_s": fixed.seconds,
        "node_start_s": node_start_s,
        "makespan_ratio": grown.seconds / (fixed.seconds + node_start_s),
        "node_s": clock.node_s,
        "work_s": grown.busy_s,
        "node_ratio": clock.node_s / grown.busy_s,
        "most_nodes": clock.most,
        "emptied": is_empty,
        **differences(grown, fixed),
    }, fixed


def differences(one: Written, undisturbed: Written) -> dict[str, int]:
    """Requests that were not answered, answered more than once, and answered in another way."""
    return {
        "lost": len(undisturbed.texts.keys() - one.texts.keys()),
        "duplicated": sum(num - 1 for num in one.answers.values()),
        "different": sum(undisturbed.texts[key] != text for key, text in one.texts.items()),
    }


def run_schedule(cluster: ScalingCluster, number: int, num_engines: int, undisturbed: Written) -> dict[str, Any]:
    """Preempt one to three nodes while a stage is written."""
    draw = random.Random(f"elastic-{number}")
    plan = [(draw.uniform(0.0, 8.0), draw.choice(NOTICES_S)) for _ in range(draw.randint(1, 3))]
    taken = 0

    def preempt() -> None:
        nonlocal taken
        for after_s, notice_s in plan:
            time.sleep(after_s)
            taken += cluster.preempt(draw, notice_s)

    written = write(num_engines, len(undisturbed.texts), elastic=True, meanwhile=preempt)
    return {
        "schedule": number,
        "seconds": written.seconds,
        "preempted": taken,
        "engines_lost": written.num(EngineLost),
        "engines_drained": sum(
            isinstance(event, EngineStopped) and "taken away" in event.reason for event in written.events
        ),
        **differences(written, undisturbed),
    }


def run_schedules(cluster: ScalingCluster, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All schedules that are not done yet, after an undisturbed stage of the same requests."""
    work: Path = options.work
    work.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in work.read_text(encoding="utf-8").splitlines()] if work.exists() else []
    if len(done) >= options.schedules:
        return done[: options.schedules]
    undisturbed = write(options.schedule_engines, options.schedule_requests, elastic=True)
    for number in range(len(done), options.schedules):
        done.append(run_schedule(cluster, number, options.schedule_engines, undisturbed))
        with work.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print("  ".join(f"{name} {value:.4g}" for name, value in done[-1].items()), flush=True)
    return done


def main() -> None:
    """Measure, disturb, count; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=120.0, help="of work for each engine; 0: only schedules")
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--schedule-engines", type=int, default=2)
    parser.add_argument("--schedule-requests", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/elastic.jsonl"), help="the schedules that are done")
    parser.add_argument("--results", type=Path, default=None)
    options = parser.parse_args()
    cluster = ScalingCluster(max(options.engines, options.schedule_engines + 1), NODE, IDLE_S)
    result: dict[str, Any] = {"engines": options.engines, "lost": 0, "duplicated": 0, "different": 0}
    try:
        cluster.start()
        if options.seconds:
            scaled, _ = compare_with_fixed(cluster, options.engines, options.seconds)
            result |= scaled
            for name, value in scaled.items():
                print(f"{name:16s} {value:10.3f}", flush=True)
        schedules = run_schedules(cluster, options)
        cluster.wait_for(0)
        result["held_at_end"] = len(cluster.nodes())
    finally:
        cluster.shutdown()
    for name in ("lost", "duplicated", "different"):
        result[name] += sum(schedule[name] for schedule in schedules)
    for name in ("preempted", "engines_lost", "engines_drained"):
        result[name] = sum(schedule[name] for schedule in schedules)
    keep_result(options.results, {**result, "schedules": len(schedules)})


if __name__ == "__main__":
    main()
