"""What fits is placed on the right nodes; what does not is refused with the arithmetic."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.errors import InputError
from s3ray.placement import place as placement
from s3ray.placement.place import place_engine, place_on, plan_placement, who_would_wait, without_idle_workers
from s3ray.placement.plan import Bundle, EnginePlacement, NodeFacts, Plan

H100, A10 = "H100", "A10G"


def job(
    engines: int = 1,
    workers: int = 1,
    mode: str = "swap",
    on: str | None = None,
    min_workers: int | None = None,
    leave: str = "stop",
    elastic: bool = False,
    **generator: Any,
) -> RunConfig:
    """A job; ``on`` is the GPU type of the train workers."""
    raw = {
        "name": "job",
        "task": "imdb",
        "generator": {"engine": "vllm", "model": "m", "engines": engines, **generator},
        "student": {"workers": workers, "accelerator": on, "min_workers": min_workers},
        "placement": {"mode": mode, "leave": leave, "elastic": elastic},
    }
    return validate(RunConfig, raw)


def nodes(*shape: tuple[int, int] | tuple[int, int, str]) -> list[NodeFacts]:
    """Nodes n0, n1, ... of so many CPUs and GPUs, and of a GPU type where one is given."""
    typed = [node if len(node) == 3 else (*node, "") for node in shape]
    return [
        NodeFacts(node_id=f"n{place}", num_cpus=num_cpus, num_gpus=num_gpus, accelerator=accelerator)
        for place, (num_cpus, num_gpus, accelerator) in enumerate(typed)
    ]


def groups(plan: Plan) -> dict[str, int]:
    """How many engines have which bundles where: ``2x1@n0+2x1@n1 ray`` is two bundles of one GPU on each node."""
    words: Counter[str] = Counter()
    for item in plan.engines:
        bundles = Counter((bundle.num_gpus, bundle.node_id) for bundle in item.bundles)
        held = "+".join(f"{num}x{gpus:g}@{node}" for (gpus, node), num in bundles.items())
        words[f"{held} {item.executor}"] += 1
    return dict(words)


Shape = Sequence[tuple[int, int] | tuple[int, int, str]]
BIG: Shape = [(64, 8)] * 64

PLACED: dict[str, tuple[RunConfig, Shape, dict[str, int]]] = {
    "one GPU": (job(), [(8, 1)], {"1x1@n0 uni": 1}),
    "one node of 8, an engine per GPU": (job(engines=8, workers=8), [(64, 8)], {"1x1@n0 uni": 8}),
    "8 nodes of 8, engines spread evenly": (
        job(engines=16, workers=64),
        [(64, 8)] * 8,
        {f"1x1@n{node} uni": 2 for node in range(8)},
    ),
    "64 nodes of 8": (job(engines=512), BIG, {f"1x1@n{node} uni": 8 for node in range(64)}),
    "fake engines that take GPUs": (
        job(engines=2, engine="fake", fake={"takes_gpus": True}),
        [(8, 2)],
        {"1x1@n0 uni": 2},
    ),
    "TP 2": (job(engines=4, tensor_parallel=2), [(64, 8)], {"1x2@n0 mp": 4}),
    "TP 4 on two nodes": (
        job(engines=4, tensor_parallel=4, workers=16),
        [(64, 8)] * 2,
        {"1x4@n0 mp": 2, "1x4@n1 mp": 2},
    ),
    "TP 4 where it leaves least": (
        job(engines=3, tensor_parallel=4),
        [(64, 8), (64, 6), (64, 2)],
        {"1x4@n0 mp": 2, "1x4@n1 mp": 1},
    ),
    "TP 4 on the node that it fills": (job(tensor_parallel=4), [(64, 8), (64, 4)], {"1x4@n1 mp": 1}),
    "TP 12 with its actor where a CPU is": (job(tensor_parallel=12), [(0, 8), (1, 4)], {"4x1@n1+8x1@n0 ray": 1}),
    "TP 4 across nodes, a CPU where its actor is and none elsewhere": (
        job(tensor_parallel=4, workers=2, mode="split"),
        [(2, 3), (2, 3)],
        {"3x1@n0+1x1@n1 ray": 1},
    ),
    "TP 6 on as few nodes as will do": (
        job(tensor_parallel=6),
        [(8, 2), (8, 4), (8, 2)],
        {"4x1@n1+2x1@n0 ray": 1},
    ),
    "TP 8 on 64 nodes": (job(engines=64, tensor_parallel=8), BIG, {f"1x8@n{node} mp": 1 for node in range(64)}),
    "TP 16 across nodes of 8": (
        job(engines=2, tensor_parallel=16),
        [(64, 8)] * 4,
        {"8x1@n0+8x1@n1 ray": 1, "8x1@n2+8x1@n3 ray": 1},
    ),
    "PP 2 x TP 8 on two nodes": (
        job(tensor_parallel=8, pipeline_parallel=2),
        [(64, 8)] * 2,
        {"8x1@n0+8x1@n1 ray": 1},
    ),
    "PP 2 x TP 4 inside a node": (
        job(tensor_parallel=4, pipeline_parallel=2),
        [(64, 4), (64, 8), (64, 4)],
        {"1x8@n1 mp": 1},
    ),
    "PP 2 x TP 4 by whole stages": (
        job(tensor_parallel=4, pipeline_parallel=2),
        [(64, 6), (64, 3), (64, 6)],
        {"4x1@n0+4x1@n2 ray": 1},
    ),
    "halves": (job(engines=4, gpu_share=0.5), [(64, 2)], {"1x0.5@n0 uni": 4}),
    "quarters": (job(engines=8, gpu_share=0.25), [(64, 1)] * 2, {"1x0.25@n0 uni": 4, "1x0.25@n1 uni": 4}),
    "mixed types, engines on one and trainers on the other": (
        job(engines=8, workers=4, mode="split", accelerator=H100, on=A10),
        [(32, 4, A10), (64, 8, H100)],
        {"1x1@n1 uni": 8},
    ),
    "engines of any type keep off the trainers' nodes": (
        job(engines=4, workers=4, mode="split", on=A10),
        [(32, 4, A10), (32, 4, H100)],
        {"1x1@n1 uni": 4},
    ),
    "mixed sizes without labels": (
        job(engines=5, tensor_parallel=2),
        [(64, 8), (16, 2)],
        {"1x2@n0 mp": 4, "1x2@n1 mp": 1},
    ),
    "split with a trainer": (job(engines=6, workers=2, mode="split"), [(64, 8)], {"1x1@n0 uni": 6}),
    "halves leave a whole GPU to the trainer": (
        job(engines=2, gpu_share=0.5, mode="split"),
        [(8, 1)] * 2,
        {"1x0.5@n0 uni": 2},
    ),
    "a head without GPUs": (job(engines=2), [(8, 0), (8, 2)], {"1x1@n1 uni": 2}),
    "what fits, the rest later": (job(engines=4, min_engines=2), [(64, 3)], {"1x1@n0 uni": 3}),
    "as many as have a CPU": (job(engines=8, min_engines=2), [(2, 8)], {"1x1@n0 uni": 2}),
}


@pytest.mark.parametrize("case", PLACED)
def test_what_fits_is_placed(case: str) -> None:
    config, shape, wanted = PLACED[case]
    plan = plan_placement(config, nodes(*shape))
    assert groups(plan) == wanted
    assert [item.engine for item in plan.engines] == [f"engine-{number}" for number in range(len(plan.engines))]
    assert all(
        sum(bundle.num_cpus for bundle in item.bundles) == item.bundles[0].num_cpus == 1 for item in plan.engines
    )
    assert plan.num_wanted == config.generator.engines
    assert (plan.num_workers, plan.gpus_per_worker) == (config.student.workers, 1)


@pytest.mark.parametrize(
    ("config", "shape", "field", "says"),
    [
        (job(engines=3), [(2, 0)], "generator.engines", ["cluster has 2 CPUs", "At most 2 fit"]),
        (job(workers=3), [(2, 0)], "student.workers", ["3 train workers", "2 CPUs", "At most 2 fit"]),
        (job(engines=2, mode="split"), [(2, 0)], "student.workers", ["0 CPUs", "beside 2 engines", "`engines` to 1"]),
        (job(tensor_parallel=2), [(8, 0)], "generator.tensor_parallel", ["needs GPUs, and the cluster has none"]),
        (job(gpu_share=0.5), [(8, 0)], "generator.gpu_share", ["needs GPUs"]),
        (job(on=H100), [(8, 0)], "student.accelerator", ["needs GPUs"]),
        (job(workers=4, min_workers=3), [(2, 0)], "student.workers", ["3 train workers", "At most 2 fit"]),
        (job(workers=2, min_workers=3), [(4, 0)], "student.min_workers", ["more than student.workers (2)"]),
        (
            job(engines=3, tensor_parallel=4),
            [(64, 8)],
            "generator.engines",
            ["3 engines of 4 GPU", "1 node of 8 GPUs with 64 CPUs", "At most 2 such", "generator.min_engines: 2"],
        ),
        (
            job(engines=2, tensor_parallel=4),
            [(8, 4), (8, 3)],
            "generator.engines",
            ["At most 1 such engine fit", "spans nodes only"],
        ),
        (job(tensor_parallel=16), [(64, 8)], "generator.engines", ["1 engine of 16 GPU", "At most 0 such"]),
        (
            job(tensor_parallel=4, pipeline_parallel=2),
            [(8, 6), (8, 3)],
            "generator.engines",
            ["1 engine of 2 x 4 GPU", "a stage spans nodes only where no node has 4 GPUs"],
        ),
        (job(engines=5, gpu_share=0.5), [(8, 2)], "generator.engines", ["5 engines of 0.5 GPU", "At most 4 such"]),
        (job(engines=3, gpu_share=0.4), [(8, 1)], "generator.engines", ["At most 2 such"]),
        (
            job(engines=8, mode="split"),
            [(64, 8)],
            "student.workers",
            ["1 train worker do", "0 GPUs", "beside 8 engines", "`engines` to 7", "placement.mode: swap"],
        ),
        (
            job(engines=2, tensor_parallel=4, workers=2, mode="split"),
            [(64, 4), (64, 3)],
            "generator.engines",
            ["At most 1 such", "of which train workers hold 2"],
        ),
        (
            job(engines=8),
            [(2, 8)],
            "generator.engines",
            ["every engine reserves a CPU", "8 GPUs with 2 CPUs", "At most 2"],
        ),
        (job(workers=4), [(2, 8)], "student.workers", ["each needs a GPU and a CPU", "2 GPUs are there"]),
        (
            job(engines=5, workers=5, accelerator=H100),
            [(8, 4, H100), (8, 4, A10)],
            "generator.engines",
            ["1 node of 4 GPUs (H100)", "At most 4 such"],
        ),
        (job(workers=5, on=A10), [(8, 4, H100), (8, 4, A10)], "student.workers", ["4 A10G GPUs", "At most 4 fit"]),
        (job(accelerator="B200"), [(8, 4, H100), (8, 4)], "generator.accelerator", ["4 GPUs (H100)", "4 GPUs with"]),
        (job(engines=4, min_engines=3), [(64, 2)], "generator.engines", ["3 engines", "At most 2 such"]),
        (job(engines=2, min_engines=3), [(64, 8)], "generator.min_engines", ["more than generator.engines (2)"]),
        (job(gpu_share=0.5, tensor_parallel=2), [(64, 8)], "generator.gpu_share", ["engines of 2 GPUs"]),
        (job(gpu_share=0.33333), [(64, 8)], "generator.gpu_share", ["0.3333 would do"]),
        (job(engine="fake", tensor_parallel=2), [(64, 8)], "generator.tensor_parallel", ["means nothing to", "fake"]),
        (job(engine="fake", accelerator=H100), [(64, 8, H100)], "generator.accelerator", ["means nothing to"]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_arithmetic(
    config: RunConfig, shape: Shape, field: str, says: list[str]
) -> None:
    with pytest.raises(InputError) as refusal:
        plan_placement(config, nodes(*shape))
    assert refusal.value.field == field
    assert [part for part in says if part not in str(refusal.value)] == []


@pytest.mark.parametrize("count", [3, 8, 13])
def test_what_the_refusal_says_would_fit_does_fit(count: int) -> None:
    shape = [(64, 8)] * count
    with pytest.raises(InputError, match=f"At most {2 * count} such engines fit"):
        plan_placement(job(engines=99, tensor_parallel=3), nodes(*shape))
    assert len(plan_placement(job(engines=2 * count, tensor_parallel=3), nodes(*shape)).engines) == 2 * count


def test_engines_that_sleep_share_every_gpu_with_a_train_worker_and_have_its_whole_memory() -> None:
    config = job(engines=4, workers=4, leave="sleep_1", gpu_memory_utilization=0.8)
    plan = plan_placement(config, nodes((8, 4)))
    assert {(item.num_gpus, item.memory_share, item.can_sleep) for item in plan.engines} == {(0.6, 0.8, True)}
    assert (plan.gpus_per_worker, plan.sleep_level, plan.engines_leave) == (0.4, 1, False)
    assert (
        plan.lines()[-1]
        == "4 train workers: 0.4 GPU each, in turns with the engines, which sleep meanwhile, new for each student"
    )


@pytest.mark.parametrize(
    ("config", "shape", "says"),
    [
        (job(engines=3, leave="sleep_1"), [(8, 4)], "an engine on each of the 4 GPUs"),
        (job(engines=4, min_engines=2, leave="sleep_1"), [(8, 4)], "leave min_engines out"),
        (job(engines=2, tensor_parallel=2, leave="sleep_2"), [(8, 4)], "engines of one whole GPU each"),
        (job(engines=3, mode="split", leave="sleep_1"), [(8, 4)], "means nothing"),
        (job(engines=2, leave="sleep_1"), [(8, 0)], "means nothing"),
        (job(engines=4, engine="fake", leave="sleep_1"), [(8, 4)], "means nothing"),
    ],
)
def test_sleep_is_refused_where_it_means_nothing_or_two_workers_could_meet(
    config: RunConfig, shape: Shape, says: str
) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        plan_placement(config, nodes(*shape))
    assert refusal.value.field == "placement.leave"


def test_sleepers_hold_their_cpus_while_workers_need_some() -> None:
    with pytest.raises(InputError, match="would wait for ever: train worker 2 of 4"):
        plan_placement(job(engines=4, workers=4, leave="sleep_1"), nodes((5, 4)))


def test_engines_that_share_a_gpu_share_its_memory() -> None:
    plan = plan_placement(job(engines=2, gpu_share=0.5, gpu_memory_utilization=0.8), nodes((8, 1)))
    assert [item.memory_share for item in plan.engines] == [0.4, 0.4]


# -- a cluster that starts nodes when it is asked for them -------------------------------------------------------------

HEAD = [(0, 0)]


@pytest.mark.parametrize("shape", [HEAD, [*HEAD, (8, 1, A10)]])
def test_an_elastic_job_is_planned_whatever_nodes_there_are(shape: Shape) -> None:
    config = job(engines=6, workers=4, elastic=True, min_engines=2, tensor_parallel=2, accelerator=H100, on=H100)
    plan = plan_placement(config, nodes(*shape))
    assert (plan.engines, plan.num_planned, plan.num_workers, plan.device) == ((), 6, 4, "gpu")
    assert plan.lines() == [
        "the cluster is asked for 2 GPU and 1 CPU on one node for each engine (mp): for 2 at first, for up to 6 where "
        "the start of a node pays",
        "4 train workers: 1 GPU (H100) each, for which the cluster is asked, in turns with the engines, new for each "
        "student",
    ]
    assert plan.engines_leave


def test_engines_that_need_no_device_ask_for_nothing_but_their_students_do() -> None:
    plan = plan_placement(job(engines=3, engine="fake", elastic=True), nodes(*HEAD))
    assert (plan.asking, len(plan.engines), plan.is_elastic, plan.gpus_per_worker) == (None, 3, True, 1)


def test_more_workers_than_a_batch_has_rows_for_are_not_asked_for() -> None:
    assert without_idle_workers(job(workers=64, elastic=True), nodes(*HEAD)).student.workers == 2


def test_engines_that_share_a_gpu_ask_for_their_part_of_it() -> None:
    plan = plan_placement(job(engines=8, gpu_share=0.25, elastic=True), nodes(*HEAD))
    assert plan.engines_per_gpu == 4
    assert plan.asking is not None
    assert [(bundle.num_gpus, bundle.num_cpus) for bundle in plan.asking.bundles] == [(0.25, 1)]
    assert [bundle.node_id for bundle in place_on(job(elastic=True), "engine-3", "n7").bundles] == ["n7"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (job(elastic=True, mode="split"), "Set placement.mode to swap"),
        (job(elastic=True, leave="sleep_1"), "Set placement.leave to stop"),
    ],
)
def test_what_would_keep_nodes_for_nothing_is_refused(config: RunConfig, says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        plan_placement(config, nodes(*HEAD))
    assert refusal.value.field == "placement.elastic"


@pytest.mark.parametrize(("mode", "says_it"), [("swap", True), ("split", False)])
@pytest.mark.parametrize("shape", [[(8, 1)], [(1, 0)]])
def test_a_refusal_names_the_way_out_on_a_cluster_that_scales(shape: Shape, mode: str, says_it: bool) -> None:
    with pytest.raises(InputError) as refusal:
        plan_placement(job(engines=4, mode=mode), nodes(*shape))
    assert refusal.value.hint.endswith("placement.elastic: true asks for them.") == says_it


def test_engines_do_not_sleep_on_nodes_that_may_be_given_back() -> None:
    config = job(engines=1, leave="auto", elastic=True)
    card = [NodeFacts(node_id="n0", num_cpus=8, num_gpus=1, accelerator=H100, memory_gib=200.0)]
    assert plan_placement(config, card).sleep_level == 0
    assert plan_placement(job(engines=1, leave="auto"), card).sleep_level == 1


# -- without GPUs ------------------------------------------------------------------------------------------------------


def test_engines_of_a_cpu_node_share_its_cores() -> None:
    plan = plan_placement(job(engines=2, workers=2), nodes((8, 0)))
    assert [(item.share, item.num_shares, item.num_cpus) for item in plan.engines] == [(0, 2, 0), (1, 2, 0)]
    assert (plan.num_workers, plan.cpus_per_worker, plan.gpus_per_worker) == (2, 4, 0)


def test_training_begins_with_the_workers_that_fit() -> None:
    plan = plan_placement(job(workers=4, min_workers=1, engine="fake"), nodes((2, 0)))
    assert (plan.num_workers, plan.cpus_per_worker) == (2, 1)


def test_engines_spread_over_cpu_nodes_by_their_cores() -> None:
    plan = plan_placement(job(engines=3), nodes((4, 0), (8, 0)))
    assert [item.node_id for item in plan.engines] == ["n0", "n1", "n1"]


def test_split_on_cpus_leaves_cores_to_the_workers() -> None:
    plan = plan_placement(job(engines=2, workers=2, mode="split"), nodes((8, 0)))
    assert [item.num_cpus for item in plan.engines] == [1, 1]
    assert plan.cpus_per_worker == 3


def test_cpu_engines_that_find_no_core_wait() -> None:
    plan = plan_placement(job(engines=3, min_engines=1, mode="split"), nodes((2, 0)))
    assert len(plan.engines) == 1
    assert "engines that wait for nodes to join: 2 of 3" in plan.lines()


@pytest.mark.parametrize("shape", [[(2, 0)], [(2, 0), (8, 8)]])
@pytest.mark.parametrize("engine", ["fake", "openai"])
def test_engines_without_a_device_reserve_nothing(shape: Shape, engine: str) -> None:
    plan = plan_placement(job(engines=40, engine=engine), nodes(*shape))
    assert len(plan.engines) == 40
    assert {(item.device, item.num_gpus, item.num_cpus) for item in plan.engines} == {("cpu", 0, 0)}
    assert {item.node_id for item in plan.engines} == {node.node_id for node in nodes(*shape)}


def test_gold_needs_no_engine() -> None:
    raw = {"name": "job", "task": "imdb", "strategy": {"name": "gold"}, "generator": {"engines": 99}}
    assert plan_placement(validate(RunConfig, raw), nodes((2, 0))).engines == ()


# -- in words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "shape", "lines"),
    [
        (
            job(engines=512, workers=8),
            BIG,
            [
                "engine-0..511: 1 bundle of 1 GPU (uni) each, 8 on each of 64 places (n0 to n63)",
                "8 train workers: 1 GPU each, in turns with the engines, new for each student",
            ],
        ),
        (
            job(engines=3, tensor_parallel=4, mode="split", on=A10),
            [(8, 4, H100), (64, 8, H100), (8, 1, A10)],
            [
                "engine-0..1: 1 bundle of 4 GPU (mp) each, on n1",
                "engine-2: 1 bundle of 4 GPU (mp) on n0",
                "1 train worker: 1 GPU (A10G) each, beside the engines, kept between students",
            ],
        ),
        (
            job(engines=2, tensor_parallel=16, min_engines=1),
            [(64, 8)] * 2,
            [
                "engine-0: 16 bundles of 1 GPU (ray) on n0+n1",
                "engines that wait for nodes to join: 1 of 2",
                "1 train worker: 1 GPU each, in turns with the engines, new for each student",
            ],
        ),
        (
            job(engines=2),
            [(8, 0)],
            [
                "engine-0..1: 1/2 of the node's cores each, on n0",
                "1 train worker: 8 CPU each, in turns with the engines, kept between students",
            ],
        ),
        (
            job(engines=3, engine="fake", workers=2),
            [(8, 0)],
            [
                "engine-0..2: no device each, on n0",
                "2 train workers: 4 CPU each, in turns with the engines, kept between students",
            ],
        ),
    ],
)
def test_a_plan_in_words_has_a_line_for_equal_engines(config: RunConfig, shape: Shape, lines: list[str]) -> None:
    assert plan_placement(config, nodes(*shape)).lines() == lines


# -- one engine, while a run is under way ------------------------------------------------------------------------------


def place(
    config: RunConfig, living: list[NodeFacts], taken: tuple[EnginePlacement, ...], *avoid: str, device: str = "gpu"
) -> EnginePlacement | None:
    return place_engine(config, "engine-9", living, taken, avoid, device=device)


def test_an_engine_of_a_lost_node_goes_where_room_is_left() -> None:
    config = job(engines=3, tensor_parallel=4)
    planned = plan_placement(config, nodes((64, 8), (64, 8))).engines
    stays, lost = planned[:2], planned[2]
    assert (stays[0].node_id, stays[1].node_id, lost.node_id) == ("n0", "n0", "n1")
    assert place(config, nodes((64, 8)), stays) is None, "the node that is left is full"
    found = place(config, nodes((64, 8)), stays[:1])
    assert found is not None
    assert (found.engine, found.node_id, found.num_gpus, found.executor) == ("engine-9", "n0", 4, "mp")


def test_placements_on_lost_nodes_hold_nothing() -> None:
    config = job(engines=2)
    planned = plan_placement(config, nodes((8, 1), (8, 1))).engines
    found = place(config, nodes((8, 1)), planned[1:])
    assert found is not None
    assert found.node_id == "n0"


def test_a_joined_node_takes_an_engine() -> None:
    config = job(engines=4, min_engines=2)
    planned = plan_placement(config, nodes((8, 2))).engines
    assert place(config, nodes((8, 2)), planned) is None
    found = place(config, nodes((8, 2), (8, 1)), planned)
    assert found is not None
    assert found.node_id == "n1"


@pytest.mark.parametrize("config", [job(engines=2), job(engines=2, tensor_parallel=2), job(engine="fake")])
def test_a_node_to_avoid_is_the_last_resort(config: RunConfig) -> None:
    both = nodes((8, 4), (8, 4))
    elsewhere, back = place(config, both, (), "n0"), place(config, both[:1], (), "n0")
    assert elsewhere is not None
    assert back is not None
    assert (elsewhere.node_id, back.node_id) == ("n1", "n0")


def test_what_the_train_workers_hold_stays_theirs() -> None:
    living = nodes((8, 2))
    assert place(job(mode="split", workers=2), living, ()) is None
    assert place(job(mode="split", workers=1), living, ()) is not None
    assert place(job(mode="swap", workers=2), living, ()) is not None


def test_a_cluster_that_lost_its_gpus_is_no_cpu_cluster() -> None:
    assert place(job(), nodes((8, 0)), ()) is None


def test_engines_on_shared_gpus_come_back_to_their_share() -> None:
    config = job(engines=4, gpu_share=0.5)
    planned = plan_placement(config, nodes((8, 2))).engines
    found = place(config, nodes((8, 2)), planned[1:])
    assert found is not None
    assert found.num_gpus == 0.5
    assert place(config, nodes((8, 2)), planned) is None


def test_an_engine_takes_the_free_part_of_a_cpu_node_and_no_other() -> None:
    config = job(engines=4)
    planned = plan_placement(config, nodes((8, 0), (8, 0))).engines
    found = place(config, nodes((8, 0), (8, 0)), (planned[1], *planned[2:]), device="cpu")
    assert found is not None
    assert (found.node_id, found.share, found.num_shares) == ("n0", 0, 2)
    assert place(config, nodes((8, 0)), planned[:2], device="cpu") is None, "two engines keep its cores"


def test_a_joined_cpu_node_is_shared_as_the_plan_would() -> None:
    config = job(engines=4)
    planned = plan_placement(config, nodes((8, 0), (8, 0))).engines
    joined = [nodes((8, 0))[0], NodeFacts(node_id="n2", num_cpus=8, num_gpus=0)]
    found = place(config, joined, planned[:2], device="cpu")
    assert found is not None
    assert (found.node_id, found.share, found.num_shares) == ("n2", 0, 2)


def test_cores_of_the_train_workers_stay_theirs() -> None:
    config = job(engines=2, workers=2, mode="split")
    planned = plan_placement(config, nodes((2, 0), (2, 0))).engines
    assert place(config, nodes((2, 0)), (), device="cpu") is None
    assert place(config, nodes((2, 0), (2, 0)), planned[:1], device="cpu") is not None
    on_lost_node = [item for item in planned if item.node_id == "n1"]
    found = place(job(engines=2, workers=1, mode="split"), nodes((2, 0)), tuple(on_lost_node), device="cpu")
    assert found is not None, "what was held on a lost node is not held"


def test_engines_without_a_device_spread_over_what_is_left() -> None:
    config = job(engines=4, engine="fake")
    planned = plan_placement(config, nodes((8, 0), (8, 0))).engines
    found = place(config, nodes((8, 0), (8, 0)), planned[:3], device="cpu")
    assert found is not None
    assert [item.node_id for item in planned] == ["n0", "n0", "n1", "n1"]
    assert found.node_id == "n1"


def test_no_node_is_no_place() -> None:
    for engine, device in (("fake", "cpu"), ("vllm", "cpu"), ("vllm", "gpu")):
        assert place(job(engine=engine), [], (), device=device) is None


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


def phase_job(**fields: object) -> RunConfig:
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
        plan_placement(phase_job(**fields), nodes)
    except InputError as refusal:
        problem = refusal.problem
    assert "would wait for ever" not in problem, "the planner packed what Ray would not"


def test_a_plan_that_would_deadlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the planner overlooks."""
    monkeypatch.setattr(placement, "workers_refused", None)
    monkeypatch.setattr(placement, "_num_beside", lambda config: 0)
    fields = {"engines": 4, "least": None, "tensor_parallel": 1, "gpu_share": 1.0, "workers": 1, "on_gpus": True}
    with pytest.raises(InputError, match="would wait for ever: train worker 1 of 1") as refusal:
        plan_placement(phase_job(mode="split", **fields), NODES)
    assert (refusal.value.field, refusal.value.exit_code) == ("placement.mode", 2)
