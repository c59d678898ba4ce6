"""Additive increase, multiplicative decrease, in pretend time."""

import asyncio

from s3ray.generator.engines.rate_limit import Congestion, Gate, Pace


def answer(congestion: Congestion, num: int, at: float, seconds: float = 1.0, *, is_full: bool = True) -> None:
    for _ in range(num):
        congestion.answered(at - seconds, at, is_full=is_full)


def test_it_doubles_until_the_first_trouble_and_then_adds_one_per_round() -> None:
    congestion = Congestion(1000)
    first = congestion.limit
    answer(congestion, first, at=1.0)
    assert congestion.limit == 2 * first
    congestion.cut(1.0, 2.0)
    assert congestion.limit == first
    answer(congestion, first, at=3.5)
    assert congestion.limit == first + 1
    answer(congestion, first + 1, at=4.5)
    assert congestion.limit == first + 2


def test_all_that_were_under_way_at_one_trouble_cut_once() -> None:
    congestion = Congestion(1000)
    before = congestion.limit
    for _ in range(before):
        congestion.cut(1.0, 2.0)
    assert congestion.limit == before // 2
    congestion.cut(2.5, 3.0)
    assert congestion.limit == before // 4


def test_it_stays_between_one_and_its_ceiling() -> None:
    congestion = Congestion(20)
    answer(congestion, 500, at=1.0)
    assert congestion.limit == 20
    for time in range(2, 30):
        congestion.cut(time - 0.5, float(time))
    assert congestion.limit == 1


def test_a_limit_that_nobody_reached_does_not_grow() -> None:
    congestion = Congestion(1000)
    before = congestion.limit
    answer(congestion, 500, at=1.0, is_full=False)
    assert congestion.limit == before


def test_answers_that_take_far_longer_than_before_cut_and_become_usual() -> None:
    congestion = Congestion(64)
    answer(congestion, 320, at=10.0, seconds=1.0)
    assert congestion.limit == 64
    answer(congestion, 32, at=20.0, seconds=2.0)
    assert congestion.limit == 64, "twice as slow is what a larger batch costs"
    answer(congestion, 32, at=30.0, seconds=8.0)
    assert congestion.limit == 32
    for step in range(10):
        answer(congestion, 32, at=50.0 + 10 * step, seconds=8.0)
    assert congestion.limit > 32, "what is always slow is not congestion"


def test_who_gives_up_while_waiting_or_at_the_door_leaves_no_place_taken() -> None:
    async def scenario() -> None:
        gate = Gate(1)
        await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.leave()
        waiting[1].cancel()  # its turn has come, but it does not know yet
        await asyncio.wait(waiting)
        assert [task.cancelled() for task in waiting] == [True, True, False]
        assert gate.num_running == 1
        gate.leave()
        await gate.enter()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_pace_spaces_requests_and_tokens() -> None:
    pace = Pace(60.0, 600.0)
    pace.spend(5.0, now=100.0)
    assert pace.due == 101.0, "one request a second, though five tokens are half a second's"
    pace.spend(30.0, now=101.0)
    assert pace.due == 104.0, "thirty tokens are three seconds'"
    pace.correct(-20.0)
    assert pace.due == 102.0, "the answer took ten tokens only"
    pace.correct(10.0)
    assert pace.due == 103.0
    free = Pace()
    free.spend(1e9, now=100.0)
    assert free.due <= 100.0
