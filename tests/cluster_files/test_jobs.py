"""The job files for clusters fit the nodes that they speak of, and are refused on smaller ones with the arithmetic."""

import pytest

from s3ray.config.grid import load_campaign
from s3ray.config.load import load_config
from s3ray.errors import InputError
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts, Plan
from tests.cluster_files.files import ROOT


def nodes(num: int, num_gpus: int, num_cpus: int = 96) -> list[NodeFacts]:
    """Nodes with GPUs beside a head that lends Ray nothing, as in all of cluster/."""
    head = NodeFacts(node_id="head", num_cpus=0, num_gpus=0)
    return [head, *(NodeFacts(node_id=f"n{place}", num_cpus=num_cpus, num_gpus=num_gpus) for place in range(num))]


def plan(job: str, at: list[NodeFacts]) -> Plan:
    return plan_placement(load_config(ROOT / "jobs" / job), at)


FITTING = {
    "gpu-1.yaml": (nodes(1, 1, 8), 1, "uni", 1),
    "gpu-8.yaml": (nodes(1, 8), 8, "uni", 1),
    "nodes-8.yaml": (nodes(8, 8), 64, "uni", 4),
    "70b.yaml": (nodes(2, 8), 4, "mp", 2),
    "fake.yaml": ([NodeFacts(node_id=f"n{place}", num_cpus=2, num_gpus=2) for place in range(3)], 4, "uni", 1),
}


@pytest.mark.parametrize("job", FITTING)
def test_it_fits_the_nodes_that_it_is_for(job: str) -> None:
    at, num_engines, executor, num_workers = FITTING[job]
    found = plan(job, at)
    assert len(found.engines) == num_engines
    assert {item.executor for item in found.engines} == {executor}
    assert found.num_workers == num_workers
    assert found.mode == "swap"
    idle = sum(node.num_gpus for node in at) - sum(item.num_gpus for item in found.engines)
    assert idle == (2 if job == "fake.yaml" else 0)  # room for engines of a node that is lost


@pytest.mark.parametrize(
    ("job", "at", "field"),
    [
        ("gpu-8.yaml", nodes(1, 4), "generator.engines"),
        ("nodes-8.yaml", nodes(3, 8), "generator.min_engines"),
        ("70b.yaml", nodes(1, 8), "generator.engines"),
    ],
)
def test_less_is_refused(job: str, at: list[NodeFacts], field: str) -> None:
    with pytest.raises(InputError) as refused:
        plan(job, at)
    assert field in str(refused.value)


def test_spot_nodes_may_come_late_and_a_lost_one_is_done_without() -> None:
    found = plan("nodes-8.yaml", nodes(4, 8))
    assert (len(found.engines), found.num_wanted) == (32, 64)
    assert len(plan("fake.yaml", [NodeFacts(node_id="n0", num_cpus=2, num_gpus=2)]).engines) == 2


def test_every_run_of_the_campaign_fits_two_nodes() -> None:
    campaign = load_campaign(ROOT / "jobs" / "benchmark" / "generators.yaml")
    runs = [run.config for run in campaign.runs]
    assert len(runs) == 78
    for config in runs:
        found = plan_placement(config, nodes(2, 8))
        assert found.num_wanted == len(found.engines)
        if config.generates:
            assert sum(item.num_gpus for item in found.engines) == 16


def test_what_the_70b_job_proposes_for_smaller_gpus_fits() -> None:
    changes = {"generator.tensor_parallel": 8, "generator.engines": 2}
    found = plan_placement(load_config(ROOT / "jobs" / "70b.yaml", changes), nodes(2, 8))
    assert [item.num_gpus for item in found.engines] == [8, 8]
