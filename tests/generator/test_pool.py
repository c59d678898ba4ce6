"""The pool on real Ray with the fake engine: nothing lost, nothing twice, whatever dies."""

from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.processes import below
from s3ray.errors import EngineStartError, PoolError
from s3ray.generator.pool import GeneratorPool
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import EngineGivenUp, EngineLost, Event
from s3ray.types import FailureReason, GenerationRequest, Outcome
from tests.sources import InsistentSource, make_pool, make_request

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

Events = list[Event]


class PatientSource(InsistentSource):
    """Hands nothing out before so many engines are ready: else the first could have answered it all."""

    def __init__(self, requests: list[GenerationRequest], events: Events, engines: int) -> None:
        super().__init__(requests)
        self._events = events
        self._num_engines = engines

    def take(self, num: int) -> list[GenerationRequest]:
        self.is_waiting = names(self._events)["engine_ready"] < self._num_engines
        return [] if self.is_waiting else super().take(num)


def drain(
    pool: GeneratorPool, source: InsistentSource, meanwhile: Callable[[int], None] = lambda num: None
) -> list[Outcome]:
    """Answer all requests and close the pool."""
    try:
        return answer(pool, source, meanwhile)
    finally:
        pool.close()


def answer(
    pool: GeneratorPool, source: InsistentSource, meanwhile: Callable[[int], None] = lambda num: None
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for chunk in pool.generate(source):
        batch = list(outcomes_from_table(chunk.table))
        source.settle(batch)
        outcomes += batch
        meanwhile(len(outcomes))
    return outcomes


def asked(num: int, start: int = 0) -> list[GenerationRequest]:
    return [make_request(index) for index in range(start, start + num)]


def indexes(outcomes: list[Outcome]) -> list[int]:
    return sorted(outcome.index for outcome in outcomes)


def names(events: Events) -> Counter[str]:
    return Counter(event.kind for event in events)


def once_kill_an_engine() -> Callable[[int], None]:
    """Kills the process of one engine when it is called for the first time."""
    living = [True]

    def kill(num: int) -> None:
        if living:
            living.clear()
            next(below("GeneratorActor")).kill()

    return kill


def test_every_request_is_answered_once_by_all_engines() -> None:
    events: Events = []
    pool = make_pool(events, engines=2, fake={"tokens_per_s": 300.0})
    try:
        outcomes = answer(pool, PatientSource(asked(120), events, engines=2))
        again = answer(pool, InsistentSource(asked(30, start=500)))
    finally:
        pool.close()
    assert indexes(outcomes) == list(range(120))
    assert {outcome.engine for outcome in outcomes} == {"engine-0", "engine-1"}
    assert indexes(again) == list(range(500, 530)), "a second stage is served as well"


def test_engines_wait_for_requests_that_come_later() -> None:
    class Trickle(InsistentSource):
        """Has its second half only when it was asked in vain a few times after the first was answered."""

        num_asked = 0

        def take(self, num: int) -> list[GenerationRequest]:
            self.is_waiting = len(self._todo) == 20 and self.num_asked < 3
            self.num_asked += self.is_waiting and len(self._missing) == 20
            return [] if self.is_waiting else super().take(min(num, 20))

    source = Trickle(asked(40))
    pool = make_pool([], fake={"tokens_per_s": 300.0})
    outcomes: list[Outcome] = []
    try:
        for chunk in pool.generate(source):
            batch = list(outcomes_from_table(chunk.table))
            source.settle(batch)
            outcomes += batch
    finally:
        pool.close()
    assert indexes(outcomes) == list(range(40))
    assert source.num_asked == 3


def test_dying_engines_are_replaced_and_lose_nothing() -> None:
    events: Events = []
    pool = make_pool(events, engines=2, fake={"die_after": 25}, max_restarts=20)
    outcomes = drain(pool, InsistentSource(asked(120)))
    assert indexes(outcomes) == list(range(120))
    assert not any(outcome.reason for outcome in outcomes), "what dies with many engines is not to blame for it"
    assert names(events)["engine_lost"] >= 3


def test_a_killed_actor_process_costs_only_time() -> None:
    events: Events = []
    pool = make_pool(events, engines=2, fake={"tokens_per_s": 20.0})
    outcomes = drain(pool, PatientSource(asked(100), events, engines=2), once_kill_an_engine())
    assert indexes(outcomes) == list(range(100))
    assert names(events)["engine_lost"] == 1
    assert any(outcome.attempt == 2 for outcome in outcomes)


def test_a_poisonous_request_ends_alone_and_takes_nobody_along() -> None:
    events: Events = []
    requests = [request._replace(seed=request.index * 2 + 1) for request in asked(60)]
    requests[7] = requests[7]._replace(seed=1000)
    pool = make_pool(events, engines=2, fake={"poison_every": 1000, "tokens_per_s": 300.0}, max_restarts=10)
    outcomes = drain(pool, InsistentSource(requests))
    assert indexes(outcomes) == list(range(60))
    assert [outcome.index for outcome in outcomes if outcome.reason == FailureReason.POISON.value] == [7]
    assert sum(bool(outcome.reason) for outcome in outcomes) == 1


def test_an_engine_that_hangs_is_replaced() -> None:
    events: Events = []
    pool = make_pool(events, engines=1, fake={"hang_after": 20}, stall_s=1.0, max_restarts=10)
    outcomes = drain(pool, InsistentSource(asked(50)))
    assert indexes(outcomes) == list(range(50))
    problems = [event.problem for event in events if isinstance(event, EngineLost)]
    assert problems
    assert all("computed nothing" in problem for problem in problems)


def test_an_engine_that_hangs_is_replaced_though_its_requests_time_out_first() -> None:
    events: Events = []
    pool = make_pool(events, fake={"hang_after": 30}, request_s=1.0, stall_s=1.5)
    outcomes = drain(pool, InsistentSource(asked(40)))
    assert indexes(outcomes) == list(range(40))
    assert not any(outcome.reason for outcome in outcomes)
    (lost,) = [event for event in events if isinstance(event, EngineLost)]
    assert "computed nothing" in lost.problem


def test_a_request_that_never_ends_is_asked_twice_and_fails_alone() -> None:
    requests = asked(20)
    pool = make_pool([], engines=2, fake={"tokens_per_s": 0.5}, request_s=1.0)
    outcomes = drain(pool, InsistentSource(requests))
    assert indexes(outcomes) == list(range(20))
    assert {(outcome.reason, outcome.attempt) for outcome in outcomes} == {(FailureReason.TIMEOUT.value, 2)}


def test_the_run_goes_on_with_the_engines_that_are_left() -> None:
    events: Events = []
    pool = make_pool(events, engines=2, fake={"tokens_per_s": 20.0}, max_restarts=0)
    outcomes = drain(pool, PatientSource(asked(100), events, engines=2), once_kill_an_engine())
    assert indexes(outcomes) == list(range(100))
    (given_up,) = [event for event in events if isinstance(event, EngineGivenUp)]
    assert (given_up.running, given_up.wanted) == (1, 2)


def test_no_engine_left_ends_with_the_cause() -> None:
    pool = make_pool([], engines=1, fake={"die_after": 0}, max_restarts=1)
    with pytest.raises(PoolError, match=r"no engine is left.*scripted death"):
        drain(pool, InsistentSource(asked(10)))


def test_every_chunk_says_how_its_engines_are() -> None:
    events: Events = []
    pool = make_pool(events, engines=2, fake={"tokens_per_s": 300.0})
    source = PatientSource(asked(100), events, engines=2)
    rows: Counter[str] = Counter()
    try:
        for chunk in pool.generate(source):
            source.settle(list(outcomes_from_table(chunk.table)))
            for engine, report in chunk.engines.items():
                rows[engine] += report.rows
                assert report.busy_s > 0
                assert report.restarts == 0
    finally:
        pool.close()
    assert rows.total() == 100
    assert len(rows) == 2


def test_what_is_the_same_at_every_start_ends_the_run_at_once_with_its_cause() -> None:
    events: Events = []
    pool = make_pool(events, engines=3, engine="tests.generator.unstartable:NeverStarts")
    with pytest.raises(EngineStartError, match=r"^the engine did not start: ValueError: No room\n  Take more\.$"):
        drain(pool, InsistentSource(asked(4)))
    assert names(events)["engine_starting"] == 3, "none is tried again"
    assert names(events)["engine_given_up"] == 3


def test_a_gpu_that_is_late_is_blamed_on_nobody() -> None:
    events: Events = []
    pool = make_pool(events, engine="tests.generator.unstartable:StartsLate", max_restarts=2)
    outcomes = drain(pool, InsistentSource(asked(4)))
    assert indexes(outcomes) == list(range(4))
    assert [event.problem for event in events if isinstance(event, EngineLost)] == 2 * [
        "engine-0 needs 30 GiB of GPU 0"
    ]
