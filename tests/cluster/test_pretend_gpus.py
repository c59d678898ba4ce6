"""vLLM on pretended GPUs (``tests.platforms.pretend_gpu``), two nodes with one each: the whole of the GPU path."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

import s3ray
from benchmarks.processes import below
from s3ray.cluster import node_facts
from s3ray.errors import S3RayError
from s3ray.generator.pool import GeneratorPool
from s3ray.placement.packing import BESIDE_SLEEPER_SHARE
from s3ray.storage.run_folder import RunStore
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import EngineEvent, EngineLost, EngineReady, EngineStarting, Event
from s3ray.types import Outcome
from tests.cluster.heads import WAIT_S
from tests.models import make_bert, make_llama
from tests.platforms.resolve import PLUGINS, ROOT
from tests.sources import InsistentSource, make_pool, make_request

pytestmark = [pytest.mark.engine, pytest.mark.ray]

_Kind = TypeVar("_Kind", bound=EngineEvent)
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGINS)]),
    "VLLM_PLUGINS": "pretend_gpu",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
MEMORY = 0.08
"""The part of the machine's memory that an engine may take; half of it is that of its processes."""


@dataclass
class Gpus:
    """The two nodes, a model for them, and what was written to each request so far: every engine writes the same."""

    llama: Path
    texts: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def pool(self, events: list[Event], **settings: Any) -> Iterator[GeneratorPool]:
        """A pool of an engine of that model; ``settings`` are those of ``make_pool``."""
        generator: dict[str, Any] = {
            "model": str(self.llama),
            "max_model_len": 1024,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 2048,  # whole prompts of all: a part of one ends vLLM's engine on a CPU
            "gpu_memory_utilization": MEMORY,
            "dtype": "float32",
            "sampling": {"max_tokens": 24},
            "max_restarts": 1,
        }
        made = make_pool(events, engine="vllm", clean=False, **generator | settings)
        try:
            yield made
        finally:
            made.close()

    def check(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            assert outcome.num_output_tokens > 0, outcome.detail
            assert outcome.raw == self.texts.setdefault(outcome.request_id, outcome.raw)


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpus]:
    """Two nodes with a GPU each, which this process has joined."""
    if ray.is_initialized():
        pytest.skip("this process has joined another Ray")
    with pytest.MonkeyPatch.context() as patch:
        folder = tempfile.mkdtemp(dir="/tmp")  # short, because Ray puts sockets below it
        # In a folder of its own no other process of these tests finds it when it looks for a Ray on this machine.
        for name, value in {**ENVIRONMENT, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1})
        cluster.add_node(num_cpus=4, num_gpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield Gpus(make_llama(tmp_path_factory.mktemp("llama")))
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def answers(pool: GeneratorPool, num: int) -> list[Outcome]:
    """Answer the requests 0 to ``num`` - 1."""
    source = InsistentSource([make_request(index) for index in range(num)])
    outcomes: list[Outcome] = []
    for chunk in pool.generate(source):
        batch = list(outcomes_from_table(chunk.table))
        source.settle(batch)
        outcomes += batch
    assert sorted(outcome.index for outcome in outcomes) == list(range(num))
    return outcomes


def named(events: list[Event], kind: type[_Kind]) -> list[_Kind]:
    return [event for event in events if isinstance(event, kind)]


def by_node(processes: Iterable[psutil.Process]) -> Mapping[int, list[psutil.Process]]:
    """The processes on each node, which is told by its raylet: their parent."""
    found: dict[int, list[psutil.Process]] = {}
    for process in processes:
        found.setdefault(process.ppid(), []).append(process)
    return found


def vllm_workers() -> list[psutil.Process]:
    """Those of vLLM's Ray executor, which change their titles."""
    return [*below("RayWorkerProc"), *below("VLLM::Worker")]


def wait_until_nobody_is_left() -> None:
    """Processes of an engine that was stopped end a little later."""
    deadline = time.monotonic() + WAIT_S
    while vllm_workers() or any(below("EngineCore")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_tensors_over_two_nodes_survive_the_death_of_the_part_on_the_other_node(gpus: Gpus) -> None:
    events: list[Event] = []

    def kill_on_the_other_node() -> None:
        while not named(events, EngineReady):
            time.sleep(0.1)
        time.sleep(1)  # now it writes
        (own,) = by_node(below("GeneratorActor"))
        ((other,),) = [there for node, there in by_node(vllm_workers()).items() if node != own]
        other.kill()

    with gpus.pool(events, tensor_parallel=2) as pool:
        threading.Thread(target=kill_on_the_other_node, daemon=True).start()
        gpus.check(answers(pool, 100))
        assert len(by_node(vllm_workers())) == 2
    (lost,) = named(events, EngineLost)
    starts = named(events, EngineStarting)
    assert lost.in_flight > 0
    assert len(lost.nodes) == 2
    assert [event.nodes for event in starts] == [lost.nodes] * 2
    assert len(named(events, EngineReady)) == 2
    wait_until_nobody_is_left()


def test_stages_on_two_nodes_answer(gpus: Gpus) -> None:
    events: list[Event] = []
    with gpus.pool(events, pipeline_parallel=2) as pool:
        gpus.check(answers(pool, 20))
        assert len(by_node(vllm_workers())) == 2
    wait_until_nobody_is_left()
    (ready,) = named(events, EngineReady)
    assert ready.limits.device == "gpu"


def test_engines_sleep_at_both_levels_beside_train_workers_and_write_the_same_afterwards(gpus: Gpus) -> None:
    events: list[Event] = []
    first, second = node_facts()
    with (
        gpus.pool(events, nodes=[first], placement={"leave": "sleep_1"}) as light,
        gpus.pool(events, nodes=[second], placement={"leave": "sleep_2"}) as deep,
    ):
        for _ in range(2):
            for pool in (light, deep):
                pool.start()
            for pool in (light, deep):
                gpus.check(answers(pool, 20))
            for pool in (light, deep):
                pool.pause()
            assert train_beside() == {first.node_id, second.node_id}
    names = [event.kind for event in events]
    assert [names.count(f"engine_{what}") for what in ("starting", "asleep", "awake", "stopped")] == [2, 4, 2, 2]


def train_beside() -> set[str]:
    """The nodes on which two train workers find room beside engines that sleep."""
    workers = [ray.remote(trainer()).options(num_cpus=1, num_gpus=BESIDE_SLEEPER_SHARE).remote() for _ in range(2)]
    nodes: set[str] = set(ray.get([worker.node.remote() for worker in workers], timeout=WAIT_S))
    for worker in workers:
        ray.kill(worker)
    return nodes


def trainer() -> type:
    """An actor in the place of a train worker: a class that Ray sends whole, so that nothing here is imported there."""

    class Trainer:
        def node(self) -> str:
            import ray

            return str(ray.get_runtime_context().get_node_id())

    return Trainer


def test_two_engines_that_share_a_gpu_start_one_after_the_other(gpus: Gpus) -> None:
    """vLLM takes for its own what a neighbour takes of the memory meanwhile."""
    events: list[Event] = []
    half: dict[str, Any] = {"nodes": node_facts()[:1], "gpu_share": 0.5, "gpu_memory_utilization": 2 * MEMORY}
    # Engines with the same arguments would also wait for each other to compile at their very first start.
    with gpus.pool(events, **half) as one, gpus.pool(events, **half, max_num_seqs=4) as other:
        for pool in (one, other):
            pool.start()
        for pool in (one, other):
            pool.start_all()
        all_ready = time.time()
        first, second = sorted(core.create_time() for core in below("EngineCore"))
        for pool in (one, other):
            gpus.check(answers(pool, 20))
    assert len({event.nodes for event in named(events, EngineStarting)}) == 1
    assert second - first > (all_ready - second) / 2, "the second was loaded while the first was"


def test_the_cause_of_a_failed_start_is_told_and_it_is_not_tried_again(gpus: Gpus) -> None:
    events: list[Event] = []
    with gpus.pool(events, gpu_memory_utilization=0.001) as pool, pytest.raises(S3RayError) as failed:
        answers(pool, 1)
    assert "is less than requested memory for kv" in str(failed.value)
    assert len(named(events, EngineStarting)) == 1


def test_quarters_of_gpus_leave_whole_ones_to_the_students_of_a_campaign(gpus: Gpus, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "job.yaml").write_text(
        "name: job\ntask: review_sentences\ngold: {extrapolate: 30, select: 20, test: 20}\n"
        "strategy: {name: zerogen, rows: 600}\n"
        "generator: {engine: fake, engines: 8, gpu_share: 0.25, prompt_form: completion, max_num_seqs: 4,"
        " fake: {takes_gpus: true, tokens_per_s: 25}}\n"
        f"student: {{model: {make_bert(tmp_path / 'bert')}, epochs: 1, max_length: 32, workers: 1}}\n"
        "placement: {mode: swap}\n"
    )
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: grid\njob: job.yaml\naxes:\n  rows:\n    few: {strategy.rows: 30}\n    many: {}\nseeds: [0]\n"
        "priorities: {few: 1}\n"  # else the large one is written first, and nobody trains meanwhile
    )
    found = s3ray.compare(grid, out=tmp_path / "out")
    found.raise_failed()
    assert set(found.results) == {"few-0", "many-0"}
    happened = [event["event"] for event in RunStore(tmp_path / "out").events()]
    while_trained = happened[happened.index("student_started") : happened.index("student_finished")]
    assert "answers_dealt" in while_trained, "nobody wrote while another run trained"
    assert happened.count("engine_lost") == 0
