"""The pool on a real cluster of several raylets: nodes leave and join while it generates."""

import time
from collections.abc import Iterator
from typing import TypeVar

import pytest
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.util import placement_group_table

from benchmarks.processes import below
from s3ray.cluster import node_facts
from s3ray.generator.pool import GeneratorPool
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import (
    EngineEvent,
    EngineLost,
    EngineReady,
    EngineStarting,
    EngineStopped,
    EngineWaiting,
    Event,
)
from tests.cluster.heads import WAIT_S
from tests.sources import InsistentSource, make_pool, make_request

_Kind = TypeVar("_Kind", bound=EngineEvent)

pytestmark = pytest.mark.ray

SLOW = {"tokens_per_s": 8.0, "takes_gpus": True}


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    """A head without GPUs, which this process has joined."""
    if ray.is_initialized():
        pytest.skip("this process has joined another Ray")
    patience = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}  # else 15 s for a lost node
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "_system_config": patience})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    """It has two nodes with two pretend GPUs each, whatever the test before left, and nobody is at work on them."""
    while len(running.worker_nodes) > 2:
        running.remove_node(next(iter(running.worker_nodes)), allow_graceful=False)
    while len(running.worker_nodes) < 2:
        running.add_node(num_cpus=2, num_gpus=2)
    deadline = time.monotonic() + WAIT_S
    while any(below("GeneratorActor")) or len(node_facts()) != 3 or ray.available_resources().get("GPU", 0) != 4:
        assert time.monotonic() < deadline, "the cluster does not come to rest"
        time.sleep(0.1)
    return running


class Chunks:
    """Generates chunk by chunk, so that something can happen in between."""

    def __init__(self, pool: GeneratorPool, num: int) -> None:
        self.indexes: list[int] = []
        self.problems: list[str] = []
        self._source = InsistentSource([make_request(index) for index in range(num)])
        self._chunks = pool.generate(self._source)

    def next(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        outcomes = list(outcomes_from_table(chunk.table))
        self._source.settle(outcomes)
        self.indexes += [outcome.index for outcome in outcomes]
        self.problems += [outcome.detail for outcome in outcomes if outcome.reason]
        return True


def test_a_lost_node_costs_its_requests_in_flight_and_a_new_one_is_used(cluster: Cluster) -> None:
    events: list[Event] = []
    pool = make_pool(events, engines=4, min_engines=2, fake=SLOW)
    try:
        chunks = Chunks(pool, 300)
        chunks.next()
        lost = next(iter(cluster.worker_nodes))
        cluster.remove_node(lost, allow_graceful=False)
        while not named(events, EngineWaiting):
            assert chunks.next()
        joined = cluster.add_node(num_cpus=2, num_gpus=2)
        while chunks.next():
            pass
    finally:
        pool.close()
    assert sorted(chunks.indexes) == list(range(300))
    assert not any("alone" in problem for problem in chunks.problems), "a lost node poisons nothing"
    gone = {event.engine for event in named(events, EngineLost)}
    assert len(gone) == 2
    again = {event.engine: event.nodes for event in named(events, EngineStarting) if event.restarts}
    assert again == dict.fromkeys(gone, (joined.node_id,))


def test_engines_without_a_place_start_when_a_node_joins(cluster: Cluster) -> None:
    events: list[Event] = []
    pool = make_pool(events, engines=6, min_engines=1, fake=SLOW)
    try:
        chunks = Chunks(pool, 300)
        chunks.next()
        waiting = {event.engine for event in named(events, EngineWaiting)}
        assert len(waiting) == 2
        cluster.add_node(num_cpus=2, num_gpus=2)
        while chunks.next():
            pass
    finally:
        pool.close()
    assert sorted(chunks.indexes) == list(range(300))
    assert waiting <= {event.engine for event in named(events, EngineReady)}


def test_every_engine_takes_the_place_that_was_planned_for_it(cluster: Cluster) -> None:
    events: list[Event] = []
    pool = make_pool(events, engines=1, tensor_parallel=2, fake=SLOW)
    more = make_pool(events, engines=2, gpu_share=0.5, fake=SLOW)
    try:
        for each in (pool, more):
            each.start()
        (first, *_) = [event.nodes for event in named(events, EngineStarting)]
        for each in (pool, more):
            chunks = Chunks(each, 20)
            while chunks.next():
                pass
            assert sorted(chunks.indexes) == list(range(20))
    finally:
        pool.close()
        more.close()
    assert first[0] in {node.node_id for node in cluster.worker_nodes}


def test_who_waits_for_a_place_takes_that_of_an_engine_that_was_given_up(cluster: Cluster) -> None:
    events: list[Event] = []
    pool = make_pool(events, engines=2, tensor_parallel=4, min_engines=1, max_restarts=0, fake=SLOW)
    try:
        chunks = Chunks(pool, 100)
        chunks.next()
        next(below("GeneratorActor")).kill()
        while chunks.next():
            pass
    finally:
        pool.close()
    assert sorted(chunks.indexes) == list(range(100))
    assert [event.engine for event in named(events, EngineReady)] == ["engine-0", "engine-1"]


def test_engines_leave_a_node_that_is_about_to_be_taken_away_and_lose_nothing(cluster: Cluster) -> None:
    events: list[Event] = []
    pool = make_pool(events, engines=4, fake=SLOW)
    ending = next(iter(cluster.worker_nodes))
    try:
        chunks = Chunks(pool, 120)
        chunks.next()
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + 60) * 1000)
        GcsClient(address=cluster.address).drain_node(ending.node_id, reason, "taken back", deadline)
        while chunks.next():
            pass
    finally:
        pool.close()
        cluster.remove_node(ending, allow_graceful=False)
    assert sorted(chunks.indexes) == list(range(120))
    assert not named(events, EngineLost)
    left = {event.engine for event in named(events, EngineStopped) if "taken away" in event.reason}
    placed = {event.engine for event in named(events, EngineStarting) if event.nodes == (ending.node_id,)}
    assert left == placed
    assert len(left) == 2


def test_an_elastic_pool_asks_for_nodes_and_takes_those_that_come(cluster: Cluster) -> None:
    events: list[Event] = []
    pool = make_pool(events, engines=5, placement={"elastic": True}, fake=SLOW)
    try:
        chunks = Chunks(pool, 200)
        chunks.next()
        while not named(events, EngineWaiting):
            assert chunks.next()
        (asking,) = {event.engine for event in named(events, EngineWaiting)}
        pending = [group for group in placement_group_table().values() if group["state"] == "PENDING"]
        assert [group["name"].split()[2] for group in pending] == [asking]
        joined = cluster.add_node(num_cpus=2, num_gpus=2)
        while chunks.next():
            pass
    finally:
        pool.close()
    assert sorted(chunks.indexes) == list(range(200))
    assert {event.engine: event.nodes for event in named(events, EngineStarting)}[asking] == (joined.node_id,)
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}


def named(events: list[Event], kind: type[_Kind]) -> list[_Kind]:
    return [event for event in events if isinstance(event, kind)]
