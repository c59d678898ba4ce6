"""Engines sleep by default only where cards, hosts and the job are known to allow it; how long that may take."""

from dataclasses import replace
from typing import Any

import pytest

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.config.shaping import data_shaping
from s3ray.placement.place import as_planned, plan_placement
from s3ray.placement.plan import NodeFacts
from s3ray.placement.sleep import sleep_limit_s

H100 = NodeFacts(node_id="n", num_cpus=64, num_gpus=8, accelerator="H100", memory_gib=1400)


def job(leave: str = "auto", mode: str = "swap", strategy: dict[str, Any] | None = None, **generator: Any) -> RunConfig:
    raw = {
        "name": "job",
        "task": "imdb",
        "strategy": strategy or {"name": "s3"},
        "generator": {"model": "m", "engines": 8, **generator},
        "placement": {"mode": mode, "leave": leave},
    }
    return validate(RunConfig, raw)


def test_engines_of_one_gpu_each_sleep_where_the_host_has_room_for_all_cards() -> None:
    plan = plan_placement(job(), [H100])
    assert (plan.sleep_level, plan.gpus_per_worker) == (1, 0.4)
    assert all(engine.can_sleep for engine in plan.engines)
    assert "which sleep meanwhile" in plan.lines()[-1]
    assert as_planned(job(), plan).placement.leave == "sleep_1"


@pytest.mark.parametrize(
    ("config", "node"),
    [
        (job(leave="stop"), H100),
        (job(mode="split", engines=7), H100),
        (job(engines=7), H100),
        (job(engines=4, tensor_parallel=2), H100),
        (job(engines=16, gpu_share=0.5), H100),
        (job(min_engines=4), H100),
        (job(engine="fake", fake={"takes_gpus": True}), H100),
        (job(strategy={"name": "zerogen", "rows": 9}), H100),
        (job(strategy={"name": "s3", "rounds": 0}), H100),
        (job(), replace(H100, accelerator="")),
        (job(), replace(H100, accelerator="T4")),
        (job(), replace(H100, memory_gib=600)),
        (job(), replace(H100, memory_gib=0)),
        (job(), replace(H100, num_cpus=12)),
    ],
)
def test_engines_stop_where_anything_speaks_against_sleep(config: RunConfig, node: NodeFacts) -> None:
    plan = plan_placement(config, [node])
    assert plan.sleep_level == 0
    assert as_planned(config, plan).placement.leave == "stop"


def test_how_an_engine_makes_way_does_not_shape_the_data() -> None:
    assert data_shaping(job()) == data_shaping(job(leave="sleep_2"))


def test_the_more_memory_is_to_be_pinned_the_longer_falling_asleep_may_take() -> None:
    assert sleep_limit_s(1, [H100]) == 120 + 640
    assert sleep_limit_s(1, [replace(H100, num_gpus=1), replace(H100, num_gpus=2, accelerator="L4")]) == 120 + 80
    assert sleep_limit_s(2, [H100]) == 120
