"""The acceptance script on a GPU, without one: how it spends its time, and what it makes of what it measured."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu_verdicts import PartPlan, Result, Verdict, allot, table, verdicts

GOOD: dict[str, dict[str, Any]] = {
    "starts": {
        "has_nvcc": False,
        "first": {"seconds": 40.0, "parts": {"weights": 2.12, "compile": 6.7}},
        "again": {"seconds": 22.0, "parts": {}},
        "gpu_processes": ["123, 120000"],
    },
    "student": {
        "mixed": "bfloat16",
        "steps": [
            {"batch": 8, "format": "bfloat16", "steps_per_s": 60.0, "share_of_peak": 0.01},
            {"batch": 32, "format": "bfloat16", "steps_per_s": 55.0, "share_of_peak": 0.04},
            {"batch": 8, "format": "float32", "steps_per_s": 70.0, "share_of_peak": None},
            {"batch": 32, "format": "float32", "steps_per_s": 40.0, "share_of_peak": None},
        ],
    },
    "throughput": {
        "tokens_per_s": {
            "pool": {"uneven": 1100.0, "prefix": 900.0},
            "vllm": {"uneven": 1000.0, "prefix": 900.0},
            "ray_data": {"uneven": 900.0, "prefix": 600.0},
        }
    },
    "sleep": {
        "start_s": 30.0,
        "stop_s": 2.0,
        "level_1": {"level": 1, "sleep_s": 3.0, "left_mib": 1500, "wake_s": 1.0, "same_text": True},
        "level_2": {"level": 2, "sleep_s": 1.0, "left_mib": 1400, "wake_s": 4.0, "same_text": True},
    },
    "halves": {"kv_tokens": [[1000, 1000], [990, 1000]]},
    "tuned": {"ratio": 1.02, "setting": "max_num_seqs 512", "num_trials": 7, "complete": True},
}


def judged(**changes: dict[str, Any]) -> dict[str, Verdict]:
    """Verdicts by question, with some figures of a part replaced."""
    results = {
        name: Result(name=name, figures={**figures, **changes.get(name, {})}, memory_before=500, memory_after=520)
        for name, figures in GOOD.items()
    }
    return {verdict.question: verdict for verdict in verdicts(results)}


def test_a_start_is_told_by_its_parts() -> None:
    told = judged()["a second start is not slower than the first (caches)"].words
    assert told == "first 40.0 s (weights 2.1, compile 6.7); again 22.0 s"


def test_every_question_is_answered_on_a_machine_where_all_is_well() -> None:
    answers = judged()
    assert len(answers) == 12
    assert all(verdict.holds for verdict in answers.values()), answers


@pytest.mark.parametrize(
    ("part", "figures", "question"),
    [
        ("starts", {"again": {"seconds": 60.0, "parts": {}}}, "a second start is not slower than the first (caches)"),
        ("starts", {"gpu_processes": ["1, 2", "2, 500"]}, "only the engine holds memory of the GPU"),
        ("throughput", {"tokens_per_s": {"pool": {"uneven": 9.0}, "vllm": {"uneven": 10.0}}}, "the pool is as fast as"),
        ("halves", {"kv_tokens": [[1000, 1000], [400, 1000]]}, "two engines that start together"),
        ("tuned", {"ratio": 1.4, "complete": False}, "the default settings are within 5 %"),
        ("sleep", {"start_s": 1.0, "stop_s": 1.0}, "sleeping frees the memory"),
    ],
)
def test_what_is_wrong_is_told_by_its_question(part: str, figures: dict[str, Any], question: str) -> None:
    wrong = [name for name, verdict in judged(**{part: figures}).items() if verdict.holds is False]
    assert len(wrong) == 1
    assert wrong[0].startswith(question)


def test_texts_that_change_and_memory_that_stays_are_told() -> None:
    level = {**GOOD["sleep"]["level_1"], "same_text": False}
    assert judged(sleep={"level_1": level})["sleeping frees the memory, and costs less than a new start"].holds is False
    left = Result(name="starts", memory_before=500, memory_after=9000)
    assert verdicts({"starts": left})[-1] == Verdict(
        question="no memory of the GPU is left behind",
        holds=False,
        words="most after starts: 8500 MiB more than before",
    )


def test_a_part_that_failed_or_is_not_complete_answers_what_it_can() -> None:
    figures = {"first": {"seconds": 40.0}, "has_nvcc": True}
    results = {
        "starts": Result(name="starts", problem="its 80 s were over", figures=figures),
        "halves": Result(name="halves", problem="there is no GPU"),
    }
    answers = {verdict.question: verdict for verdict in verdicts(results)}
    assert answers["an engine starts (the sampler needs no CUDA toolkit)"].holds
    again = answers["a second start is not slower than the first (caches)"]
    assert (again.holds, again.words) == (None, "its 80 s were over")
    assert {verdict.words for verdict in answers.values() if verdict.holds is None} == {
        "its 80 s were over",
        "there is no GPU",
        "it was not run",
    }
    assert "| no memory of the GPU is left behind | not told | there is no GPU |" in table(
        [*results.values()], [*answers.values()]
    )


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.tuples(st.floats(0.1, 5), st.floats(1, 200)), min_size=1, max_size=8),
    total=st.floats(0, 2000),
    speed=st.floats(0, 1),
)
def test_the_time_is_never_overspent_and_none_is_lost(
    parts: list[tuple[float, float]], total: float, speed: float
) -> None:
    plan = [PartPlan(name=str(place), weight=weight, least_s=least) for place, (weight, least) in enumerate(parts)]
    left = total
    for place, part in enumerate(plan):
        seconds = allot(part, plan[place + 1 :], left)
        assert seconds == 0 or part.least_s <= seconds <= left
        left -= seconds * speed
    assert left >= 0
    if total >= sum(part.least_s for part in plan):
        assert allot(plan[-1], [], total) == total
        assert sum(part.least_s for part in plan[1:]) <= total - allot(plan[0], plan[1:], total) + 1e-6


def test_a_part_that_is_done_early_leaves_its_time_to_the_others() -> None:
    part = PartPlan(name="a", weight=1, least_s=10)
    assert allot(part, [replace(part, name="b")], 100) == 50
    assert allot(replace(part, name="b"), [], 95) == 95


def test_where_time_is_short_the_first_parts_come_first_and_others_are_left_out() -> None:
    part = PartPlan(name="a", weight=1, least_s=10)
    assert allot(part, [replace(part, name="b", least_s=95)], 100) == 10
    assert allot(replace(part, name="b", least_s=95), [], 90) == 0
