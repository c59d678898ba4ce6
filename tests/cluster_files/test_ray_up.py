"""The files of `ray up` pass Ray's own validation, and what they start is what s3ray needs. Nothing asks a cloud."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

from s3ray.config.load import load_config
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from tests.cluster_files.files import CLUSTER, ROOT, documents

FILES = sorted((CLUSTER / "ray-up").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    (found,) = documents(request.param)
    return found


def test_there_is_one_for_each_cloud() -> None:
    assert [path.stem for path in FILES] == ["aws", "gcp"]
    assert [documents(path)[0]["provider"]["type"] for path in FILES] == ["aws", "gcp"]


def test_ray_takes_it(config: dict[str, Any]) -> None:
    """As `ray up` does: with Ray's defaults for the cloud, against ray-schema.json in the wheel."""
    validate_config(prepare_config(config))


def test_the_head_is_paid_for_and_the_workers_are_spot(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    head, (worker,) = (
        types[config["head_node_type"]],
        [types[name] for name in types if name != config["head_node_type"]],
    )
    market = {
        "aws": ("InstanceMarketOptions", "MarketType", "spot"),
        "gcp": ("scheduling", "provisioningModel", "SPOT"),
    }
    section, field, value = market[config["provider"]["type"]]
    assert section not in head["node_config"]
    assert worker["node_config"][section][field] == value
    assert head["resources"] == {"CPU": 0}
    # They come when a job asks for them. All that it may ask for fits on the most there can be, once they are there.
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == config["max_workers"]
    facts = [NodeFacts(node_id="head", num_cpus=0, num_gpus=0)]
    job, elastic = ROOT / "jobs" / "gpu-8.yaml", {"placement.elastic": True}
    assert plan_placement(load_config(job, elastic), facts).num_planned == 8
    for place in range(worker["max_workers"]):
        resources = worker["resources"]
        facts.append(NodeFacts(node_id=f"n{place}", num_cpus=resources["CPU"], num_gpus=resources["GPU"]))
    assert len(plan_placement(load_config(job), facts).engines) == 8


def _starts(config: dict[str, Any], which: str) -> dict[str, Any]:
    """What Ray makes of the `ray start` among the commands of the head or of a worker."""
    (line,) = [command for command in config[f"{which}_start_ray_commands"] if "ray start" in command]
    assert "RAY_AUTH_MODE=token" in line
    assert "ray stop" in config[f"{which}_start_ray_commands"][0]
    args = shlex.split(line[line.index("ray start") + len("ray start") :])
    return dict(scripts.cli.commands["start"].make_context("start", args).params)


def test_ray_is_started_with_options_that_it_has(config: dict[str, Any]) -> None:
    head, worker = _starts(config, "head"), _starts(config, "worker")
    assert head["head"]
    assert head["num_cpus"] == 0
    assert head["dashboard_host"] == "127.0.0.1"
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_s3ray_is_installed_from_this_checkout_and_the_token_goes_along(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"~/s3ray": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    assert {".git", ".venv*", "runs"} <= set(config["rsync_exclude"])
    install = " ".join(config["setup_commands"])
    (extras,) = re.findall(r"\$HOME/s3ray\[([\w,]+)\]", install)
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra
    assert "gpu" in extras.split(",")
    store = {"aws": "s3,", "gcp": "gcsfs"}[config["provider"]["type"]]
    assert store in f"{extras}, {install}"
    assert "-c ~/s3ray/constraints.txt" in install


def test_what_the_user_must_fill_in_stands_out() -> None:
    for path, placeholder in zip(FILES, ("ami-REPLACE", "PROJECT"), strict=True):
        text = path.read_text(encoding="utf-8")
        assert placeholder in text
        assert placeholder in Path(ROOT / "docs/clusters/aws-gcp.md").read_text(encoding="utf-8")
        assert not re.search(r"\bami-[0-9a-f]{8,}\b", text)
