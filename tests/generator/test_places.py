"""What a pool knows of nodes that are about to be taken away, and what an elastic one wants and gives back; no Ray."""

import math
import time

import pytest

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.generator.demand import Demand
from s3ray.generator.places import KnownNodes
from s3ray.generator.replica import Replica
from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.generator.scheduling.growth import IDLE_S
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from s3ray.types import EngineLimits
from tests.sources import TASK, InsistentSource, make_request

SLOTS = 8
LIMITS = EngineLimits(
    max_num_seqs=SLOTS, max_num_batched_tokens=1024, max_model_len=1024, num_kv_tokens=0, dtype="", device="gpu"
)


def fact(node_id: str) -> NodeFacts:
    return NodeFacts(node_id=node_id, num_cpus=8, num_gpus=1)


def test_a_node_that_will_be_taken_away_lives_and_gets_nothing_new() -> None:
    ends = {"spot": time.time() + 6.0, "idle": math.inf}
    nodes = KnownNodes(lambda: [fact("stays")], lambda: ends)
    assert [node.node_id for node in nodes.staying(100.0)] == ["stays"]
    assert nodes.living(100.0) == {"stays", "spot", "idle"}
    assert set(nodes.ending(100.0)) == {"spot", "idle"}
    assert [nodes.end_soon({"spot"}, now) for now in (100.5, 102.0)] == [False, True]
    assert not nodes.end_soon({"idle"}, 102.0), "nobody has said when"


def test_nodes_are_listed_anew_when_the_list_is_old_or_known_to_be_wrong() -> None:
    seen: list[list[NodeFacts]] = [[fact("a")], [fact("b")], [fact("c")]]
    nodes = KnownNodes(lambda: seen.pop(0), dict)
    assert [nodes.living(now) for now in (0.0, 2.9, 3.1)] == [{"a"}, {"a"}, {"b"}]
    nodes.forget()
    assert nodes.living(3.2) == {"c"}


@pytest.fixture
def config() -> RunConfig:
    generator = {"engine": "fake", "engines": 4, "max_num_seqs": SLOTS, "fake": {"takes_gpus": True}}
    raw = {"name": "job", "task": TASK.name, "generator": generator, "placement": {"elastic": True}}
    return validate(RunConfig, raw)


class Pool:
    """Replicas, a dispatcher and the demand of an elastic pool, without anything that runs."""

    def __init__(self, config: RunConfig) -> None:
        self.replicas = [Replica(f"engine-{number}", number, None) for number in range(4)]
        self.dispatcher = Dispatcher()
        plan = plan_placement(config, [fact("head")])
        self.demand = Demand(config, plan, self.replicas, self.dispatcher)

    def make_ready(self, number: int, now: float) -> None:
        self.replicas[number].become_ready(now)
        self.dispatcher.join(f"engine-{number}", LIMITS)

    @property
    def wanted(self) -> bool:
        self.demand.review(0.0)
        return self.demand.wants(self.replicas[3])


def source(num: int) -> InsistentSource:
    return InsistentSource([make_request(index) for index in range(num)])


@pytest.mark.parametrize(("num", "num_wanted"), [(1, 1), (SLOTS, 1), (SLOTS + 1, 2), (3000, 4)])
def test_as_many_engines_are_wanted_as_have_requests(config: RunConfig, num: int, num_wanted: int) -> None:
    pool = Pool(config)
    pool.demand.look(source(num), 0.0)
    for number in range(num_wanted):
        assert pool.wanted
        pool.replicas[number].become_ready(0.0)
    assert not pool.wanted


def test_before_a_stage_the_first_ones_are_wanted_and_all_that_are_to_be_measured(config: RunConfig) -> None:
    pool = Pool(config)
    assert pool.wanted
    pool.make_ready(0, 0.0)
    assert not pool.wanted
    pool.demand.want_all()
    assert pool.wanted


def test_engines_without_work_are_given_back_after_a_while_but_one(config: RunConfig) -> None:
    pool, requests = Pool(config), source(1)
    for number in range(3):
        pool.make_ready(number, 0.0)
        pool.replicas[number].note_idle(0.0)
    pool.dispatcher.look_ahead(requests, SLOTS)
    pool.demand.look(requests, 0.0)
    assert pool.demand.review(IDLE_S + 1) == [], "a request waits"
    pool.dispatcher.assign("engine-1", requests)
    assert pool.demand.review(IDLE_S - 1) == []
    assert [each.engine for each in pool.demand.review(IDLE_S + 1)] == ["engine-0", "engine-2"]
    pool.dispatcher.drop()
    assert len(pool.demand.review(IDLE_S + 1)) == 2, "more requests may come"
    pool.demand.end()
    assert pool.demand.review(IDLE_S + 1) == []
