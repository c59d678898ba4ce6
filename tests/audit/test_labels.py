"""A checker that errs in a known way: the estimate finds the noise that was put in, and says when it cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.audit.labels import MIN_GOLD_ROWS, Matrix, count_pairs, is_identifiable, label_accuracy

TWO = ("no", "yes")
THREE = ("a", "b", "c")
ERRORS = np.array([[0.9, 0.1], [0.25, 0.75]])
"""Probability of each answer (column) by true label (row): specificity 0.9, sensitivity 0.75."""


def answered(truths: Matrix, errors: Matrix, num_rows: int) -> Matrix:
    """Counts of answers by asked label that are expected where asked rows have these true labels."""
    return np.asarray(num_rows * truths @ errors, dtype=np.float64)


def test_pairs_are_counted_with_the_first_as_the_row() -> None:
    counts = count_pairs(["no", "no", "yes"], ["no", "yes", "yes"], TWO)
    assert counts.tolist() == [[1, 1], [0, 1]]


def test_two_labels_give_the_estimator_of_rogan_and_gladen() -> None:
    counts = np.array([[78.0, 22.0], [35.0, 65.0]])
    found = label_accuracy(counts, 1000 * ERRORS, TWO)
    assert found is not None
    # (0.65 + 0.9 - 1) / (0.75 + 0.9 - 1), and the same seen from the other label
    assert found.by_label["yes"] == pytest.approx(0.55 / 0.65)
    assert found.by_label["no"] == pytest.approx((0.78 + 0.75 - 1) / 0.65)
    assert found.value == pytest.approx((found.by_label["yes"] + found.by_label["no"]) / 2)
    assert not found.clipped


@given(st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_the_noise_that_was_put_in_is_found(right_no: float, right_yes: float) -> None:
    truths = np.array([[right_no, 1 - right_no], [1 - right_yes, right_yes]])
    found = label_accuracy(answered(truths, ERRORS, 1000), 1000 * ERRORS, TWO)
    assert found is not None
    assert found.by_label == pytest.approx({"no": right_no, "yes": right_yes}, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_noise_among_three_labels_is_found_within_the_interval() -> None:
    errors = np.array([[0.8, 0.15, 0.05], [0.1, 0.85, 0.05], [0.1, 0.2, 0.7]])
    truths = np.array([[0.9, 0.1, 0.0], [0.05, 0.9, 0.05], [0.0, 0.2, 0.8]])
    chance = np.random.default_rng(3)
    covered = 0
    for _ in range(20):
        confusion = np.stack([chance.multinomial(150, row) for row in errors]).astype(float)
        counts = np.stack([chance.multinomial(400, row) for row in truths @ errors]).astype(float)
        found = label_accuracy(counts, confusion, THREE)
        assert found is not None
        assert found.value == pytest.approx(2.6 / 3, abs=0.15)
        covered += found.low <= 2.6 / 3 <= found.high
    assert covered >= 16


def test_more_rows_make_the_interval_narrower() -> None:
    truths = np.array([[0.9, 0.1], [0.1, 0.9]])
    few, many = (label_accuracy(answered(truths, ERRORS, num), num * ERRORS, TWO) for num in (40, 4000))
    assert few is not None
    assert many is not None
    assert many.high - many.low < (few.high - few.low) / 3


def test_answers_that_no_mixture_explains_are_clipped_and_said_to_be() -> None:
    found = label_accuracy(np.array([[100.0, 0.0], [0.0, 100.0]]), 100 * ERRORS, TWO)
    assert found is not None
    assert found.clipped
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low > 0.8


def test_labels_that_were_never_asked_for_count_for_nothing() -> None:
    found = label_accuracy(np.array([[0.0, 0.0], [35.0, 65.0]]), 1000 * ERRORS, TWO)
    assert found is not None
    assert list(found.by_label) == ["yes"]
    assert found.value == found.by_label["yes"]


@pytest.mark.parametrize(
    "confusion",
    [
        pytest.param([[50.0, 50.0], [48.0, 52.0]], id="guesses"),
        pytest.param([[100.0, 0.0], [100.0, 0.0]], id="says one label only"),
        pytest.param([[90.0, 10.0], [0.0, MIN_GOLD_ROWS - 1.0]], id="too little gold"),
        pytest.param([[90.0, 10.0], [0.0, 0.0]], id="no gold of a label"),
    ],
)
def test_a_checker_that_tells_nothing_identifies_nothing(confusion: list[list[float]]) -> None:
    assert not is_identifiable(np.array(confusion))
    assert label_accuracy(np.array([[50.0, 50.0], [50.0, 50.0]]), np.array(confusion), TWO) is None


def test_no_rows_have_no_accuracy() -> None:
    assert label_accuracy(np.zeros((2, 2)), 100 * ERRORS, TWO) is None
