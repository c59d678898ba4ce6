"""Intervals hold what they promise: nothing from nothing, a known shift, and the truth as often as they say."""

import numpy as np
import pytest

from s3ray.campaign.intervals import Answers, Draws, Interval, excludes_zero, interval, redraw_rows, redraw_seeds
from s3ray.tasks.metrics import macro_f1

RANDOM = np.random.default_rng(7)


def answers(scores: np.ndarray) -> Answers:
    return Answers(ids=tuple(map(str, range(len(scores)))), scores=scores.astype(np.float64))


def lead(reference: list[np.ndarray], other: list[np.ndarray], stream: str = "task") -> Interval:
    runs = {
        f"{name}-{seed}": answers(of) for name, side in (("a", reference), ("b", other)) for seed, of in enumerate(side)
    }
    drawn = redraw_rows("accuracy", runs, stream)
    return interval(redraw_seeds([drawn[f"a-{seed}"] - drawn[f"b-{seed}"] for seed in range(len(reference))], stream))


def test_equal_runs_lead_by_nothing_at_every_draw() -> None:
    scores = [RANDOM.integers(2, size=200) for _ in range(3)]
    assert lead(scores, scores) == (0.0, 0.0)
    assert not excludes_zero((0.0, 0.0))


def test_a_known_shift_is_in_the_middle_and_as_wide_as_theory_says() -> None:
    """One seed, 1000 rows of which the reference alone has 200 right: a mean of 0.2, its standard error 0.4 / √1000."""
    low, high = lead([np.arange(1000) < 200], [np.zeros(1000)])
    assert (low + high) / 2 == pytest.approx(0.2, abs=0.002)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.4 / np.sqrt(1000), rel=0.05)
    assert excludes_zero((low, high))


def test_the_same_command_gives_the_same_intervals_whatever_other_runs_there_are() -> None:
    runs = {name: answers(RANDOM.integers(2, size=50)) for name in "abc"}
    alone, beside = redraw_rows("accuracy", {"b": runs["b"]}, "task"), redraw_rows("accuracy", runs, "task")
    assert (alone["b"] == beside["b"]).all()
    assert not (alone["b"] == redraw_rows("accuracy", runs, "other task")["b"]).all()


def _leads_of_a_world(seed: int, num_seeds: int, num_rows: int) -> Interval:
    """Two methods, equal in truth, that differ by seed (std 0.01), and row by row in a way that all seeds share."""
    random = np.random.default_rng(seed)
    hard = random.normal(0, 0.5, size=(2, num_rows))
    sides = [
        [(own + random.normal(0, 0.01 / np.sqrt(2)) + random.normal(0, 0.2, num_rows)) for _ in range(num_seeds)]
        for own in hard
    ]
    return lead(sides[0], sides[1], stream=str(seed))


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_the_truth_lies_inside_about_as_often_as_promised(num_seeds: int) -> None:
    inside = [low <= 0 <= high for low, high in (_leads_of_a_world(seed, num_seeds, 150) for seed in range(200))]
    assert 0.91 <= np.mean(inside) <= 0.99


def test_macro_f1_is_computed_anew_at_every_draw() -> None:
    truth = tuple(RANDOM.choice(["a", "b", "c"], size=300, p=[0.9, 0.08, 0.02]).tolist())
    predicted = tuple(RANDOM.choice(["a", "b", "c"], size=300).tolist())
    run = Answers(ids=tuple(map(str, range(300))), scores=np.zeros(300), truth=truth, predicted=predicted)
    drawn: Draws = redraw_rows("macro_f1", {"run": run}, "task")["run"]
    rows = np.random.default_rng(0).integers(300, size=(2000, 300))
    slow = [macro_f1([truth[row] for row in drawn_rows], [predicted[row] for row in drawn_rows]) for drawn_rows in rows]
    assert interval(drawn) == pytest.approx(interval(np.array(slow)), abs=0.01)
