"""What an engine may hold follows what it reports: down where its memory is short, up where it runs dry, bounded."""

import pytest

from s3ray.generator.scheduling.estimates import MAX_ALLOWANCE, MIN_ALLOWANCE, START_ALLOWANCE, Feedback, Fleet
from s3ray.types import EngineLimits, EngineStats

LIMITS = EngineLimits(
    max_num_seqs=32, max_num_batched_tokens=8192, max_model_len=2048, num_kv_tokens=0, dtype="", device=""
)


@pytest.fixture
def feedback() -> Feedback:
    """An engine that was given all that it may hold."""
    feedback = Feedback(LIMITS)
    feedback.note_assigned(40, is_full=True)
    return feedback


def report(feedback: Feedback, *stats: EngineStats) -> float:
    for each in stats:
        feedback.note_report(each)
    return feedback.allowance


def test_preemptions_shrink_it_while_they_grow(feedback: Feedback) -> None:
    shrunk = report(feedback, EngineStats(num_running=20, num_waiting=1, num_preemptions=3))
    assert shrunk < START_ALLOWANCE
    assert report(feedback, EngineStats(num_running=20, num_waiting=1, num_preemptions=3)) == shrunk


def test_a_queue_before_a_full_memory_shrinks_it_down_to_a_floor(feedback: Feedback) -> None:
    crowded = EngineStats(num_running=8, num_waiting=32, kv_use=0.97)
    assert report(feedback, *[crowded] * 50) == MIN_ALLOWANCE


def test_a_queue_of_prompts_that_are_read_takes_nothing_away(feedback: Feedback) -> None:
    assert report(feedback, *[EngineStats(num_running=2, num_waiting=38, kv_use=0.1)] * 50) == START_ALLOWANCE


def test_running_dry_grows_it_slowly_up_to_a_ceiling(feedback: Feedback) -> None:
    dry = EngineStats(num_running=30, kv_use=0.3)
    assert START_ALLOWANCE < report(feedback, dry) < START_ALLOWANCE * 1.1
    assert report(feedback, *[dry] * 100) == MAX_ALLOWANCE


def test_an_engine_that_was_given_little_does_not_grow_for_it(feedback: Feedback) -> None:
    feedback.note_assigned(3, is_full=False)
    assert report(feedback, *[EngineStats(num_running=3)] * 10) == START_ALLOWANCE


def test_share_follows_speed_and_the_unknown_count_as_the_mean() -> None:
    fleet, engines = Fleet(), [Feedback(LIMITS) for _ in range(3)]
    for engine, tokens in zip(engines, (6400, 3200, 0), strict=True):
        engine.note_assigned(32, is_full=True)
        engine.note_report(EngineStats(num_running=32, num_output_tokens=tokens, busy_s=5.0 if tokens else 0.0))
        fleet.add(engine)
    assert [fleet.share(engine) for engine in engines] == pytest.approx([4 / 9, 2 / 9, 3 / 9])
    assert [fleet.is_slow(engine) for engine in engines] == [False, True, False]
    fleet.add(engines[0], -1)
    assert fleet.share(engines[1]) == pytest.approx(1 / 2)
