"""How many engines are worth a node: a start must pay, what comes is let come, and what is idle goes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.generator.scheduling.growth import IDLE_S, PRIOR_START_S, Growth, Work, who_is_idle

ENDLESS = Work(num_requests=math.inf, num_waiting=4096, engine_s=math.inf)


def work(num: int, seconds: float = math.inf, waiting: int | None = None) -> Work:
    return Work(num_requests=num, num_waiting=num if waiting is None else waiting, engine_s=seconds)


@pytest.fixture
def growth() -> Growth:
    """Of eight engines that answer ten requests at once; a start takes a minute."""
    found = Growth(least=1, most=8, num_seqs=10)
    found.note_start(60.0)
    return found


def test_all_are_worth_it_before_the_end_is_in_sight(growth: Growth) -> None:
    assert growth.num_worth(ENDLESS, 0, 0) == 8


def test_only_the_first_ones_start_before_anybody_knows_how_much_there_is_to_do() -> None:
    assert Growth(least=3, most=8, num_seqs=10).num_worth(None, 0, 0) == 3


def test_an_engine_that_joins_has_at_least_as_much_to_do_as_its_start_takes(growth: Growth) -> None:
    assert growth.num_worth(work(1000, 300.0), 0, 0) == 5
    assert growth.num_worth(work(1000, 300.0), 1, 0) == 4, "one minute later, 240 s are left for four"
    assert growth.num_worth(work(1000, 119.0), 1, 0) == 1, "the last two minutes"


def test_no_engine_is_asked_for_that_would_have_no_request(growth: Growth) -> None:
    assert [growth.num_worth(work(num, 1e9), 0, 0) for num in (1, 10, 11, 45, 500)] == [1, 1, 2, 5, 8]


def test_what_was_asked_for_is_let_come_while_requests_wait(growth: Growth) -> None:
    """Else a node would be given up just before it is there."""
    assert growth.num_worth(work(1000, 90.0), 1, 3) == 4
    assert growth.num_worth(work(5, 90.0, waiting=0), 1, 3) == 4


def test_nothing_is_asked_for_when_nothing_waits(growth: Growth) -> None:
    assert growth.num_worth(work(30, 1e9, waiting=0), 0, 0) == 0


def test_starts_are_measured() -> None:
    growth = Growth(least=1, most=8, num_seqs=10)
    assert growth.start_s == PRIOR_START_S
    growth.note_start(40.0)
    assert growth.start_s == 40.0
    growth.note_start(20.0)
    assert growth.start_s == 30.0


@given(
    least=st.integers(1, 4),
    num=st.integers(1, 5000),
    seconds=st.floats(0, 1e6) | st.just(math.inf),
    ready=st.integers(0, 4),
    coming=st.integers(0, 4),
    start_s=st.floats(0.1, 1000),
)
def test_the_pool_stays_between_its_least_and_its_most_and_never_shrinks_by_this(
    least: int, num: int, seconds: float, ready: int, coming: int, start_s: float
) -> None:
    growth = Growth(least=least, most=8, num_seqs=10)
    growth.note_start(start_s)
    worth = growth.num_worth(work(num, seconds), ready, coming)
    assert max(least, ready + coming) <= worth <= 8
    if worth > max(least, ready + coming):
        # All of them finish together: each that joins works as long as it starts, at least.
        finish_s = (seconds + (worth - ready) * start_s) / worth
        assert finish_s >= 2 * start_s - 1e-6 or math.isinf(seconds) or ready == 0
        assert worth - 1 < num / 10


def test_the_idle_leave_when_nothing_waits_and_one_stays() -> None:
    idle_s = {"a": IDLE_S, "b": IDLE_S + 5, "c": 0.0}
    assert who_is_idle(idle_s, 1, work(3, waiting=0)) == ["b", "a"]
    assert who_is_idle(idle_s, 0, work(3, waiting=0)) == ["b", "a"], "c stays"
    assert who_is_idle({"a": IDLE_S, "b": IDLE_S + 5}, 0, work(0, waiting=0)) == ["b"], "requests may come still"
    assert who_is_idle(idle_s, 1, work(3, waiting=1)) == []


@pytest.mark.parametrize("start_s", [5.0, 60.0, 300.0])
@pytest.mark.parametrize("starts_each", [1.5, 4.0, 20.0])
def test_a_pool_that_grows_so_is_nearly_as_fast_as_a_full_one_and_costs_hardly_more(
    start_s: float, starts_each: float
) -> None:
    """In virtual time, with work for eight engines that is ``starts_each`` times as long as a start."""
    growth, most, step_s = Growth(least=1, most=8, num_seqs=10), 8, start_s / 100
    left_s = all_s = most * starts_each * start_s
    ready, comes_at, now, node_s = 0, list[float](), 0.0, 0.0
    while left_s > 0:
        num_requests = max(1, round(left_s / start_s * 100))
        seen = Work(num_requests=num_requests, num_waiting=num_requests, engine_s=left_s if ready else math.inf)
        comes_at += [now + start_s] * (growth.num_worth(seen, ready, len(comes_at)) - ready - len(comes_at))
        now += step_s
        for _ in [each for each in comes_at if each <= now]:
            growth.note_start(start_s)
            ready += 1
        comes_at = [each for each in comes_at if each > now]
        left_s -= ready * step_s
        node_s += ready * step_s
    assert now <= 1.15 * (all_s / most + start_s)
    assert node_s <= 1.15 * all_s


def test_a_short_stage_does_not_start_what_it_cannot_use(growth: Growth) -> None:
    """One engine that is ready after a minute needs 150 s more; a second would come at its end."""
    assert growth.num_worth(work(1000, 150.0), 1, 0) == 1
    assert growth.num_worth(work(1000, 210.0), 1, 0) == 2
