"""The record of a phase: its three moments, what was handed over twice, and that the dispatcher decides as ever."""

from collections.abc import Iterator

import pytest

from s3ray.bench.record import PhaseRecorder
from s3ray.generator.dispatch import Dispatcher
from s3ray.types import EngineLimits, EngineStats
from tests.bench.phases import limits
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
    return [request.index for request, _ in dispatcher.deal(engine, source).requests]


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
    watched.deal("engine-0", InsistentSource([]))
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
    assert (after.ready_at, after.left_at) == (3.0, None)
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
