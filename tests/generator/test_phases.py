"""A plan in which somebody would wait for devices for ever is refused before it starts."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.config import RunConfig
from s3ray.errors import InputError
from s3ray.generator import placement
from s3ray.generator.phases import who_would_wait
from s3ray.generator.placement import plan_placement
from s3ray.generator.plan import Bundle, EnginePlacement, NodeFacts, Plan
from s3ray.jobfile import validate

NODES = [NodeFacts(node_id="n0", num_cpus=8, num_gpus=4)]


def make_plan(mode: str, *gpus: float, workers: int = 1, cpus_per_worker: int = 1) -> Plan:
    """Engines on n0 with so many GPUs each, and train workers with a GPU each."""
    engines = tuple(
        EnginePlacement(
            engine=f"engine-{number}", device="gpu", bundles=(Bundle(node_id="n0", num_cpus=1, num_gpus=num),)
        )
        for number, num in enumerate(gpus)
    )
    return Plan(
        mode=mode,
        device="gpu",
        engines=engines,
        num_wanted=len(engines),
        num_workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=1,
    )


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (make_plan("split", 1, 1, 1, 1), "train worker 1 of 1 finds no node with 1 CPU and 1 GPU beside the engines"),
        (make_plan("split", 2, 1, workers=2), "train worker 2 of 2"),
        (make_plan("swap", 1, 1, 1, 1, workers=5), "train worker 5 of 5 .* when the engines have left"),
        (make_plan("swap", 4, workers=2, cpus_per_worker=5), "train worker 2 of 2 finds no node with 5 CPU"),
        (make_plan("swap", 2, 2, 1), "engine-2 finds no 1 GPU and 1 CPU on n0"),
        (make_plan("split", 0.5, 0.75, 0.5, 0.5, workers=2), "train worker 2 of 2"),  # 0.25 + 0.5 free are no GPU
        (replace(make_plan("swap", 1), worker_accelerator="H100"), "train worker 1 of 1"),
    ],
)
def test_who_would_wait_is_named(plan: Plan, says: str) -> None:
    assert re.match(says, who_would_wait(plan, NODES))


@pytest.mark.parametrize(
    "plan",
    [
        make_plan("split", 1, 1, 1),
        make_plan("swap", 1, 1, 1, 1, workers=4),
        make_plan("split", 0.5, 0.5, 0.25, 0.25, workers=2),  # halves and quarters fill a GPU each
        make_plan("split", workers=4),
    ],
)
def test_nobody_waits_where_each_phase_finds_its_devices(plan: Plan) -> None:
    assert who_would_wait(plan, NODES) == ""


def job(**fields: object) -> RunConfig:
    raw = {
        "name": "job",
        "task": "imdb",
        "generator": {
            "engine": "fake",
            "fake": {"takes_gpus": fields["on_gpus"]},
            "engines": fields["engines"],
            "min_engines": fields["least"],
            "tensor_parallel": fields["tensor_parallel"],
            "gpu_share": fields["gpu_share"],
        },
        "student": {"workers": fields["workers"]},
        "placement": {"mode": fields["mode"]},
    }
    return validate(RunConfig, raw)


@settings(max_examples=300)
@given(
    shape=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=4),
    fields=st.fixed_dictionaries(
        {
            "engines": st.integers(1, 6),
            "least": st.none() | st.just(1),
            "tensor_parallel": st.sampled_from([1, 1, 2, 3]),
            "gpu_share": st.sampled_from([1.0, 1.0, 0.5, 0.3]),
            "workers": st.integers(1, 6),
            "mode": st.sampled_from(["split", "swap"]),
            "on_gpus": st.booleans(),
        }
    ),
)
def test_what_the_planner_lets_pass_never_waits(shape: list[tuple[int, int]], fields: dict[str, object]) -> None:
    nodes = [NodeFacts(node_id=f"n{place}", num_cpus=cpus, num_gpus=gpus) for place, (cpus, gpus) in enumerate(shape)]
    problem = ""
    try:
        plan_placement(job(**fields), nodes)
    except InputError as refusal:
        problem = refusal.problem
    assert "would wait for ever" not in problem, "the planner packed what Ray would not"


def test_a_plan_that_would_deadlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the planner overlooks."""
    monkeypatch.setattr(placement, "workers_refused", None)
    monkeypatch.setattr(placement, "_num_beside", lambda config: 0)
    fields = {"engines": 4, "least": None, "tensor_parallel": 1, "gpu_share": 1.0, "workers": 1, "on_gpus": True}
    with pytest.raises(InputError, match="would wait for ever: train worker 1 of 1") as refusal:
        plan_placement(job(mode="split", **fields), NODES)
    assert (refusal.value.field, refusal.value.exit_code) == ("placement.mode", 2)
