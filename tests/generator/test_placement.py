"""What fits is placed on the right nodes; what does not is refused with the arithmetic."""

from typing import Any

import pytest

from s3ray.config import RunConfig, validate
from s3ray.errors import InputError
from s3ray.generator.placement import NodeFacts, plan_placement


def job(engines: int = 1, workers: int = 1, mode: str = "swap", engine: str = "vllm", **generator: Any) -> RunConfig:
    raw = {
        "name": "job",
        "task": "imdb",
        "generator": {"engine": engine, "model": "m", "engines": engines, **generator},
        "student": {"workers": workers},
        "placement": {"mode": mode},
    }
    return validate(RunConfig, raw, "job.yaml")


def nodes(*shape: tuple[int, int]) -> list[NodeFacts]:
    return [NodeFacts(node_id=f"n{place}", num_cpus=cpus, num_gpus=gpus) for place, (cpus, gpus) in enumerate(shape)]


def test_engines_of_a_cpu_node_share_its_cores() -> None:
    plan = plan_placement(job(engines=2, workers=2), nodes((8, 0)))
    assert [(item.share, item.num_shares, item.num_cpus) for item in plan.engines] == [(0, 2, 0), (1, 2, 0)]
    assert (plan.num_workers, plan.cpus_per_worker, plan.gpus_per_worker) == (2, 4, 0)


def test_engines_spread_over_cpu_nodes_by_their_cores() -> None:
    plan = plan_placement(job(engines=3), nodes((4, 0), (8, 0)))
    assert sorted(item.node_id or "" for item in plan.engines) == ["n0", "n1", "n1"]


def test_split_on_cpus_leaves_cores_to_the_workers() -> None:
    plan = plan_placement(job(engines=2, workers=2, mode="split"), nodes((8, 0)))
    assert [item.num_cpus for item in plan.engines] == [1, 1]
    assert plan.cpus_per_worker == 3


def test_tensor_parallel_engines_stay_on_one_node() -> None:
    plan = plan_placement(job(engines=4, tensor_parallel=4, workers=16), nodes((64, 8), (64, 8)))
    assert sorted(item.node_id or "" for item in plan.engines) == ["n0", "n0", "n1", "n1"]
    assert all(item.num_gpus == 4 for item in plan.engines)


def test_swap_lets_engines_and_workers_take_turns_on_all_gpus() -> None:
    plan = plan_placement(job(engines=8, workers=8), nodes((64, 8)))
    assert len(plan.engines) == plan.num_workers == 8


@pytest.mark.parametrize(
    ("config", "shape", "field", "says"),
    [
        (job(engines=3), [(2, 0)], "generator.engines", "At most 2 fit"),
        (job(engines=1, workers=3), [(2, 0)], "student.workers", "At most 2 fit"),
        (job(engines=2, workers=1, mode="split"), [(2, 0)], "student.workers", "0 CPUs"),
        (job(engines=1, tensor_parallel=2), [(8, 0)], "generator.tensor_parallel", "needs GPUs"),
        (job(engines=3, tensor_parallel=4), [(64, 8)], "generator.engines", "At most 2 such engines fit"),
        (job(engines=1, tensor_parallel=16), [(64, 8), (64, 8)], "generator.engines", "stays on one node"),
        (job(engines=8, workers=1, mode="split"), [(64, 8)], "student.workers", "0 GPUs"),
    ],
)
def test_what_does_not_fit_is_refused(config: RunConfig, shape: list[tuple[int, int]], field: str, says: str) -> None:
    with pytest.raises(InputError) as refusal:
        plan_placement(config, nodes(*shape), "job.yaml")
    assert refusal.value.field == field
    assert says in str(refusal.value)


def test_fake_engines_need_no_device() -> None:
    plan = plan_placement(job(engines=40, engine="fake"), nodes((2, 0)))
    assert len(plan.engines) == 40


def test_gold_needs_no_engine() -> None:
    raw = {"name": "job", "task": "imdb", "strategy": {"name": "gold"}, "generator": {"engines": 99}}
    assert plan_placement(validate(RunConfig, raw, ""), nodes((2, 0))).engines == ()
