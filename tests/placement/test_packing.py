"""Whatever the cluster and the engine: nothing is taken twice, and whatever was given back is found again."""

import math
from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.config.job import GeneratorConfig, PlacementConfig, RunConfig, StudentConfig
from s3ray.errors import InputError
from s3ray.placement.place import place_engine, plan_placement
from s3ray.placement.plan import EnginePlacement, NodeFacts, Plan

TYPES = ("", "H100")


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeFacts]:
    shape = st.tuples(st.integers(0, 10), st.integers(0, 8), st.sampled_from(TYPES))
    return [
        NodeFacts(node_id=f"n{place}", num_cpus=cpus, num_gpus=gpus, accelerator=accelerator if gpus else "")
        for place, (cpus, gpus, accelerator) in enumerate(draw(st.lists(shape, min_size=1, max_size=6)))
    ]


@st.composite
def jobs(draw: st.DrawFn) -> RunConfig:
    tensor_parallel, pipeline_parallel = draw(st.sampled_from([1, 2, 3, 4, 8, 12])), draw(st.integers(1, 3))
    share = draw(st.sampled_from([1.0, 0.5, 0.4, 0.25])) if tensor_parallel * pipeline_parallel == 1 else 1.0
    generator = GeneratorConfig(
        model="m",
        engines=draw(st.integers(1, 12)),
        min_engines=1,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        gpu_share=share,
        accelerator=draw(st.sampled_from([None, "H100"])),
    )
    student = StudentConfig(workers=draw(st.integers(1, 4)), accelerator=draw(st.sampled_from([None, "H100"])))
    mode = PlacementConfig(mode=draw(st.sampled_from(["split", "swap"])))
    return RunConfig(name="job", task="imdb", generator=generator, student=student, placement=mode)


def check(config: RunConfig, nodes: Sequence[NodeFacts], engines: Sequence[EnginePlacement]) -> None:
    """No node gives more than it has, the train workers' room included, and groups have the shape that vLLM takes."""
    generator, student = config.generator, config.student
    room = 0
    for node in nodes:
        here = [bundle for item in engines for bundle in item.bundles if bundle.node_id == node.node_id]
        parts = sum(bundle.num_gpus < 1 for bundle in here)
        gpus = sum(bundle.num_gpus for bundle in here if bundle.num_gpus >= 1)
        gpus += math.ceil(parts / math.floor(1 / generator.gpu_share))
        cpus = sum(bundle.num_cpus for bundle in here)
        assert gpus <= node.num_gpus
        assert cpus <= node.num_cpus
        assert not here or generator.accelerator in (None, node.accelerator)
        if student.accelerator in (None, node.accelerator):
            room += int(min(node.num_gpus - gpus, node.num_cpus - cpus))
    assert config.placement.mode == "swap" or room >= student.workers
    largest = max(node.num_gpus for node in nodes if generator.accelerator in (None, node.accelerator))
    for item in engines:
        assert item.num_gpus == generator.tensor_parallel * generator.pipeline_parallel * generator.gpu_share
        assert item.executor == ("ray" if len(item.bundles) > 1 else "mp" if item.num_gpus > 1 else "uni")
        if item.executor == "ray":
            assert {bundle.num_gpus for bundle in item.bundles} == {1}
            on_nodes = Counter(bundle.node_id for bundle in item.bundles)
            is_whole = all(num % generator.tensor_parallel == 0 for num in on_nodes.values())
            assert is_whole or generator.tensor_parallel > largest, "a stage stays on one node where one holds it"


def plan_or_none(config: RunConfig, nodes: Sequence[NodeFacts]) -> Plan | None:
    try:
        return plan_placement(config, nodes)
    except InputError:
        return None


@settings(max_examples=400, deadline=None)
@given(config=jobs(), nodes=clusters(), data=st.data())
def test_a_plan_takes_nothing_twice_and_a_lost_engine_finds_its_place_again(
    config: RunConfig, nodes: list[NodeFacts], data: st.DataObject
) -> None:
    plan = plan_or_none(config, nodes)
    if plan is None or plan.device == "cpu":
        return
    check(config, nodes, plan.engines)
    lost = data.draw(st.sampled_from(plan.engines))
    rest = [item for item in plan.engines if item is not lost]
    found = place_engine(config, lost.engine, nodes, rest, device="gpu")
    assert found is not None
    check(config, nodes, [*rest, found])
    assert found.engine == lost.engine


@settings(max_examples=200, deadline=None)
@given(config=jobs(), nodes=clusters())
def test_a_refused_number_of_engines_is_refused_for_want_of_room(config: RunConfig, nodes: list[NodeFacts]) -> None:
    """What fits with ``min_engines`` is the most that fits: one more finds no place."""
    plan = plan_or_none(config, nodes)
    if plan is None or len(plan.engines) == plan.num_wanted or plan.device == "cpu":
        return
    assert place_engine(config, "one-more", nodes, plan.engines, device="gpu") is None
