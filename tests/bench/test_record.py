"""The record of a phase: its three moments, what was handed over twice, that the dispatcher decides as ever, and sums.

Windows, counters between two readings, and shares that add up to 1.
"""

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.bench.profile import UnknownError
from s3ray.bench.record import (
    Life,
    PhaseRecord,
    PhaseRecorder,
    Window,
    growth,
    increase,
    level,
    shares_of,
    steady_window,
    value_at,
    whole_phase,
)
from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.types import EngineLimits, EngineStats
from tests.bench.phases import DRY, END, START, limits, reading, two_engines
from tests.sources import InsistentSource, make_request

SLOTS: EngineLimits = limits(max_num_seqs=4)


class Clock:
    """Shows what it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> PhaseRecorder:
    return PhaseRecorder(clock)


@pytest.fixture
def watched(recorder: PhaseRecorder) -> Dispatcher:
    dispatcher = Dispatcher(recorder=recorder)
    dispatcher.join("engine-0", SLOTS)
    return dispatcher


def answer(dispatcher: Dispatcher, engine: str, indexes: list[int], tokens: int = 10) -> None:
    dispatcher.settle(engine, indexes, prompt_tokens=[100] * len(indexes), output_tokens=[tokens] * len(indexes))


def indexes(dispatcher: Dispatcher, engine: str, source: InsistentSource) -> list[int]:
    return [request.index for request, _ in dispatcher.assign(engine, source).requests]


def test_the_window_ends_when_the_first_engine_has_room_and_nothing_waits(
    watched: Dispatcher, recorder: PhaseRecorder, clock: Clock
) -> None:
    source = InsistentSource([make_request(index) for index in range(8)])
    clock.now = 5.0
    record = recorder.begin_record()
    clock.now = 6.0
    held = indexes(watched, "engine-0", source)
    assert (record.started_at, record.dry_at) == (6.0, None)
    moments: Iterator[float] = iter((7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0))
    while held:
        clock.now = next(moments)
        answer(watched, "engine-0", [held.pop(0)])
        held += indexes(watched, "engine-0", source)
    # 8 requests, 4 slots: from the fifth answer on a slot stays empty.
    assert record.dry_at == 11.0
    assert record.ended_at == 14.0


def test_what_an_engine_without_work_is_dealt_before_the_phase_means_nothing(
    watched: Dispatcher, recorder: PhaseRecorder, clock: Clock
) -> None:
    record = recorder.begin_record()
    watched.assign("engine-0", InsistentSource([]))
    assert (record.started_at, record.dry_at) == (None, None)


def test_requests_that_were_given_to_two_engines_are_counted(watched: Dispatcher, recorder: PhaseRecorder) -> None:
    source = InsistentSource([make_request(index) for index in range(3)])
    record = recorder.begin_record()
    assert indexes(watched, "engine-0", source) == [0, 1, 2]
    watched.join("engine-1", SLOTS)
    copied = indexes(watched, "engine-1", source)
    assert len(copied) == 1, "an idle engine gets a copy of what will end last"
    answer(watched, "engine-0", [0, 1, 2], tokens=7)
    assert (record.again_output_tokens, record.again_prompt_tokens) == (7, 100)
    answer(watched, "engine-1", copied, tokens=7)
    assert record.again_output_tokens == 7, "the second answer ends nothing"


def test_an_engine_that_comes_back_begins_at_zero(watched: Dispatcher, recorder: PhaseRecorder, clock: Clock) -> None:
    record = recorder.begin_record()
    clock.now = 1.0
    watched.report("engine-0", EngineStats(num_output_tokens=50))
    clock.now = 2.0
    watched.leave("engine-0", is_blamed=True)
    clock.now = 3.0
    watched.join("engine-0", SLOTS)
    watched.report("engine-0", EngineStats(num_output_tokens=5))
    before, after = record.lives
    assert before.left_at == 2.0
    assert [stats.num_output_tokens for _, stats in before.readings] == [50]
    assert (after.ready_at, after.left_at) == (3.0, math.inf)
    assert [stats.num_output_tokens for _, stats in after.readings] == [0, 5]


def test_it_deals_as_the_dispatcher_of_a_run_does() -> None:
    plain, watched = Dispatcher(), Dispatcher(recorder=PhaseRecorder())
    dealt: list[list[list[int]]] = []
    for dispatcher in (plain, watched):
        source = InsistentSource([make_request(index) for index in range(30)])
        for engine in ("engine-0", "engine-1"):
            dispatcher.join(engine, SLOTS)
        held: dict[str, list[int]] = {"engine-0": [], "engine-1": []}
        deals = []
        for turn in range(40):
            engine = f"engine-{turn % 2}"
            if held[engine]:
                answer(dispatcher, engine, [held[engine].pop(0)])
            deals.append(indexes(dispatcher, engine, source))
            held[engine] += deals[-1]
        dealt.append(deals)
    assert dealt[0] == dealt[1]


def output(stats: EngineStats) -> float:
    return stats.num_output_tokens


def test_the_phase_and_its_steady_window() -> None:
    record = two_engines()
    assert whole_phase(record) == Window(start=START, end=END)
    assert steady_window(record) == Window(start=START, end=DRY)
    record.dry_at = START
    assert steady_window(record).seconds == 0
    record.dry_at = None
    assert steady_window(record).end == END
    record.dry_at = END + 1
    assert steady_window(record).end == END, "what comes after the last answer belongs to no window"


def test_a_phase_without_answers_is_none() -> None:
    with pytest.raises(ValueError, match="no request of the phase was answered"):
        whole_phase(PhaseRecord(started_at=1.0))


@pytest.mark.parametrize(
    ("at", "value"),
    [(0.0, 100.0), (10.0, 100.0), (12.0, 140.0), (15.0, 200.0), (16.0, 230.0), (20.0, 350.0), (99.0, 350.0)],
)
def test_between_two_readings_a_counter_grows_evenly(at: float, value: float) -> None:
    life = Life(engine="e", ready_at=0.0, readings=[reading(10.0, 100), reading(15.0, 200), reading(20.0, 350)])
    assert value_at(life, output, at) == pytest.approx(value)


def test_two_readings_at_one_moment_are_no_division_by_zero() -> None:
    life = Life(engine="e", ready_at=0.0, readings=[reading(10.0, 100), reading(10.0, 110), reading(20.0, 210)])
    assert value_at(life, output, 10.0) == 110
    assert value_at(life, output, 15.0) == 160


def test_an_engine_that_told_nothing_did_nothing() -> None:
    assert value_at(Life(engine="e", ready_at=0.0), output, 5.0) == 0


def test_counters_of_all_engines_and_lives_add_up() -> None:
    record = two_engines()
    # Of the first interval, 99 s to 110 s, 10 of 11 seconds lie in the window.
    assert increase(record.lives, output, steady_window(record)) == pytest.approx(2 * (500 * 10 / 11 + 500))
    assert growth(record.lives, output) == 1050 + 1200
    record.lives.append(Life(engine="engine-0", ready_at=122.0, readings=[reading(122.0, 0), reading(124.0, 40)]))
    assert growth(record.lives, output) == 1050 + 1200 + 40


def test_levels_are_means_over_time() -> None:
    record = two_engines()
    found = level(record.lives, lambda stats: stats.kv_use, steady_window(record))
    assert (found.mean, found.peak) == pytest.approx((0.5, 0.8))
    with pytest.raises(UnknownError, match="before any engine reported"):
        level(record.lives, lambda stats: stats.kv_use, Window(start=0.0, end=1.0))


def test_every_second_of_every_engine_is_booked_once() -> None:
    record = two_engines()
    shares = shares_of(record, 2)
    # 48 engine-seconds. Busy before 120 s: 20 of 21 s told from 99 s on, of which 10/11 of the first interval count.
    busy_steady = (10 * 10 / 11 + 10) + (8 * 10 / 11 + 10)
    assert shares.bubble == pytest.approx((40 - busy_steady) / 48)
    assert shares.tail == pytest.approx(3 / 48)
    assert shares.down == 0
    assert sum(shares.model_dump().values()) == pytest.approx(1)


def test_a_lost_engine_is_down_until_it_is_back() -> None:
    record = two_engines()
    record.lives[0].left_at = 112.0
    record.lives[0].readings = record.lives[0].readings[:2]
    back = [reading(118.0), reading(124.0, 300, 6.0)]
    record.lives.append(Life(engine="engine-0", ready_at=118.0, readings=back))
    shares = shares_of(record, 2)
    assert shares.down == pytest.approx(6 / 48)
    assert sum(shares.model_dump().values()) == pytest.approx(1)


@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), min_size=2, max_size=12),
    st.floats(0, 30),
    st.integers(1, 4),
)
def test_shares_add_up_whatever_was_told(steps: list[tuple[float, float]], dry_at: float, num_engines: int) -> None:
    at = busy_s = 0.0
    readings = [reading(0.0)]
    for seconds, busy in steps:
        at, busy_s = at + seconds, busy_s + seconds * busy
        readings.append(reading(at, 0, busy_s))
    lives = [Life(engine=f"engine-{n}", ready_at=0.0, readings=readings) for n in range(num_engines)]
    shares = shares_of(PhaseRecord(lives=lives, started_at=0.0, dry_at=dry_at, ended_at=at), num_engines)
    assert sum(shares.model_dump().values()) == pytest.approx(1)
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares.model_dump().values())
    assert shares.busy == pytest.approx(busy_s / at)
