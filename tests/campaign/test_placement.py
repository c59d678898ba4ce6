"""One job stands for all runs of a campaign where engines and train workers are placed."""

from pathlib import Path

import pytest

from s3ray.campaign.run import config_of_all
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from tests.config.test_grid import load

CORES = [NodeFacts(node_id="a", num_cpus=8, num_gpus=0)]


@pytest.mark.parametrize("first", ["gold", "zerogen"])
def test_engines_are_placed_if_any_run_writes(tmp_path: Path, first: str) -> None:
    methods = {"gold": {"strategy.name": "gold"}, "zerogen": {"strategy.name": "zerogen"}}
    ordered = {first: methods[first], **methods}
    campaign = load(tmp_path, axes={"method": ordered}, seeds=[3], trainings=2)
    config = config_of_all(campaign, [run.config for run in campaign.runs], passes=False)
    plan = plan_placement(config, CORES)
    assert (len(plan.engines), plan.num_workers) == (1, 2)


def test_without_any_run_that_writes_there_are_no_engines(tmp_path: Path) -> None:
    campaign = load(tmp_path, axes={"method": {"gold": {"strategy.name": "gold"}}}, seeds=[3])
    config = config_of_all(campaign, [run.config for run in campaign.runs], passes=True)
    assert plan_placement(config, CORES).engines == ()
