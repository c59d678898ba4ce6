"""The engine in this process: it answers everything once, also where a loop runs already, and can be paused."""

import asyncio
import threading
from typing import Any

import pytest

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.devices import local_facts
from s3ray.errors import PoolError
from s3ray.generator.local_pool import LocalPool, alone
from s3ray.generator.worker import only_task
from s3ray.placement.place import plan_placement
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import EngineLost, EngineReady, EngineStarting, EngineStopped, Event
from s3ray.types import Outcome
from tests.sources import TASK, InsistentSource, make_request

LIFE = [EngineStarting, EngineReady, EngineStopped]


def make_pool(events: list[Event], **generator: Any) -> LocalPool:
    settings = {"engine": "fake", "prompt_form": "completion", "engines": 3, **generator}
    config = alone(validate(RunConfig, {"name": "test", "task": TASK.name, "generator": settings}))
    return LocalPool(config, only_task(config, TASK), plan_placement(config, local_facts()), emit=events.append)


def answers(pool: LocalPool, num: int, first: int = 0) -> list[Outcome]:
    source = InsistentSource([make_request(index) for index in range(first, first + num)])
    found: list[Outcome] = []
    for chunk in pool.generate(source):
        outcomes = list(outcomes_from_table(chunk.table))
        source.settle(outcomes)
        found += outcomes
    return found


def test_every_request_is_answered_once_in_one_stage_after_the_other() -> None:
    events: list[Event] = []
    pool = make_pool(events, max_num_seqs=4)
    assert sorted(outcome.index for outcome in answers(pool, 300)) == list(range(300))
    pool.pause()  # on a CPU it stays
    assert sorted(outcome.index for outcome in answers(pool, 20, first=5)) == list(range(5, 25))
    pool.close()
    pool.close()
    assert [type(event) for event in events] == LIFE
    assert not any(thread.name == "engine-0" for thread in threading.enumerate())


def test_it_works_where_a_loop_runs_already_as_in_a_notebook() -> None:
    events: list[Event] = []

    async def cell() -> list[Outcome]:
        pool = make_pool(events)
        try:
            return answers(pool, 20)
        finally:
            pool.close()

    assert len(asyncio.run(cell())) == 20
    assert [type(event) for event in events] == LIFE


def test_what_times_out_is_asked_once_more_and_fails_alone() -> None:
    pool = make_pool([], request_s=0.2, fake={"tokens_per_s": 0.001})
    [failed] = answers(pool, 1)
    assert (failed.reason, failed.attempt) == ("timeout", 2)
    pool.close()


def test_an_engine_that_is_not_ready_in_time_is_said_to_be_lost() -> None:
    events: list[Event] = []
    pool = make_pool(events, ready_s=0.2, fake={"start_s": 60.0})
    with pytest.raises(PoolError, match=r"engine-0: was not ready after 0 s \(generator.ready_s\)"):
        answers(pool, 1)
    pool.close()
    assert [type(event) for event in events] == [EngineStarting, EngineLost, EngineStopped]
