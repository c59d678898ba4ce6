"""Engines and train workers take turns on the same devices: two pretend GPUs for two of each."""

import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import s3ray
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.storage.run_folder import RunStore
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import Event
from tests.cluster.heads import WAIT_S
from tests.models import make_bert
from tests.sources import InsistentSource, make_pool, make_request

pytestmark = pytest.mark.ray


def make_job(student: Path, address: str, **placement: Any) -> RunConfig:
    raw = {
        "name": "swap",
        "task": "review_sentences",
        "gold": {"extrapolate": 30, "select": 20, "test": 20},
        "strategy": {"name": "s3", "rounds": 1, "seed_examples": 60, "rows": 90, "reasons_per_label": 5},
        "generator": {"engine": "fake", "engines": 2, "prompt_form": "completion", "fake": {"takes_gpus": True}},
        "student": {"model": str(student), "epochs": 1, "max_length": 32, "workers": 2},
        "placement": {"mode": "swap", **placement},
        "cluster": {"address": address},
    }
    return validate(RunConfig, raw)


def test_engines_leave_for_every_training_and_come_back(address: str, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    config = make_job(make_bert(tmp_path / "student"), address)
    told = plan_beside_another_job(config, tmp_path / "run")
    assert "split suits this job better" in told  # so short are its phases
    assert "1 of 2 GPU are held (1 by somebody)" in told
    s3ray.run(config, out=tmp_path / "run")
    store = RunStore(tmp_path / "run")
    assert holders(store) == ["engines", "workers"] * 2
    metrics = store.read_json("metrics.json")
    assert set(metrics["test"]) >= {"accuracy", "num_examples"}
    assert metrics["time"]["engines"]["engine-1"]["waiting_for_the_other_phase"] > 0
    assert metrics["time"]["trainers"]["train workers"]["workers"] == 2


def test_engines_that_sleep_keep_their_place_and_wake_for_the_next_round(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    events: list[Event] = []
    pool = make_pool(
        events, engines=2, fake={"takes_gpus": True}, student={"workers": 2}, placement={"leave": "sleep_1"}
    )
    workers: list[Any] = []
    try:
        for turn in range(2):
            source = InsistentSource([make_request(index) for index in range(20 * turn, 20 * turn + 20)])
            for chunk in pool.generate(source):
                source.settle(list(outcomes_from_table(chunk.table)))
            pool.pause()
            # Two train workers find a GPU each beside the engines: no two of them the same.
            workers = [ray.remote(holder()).options(num_cpus=1, num_gpus=0.4).remote() for _ in range(2)]
            held = ray.get([worker.gpus.remote() for worker in workers], timeout=WAIT_S)
            assert len({gpu for gpus in held for gpu in gpus}) == 2
            for worker in workers:
                ray.kill(worker)
    finally:
        pool.close()
    names = [event.kind for event in events]
    assert [names.count(f"engine_{what}") for what in ("starting", "asleep", "awake", "stopped")] == [2, 4, 2, 2]


def holder() -> type:
    """An actor in the place of a train worker: a class that Ray sends whole, so that nothing here is imported there."""

    class Holder:
        def gpus(self) -> list[str]:
            import ray

            return list(ray.get_runtime_context().get_accelerator_ids()["GPU"])

    return Holder


def plan_beside_another_job(config: RunConfig, folder: Path) -> str:
    """What `s3ray plan` says while somebody else on the cluster holds one of the GPUs."""
    ray.init(address=config.cluster.address, log_to_driver=False, logging_level="ERROR", namespace="somebody")
    group = placement_group([{"GPU": 1}], name="somebody")
    ray.get(group.ready())
    told = str(s3ray.plan(config, out=folder))
    deadline = time.monotonic() + WAIT_S
    while "at this moment" not in told and time.monotonic() < deadline:  # Ray counts with a delay
        told = str(s3ray.plan(config, out=folder))
    remove_placement_group(group)
    ray.shutdown()
    return told


def holders(store: RunStore) -> list[str]:
    """Who had the devices, one after the other; fails where both had them at once."""
    turns: list[str] = []
    running: set[str] = set()
    for event in store.events():
        match event["event"]:
            case "engine_starting":
                running.add(event["engine"])
            case "engine_stopped":
                running.remove(event["engine"])
            case "stage_finished":
                assert len(running) == 2
                turns += ["engines"] * (turns[-1:] != ["engines"])
            case "student_started":
                assert not running
                turns.append("workers")
    return turns


def spanning() -> type:
    """The actor of an engine over several nodes, sent whole too: the bundles of its group have GPUs, it has none."""

    class Spanning:
        async def look(self, limit_s: float) -> list[list[int]]:
            import asyncio
            from functools import partial

            import ray

            from s3ray.cluster import on_each_bundle

            return await asyncio.to_thread(on_each_bundle, partial(ray.get_gpu_ids), 2, limit_s)

    return Spanning


def test_an_engine_over_several_nodes_looks_at_each_of_its_gpus_there(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    group = placement_group([{"CPU": 1, "GPU": 1}, {"GPU": 1}])
    place = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    actor = ray.remote(spanning()).options(num_cpus=1, num_gpus=0, scheduling_strategy=place).remote()
    try:
        found = ray.get(actor.look.remote(WAIT_S), timeout=WAIT_S)
    finally:
        remove_placement_group(group)
    assert sorted(found) == [[0], [1]]
