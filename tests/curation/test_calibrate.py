"""Verdicts of a generator are set right by what it says of rows whose labels are known."""

import json
import random

import numpy as np
import pytest

from s3ray.curation.calibrate import LEAST_ROWS, Calibration, calibrate
from s3ray.telemetry.records import from_plain


def biased(num: int, lean: float, seed: int = 0) -> tuple[list[tuple[float, float]], list[int]]:
    """Verdicts that tell two labels apart, but lean to the first by so many units of log odds."""
    draw = random.Random(seed)
    truth = [number % 2 for number in range(num)]
    odds = [lean + draw.gauss(1 if label == 0 else -1, 0.7) for label in truth]
    first = [1 / (1 + float(np.exp(-value))) for value in odds]
    return [(p, 1 - p) for p in first], truth


def test_a_generator_that_always_says_yes_is_understood() -> None:
    verdicts, truth = biased(400, lean=4.0)
    assert all(first > 0.5 for first, _ in verdicts), "it always says yes"
    learned = calibrate(verdicts, truth, 2)
    assert learned is not None
    before, after = learned.accuracy
    assert before < 0.55 < 0.85 < after
    fresh, labels = biased(400, lean=4.0, seed=1)
    own = [learned.of(label_probabilities)[label] for label_probabilities, label in zip(fresh, labels, strict=True)]
    assert np.mean(own) > 0.75
    assert learned.of((0.5, 0.5))[0] < 0.1, "where it does not lean, it means no"
    firsts = np.array([learned.of(label_probabilities)[0] for label_probabilities in fresh])
    likely = (firsts > 0.5) & (firsts < 0.9)
    share = (np.array(labels)[likely] == 0).mean()
    assert share == pytest.approx(firsts[likely].mean(), abs=0.15), "probabilities are shares"


def test_verdicts_that_know_nothing_become_none() -> None:
    draw = random.Random(0)
    verdicts = [(p, 1 - p) for p in (draw.uniform(0.6, 0.9) for _ in range(1000))]
    learned = calibrate(verdicts, [number % 2 for number in range(1000)], 2)
    assert learned is not None
    assert learned.of((0.6, 0.4)) == pytest.approx((0.5, 0.5), abs=0.1)


def test_shares_of_gold_s_labels_do_not_lean_it() -> None:
    verdicts, truth = biased(400, lean=0.0)
    rare = [place for place, label in enumerate(truth) if label == 1 or place % 10 == 0]
    learned = calibrate([verdicts[place] for place in rare], [truth[place] for place in rare], 2)
    assert learned is not None
    assert learned.of((0.5, 0.5)) == pytest.approx((0.5, 0.5), abs=0.1)


def test_three_labels() -> None:
    draw = np.random.default_rng(0)
    truth = [number % 3 for number in range(300)]
    scores = np.eye(3)[truth] * 2 + draw.normal(size=(300, 3)) * 0.7 + [3.0, 0.0, 0.0]
    verdicts = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    learned = calibrate(verdicts.tolist(), truth, 3)
    assert learned is not None
    assert learned.accuracy[1] > 0.85 > 0.6 > learned.accuracy[0]
    assert sum(learned.of((0.2, 0.3, 0.5))) == pytest.approx(1)


@pytest.mark.parametrize("label_probabilities", [(1.0, 0.0), (0.0, 1.0)])
def test_certainty_stays_a_number(label_probabilities: tuple[float, float]) -> None:
    learned = calibrate(*biased(100, lean=1.0), 2)
    assert learned is not None
    assert sum(learned.of(label_probabilities)) == pytest.approx(1)


def test_few_rows_teach_nothing() -> None:
    verdicts, truth = biased(2 * LEAST_ROWS, lean=1.0)
    assert calibrate(verdicts, truth, 2) is not None
    assert calibrate(verdicts[:-1], truth[:-1], 2) is None
    assert calibrate([], [], 2) is None


def test_it_is_written_and_read() -> None:
    learned = calibrate(*biased(100, lean=1.0), 2)
    assert learned is not None
    assert from_plain(Calibration, json.loads(json.dumps(learned.as_dict())), "calibration.json") == learned
