"""The pool on real Ray with the fake engine: nothing lost, nothing twice, whatever dies."""

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from s3ray.config import FakeConfig, GeneratorConfig
from s3ray.errors import PoolError
from s3ray.generator.placement import EnginePlacement, Plan
from s3ray.generator.pool import GeneratorPool
from s3ray.types import Outcome
from tests.sources import TASK, InsistentSource, make_request

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def make_pool(events: list[dict[str, Any]], num_engines: int = 2, **settings: Any) -> GeneratorPool:
    fake = FakeConfig(**settings.pop("fake", {}))
    config = GeneratorConfig(engine="fake", prompt_form="completion", max_num_seqs=8, fake=fake, **settings)
    engines = tuple(
        EnginePlacement(engine=f"engine-{number}", node_id=None, device="cpu", num_gpus=0, num_cpus=0)
        for number in range(num_engines)
    )
    plan = Plan(mode="swap", device="cpu", engines=engines, num_workers=1, cpus_per_worker=1, gpus_per_worker=0)
    return GeneratorPool(
        config, TASK, plan, clean=True, emit=lambda event, **fields: events.append({"event": event, **fields})
    )


def drain(pool: GeneratorPool, requests: range, meanwhile: Callable[[int], None] = lambda num: None) -> list[Outcome]:
    outcomes: list[Outcome] = []
    source = InsistentSource([make_request(index) for index in requests])
    for batch in pool.generate(source):
        source.settle(batch)
        outcomes += batch
        meanwhile(len(outcomes))
    return outcomes


def test_every_request_is_answered_once_by_all_engines() -> None:
    pool = make_pool([], fake={"tokens_per_s": 300.0})
    try:
        outcomes = drain(pool, range(120))
        again = drain(pool, range(500, 530))
    finally:
        pool.close()
    assert sorted(outcome.index for outcome in outcomes) == list(range(120))
    assert {outcome.engine for outcome in outcomes} == {"engine-0", "engine-1"}
    assert sorted(outcome.index for outcome in again) == list(range(500, 530)), "a second stage is served as well"


def test_dying_engines_are_replaced_and_lose_nothing() -> None:
    events: list[dict[str, Any]] = []
    pool = make_pool(events, fake={"die_after": 25}, max_restarts=10)
    try:
        outcomes = drain(pool, range(120))
    finally:
        pool.close()
    assert sorted(outcome.index for outcome in outcomes) == list(range(120))
    assert sum(event["event"] == "engine_lost" for event in events) >= 3


def test_a_killed_actor_process_costs_only_time() -> None:
    events: list[dict[str, Any]] = []
    pool = make_pool(events, fake={"tokens_per_s": 100.0})
    killed: list[int] = []

    def kill_one(num: int) -> None:
        if num >= 20 and not killed:
            killed.append(_pid_of_an_engine())
            os.kill(killed[0], signal.SIGKILL)

    try:
        outcomes = drain(pool, range(100), kill_one)
    finally:
        pool.close()
    assert sorted(outcome.index for outcome in outcomes) == list(range(100))
    assert [event["event"] for event in events].count("engine_lost") == 1
    assert any(outcome.attempt == 2 for outcome in outcomes)


def _pid_of_an_engine() -> int:
    below = psutil.Process().children(recursive=True)
    return next(int(process.pid) for process in below if "GeneratorActor" in " ".join(process.cmdline()))


def test_no_engine_left_ends_with_the_cause() -> None:
    pool = make_pool([], num_engines=1, fake={"die_after": 0}, max_restarts=1)
    try:
        with pytest.raises(PoolError, match=r"no engine is left.*scripted death"):
            drain(pool, range(10))
    finally:
        pool.close()
