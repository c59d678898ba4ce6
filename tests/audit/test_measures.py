"""Measures on made-up rows; and a checker that errs in a known way: the estimate finds the noise, or says it cannot."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.audit.measures import (
    MIN_GOLD_ROWS,
    Matrix,
    Points,
    copies_of,
    copies_within,
    count_pairs,
    distances,
    distinct_2,
    drift,
    is_identifiable,
    label_accuracy,
    own_radius,
    quantiles,
    self_bleu,
    share_within,
    shares,
    similarity,
    told_apart,
)
from s3ray.types import RejectionReason


def on_circle(*degrees: float) -> Points:
    angles = [math.radians(degree) for degree in degrees]
    return np.array([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=np.float32)


def cloud(seed: int, num: int, centre: float) -> Points:
    points = np.random.default_rng(seed).normal(size=(num, 8))
    points[:, 0] += centre
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def test_shares_and_their_drift() -> None:
    assert shares(["b", "a", "b", "b"]) == {"a": 0.25, "b": 0.75}
    assert drift({"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}) == 0.25
    assert drift({"a": 1.0}, {"b": 1.0}) == 1.0


@given(st.lists(st.sampled_from("abc"), min_size=1), st.lists(st.sampled_from("abcd"), min_size=1))
def test_drift_is_a_distance(one: list[str], other: list[str]) -> None:
    a, b = shares(one), shares(other)
    assert drift(a, a) == 0
    assert drift(a, b) == pytest.approx(drift(b, a))
    assert 0 <= drift(a, b) <= 1 + 1e-9


def test_quantiles() -> None:
    assert quantiles(list(range(101))) == [5, 25, 50, 75, 95]
    assert quantiles([]) is None


def test_radius_and_coverage_on_a_circle() -> None:
    gold = on_circle(0, 10, 40)
    radius = own_radius(gold)
    assert radius == pytest.approx(1 - math.cos(math.radians(10)), abs=1e-6)
    assert radius is not None
    synthetic = on_circle(5, 200)
    assert share_within(distances(gold, synthetic), radius) == pytest.approx(2 / 3)
    assert share_within(distances(synthetic, gold), radius) == pytest.approx(1 / 2)


def test_a_copy_of_gold_covers_all_of_it_however_small_the_radius() -> None:
    gold = cloud(0, 50, 0.0)
    assert share_within(distances(gold, gold), 0.0) == 1.0


def test_a_second_sample_of_gold_covers_about_half() -> None:
    gold, again = cloud(0, 400, 1.0), cloud(1, 400, 1.0)
    radius = own_radius(gold)
    assert radius is not None
    assert share_within(distances(gold, again), radius) == pytest.approx(0.5, abs=0.07)


def test_one_row_has_no_radius() -> None:
    assert own_radius(on_circle(0)) is None


def test_two_sets_are_told_apart_as_far_as_they_differ() -> None:
    same, shifted, far = (told_apart(cloud(0, 200, 0.0), cloud(1, 300, centre)) for centre in (0.0, 0.7, 6.0))
    assert same == pytest.approx(0.5, abs=0.08)
    assert far == pytest.approx(1.0, abs=0.02)
    assert shifted is not None
    assert 0.58 < shifted < 0.9


def test_few_rows_are_not_told_apart() -> None:
    assert told_apart(cloud(0, 5, 0.0), cloud(1, 300, 0.0)) is None


LONG = "the waiter remembered our names and brought the soup before we had asked for it"
NEARLY = LONG.replace("soup", "soap")
OTHER = "the battery died within a week of careful use, and nobody at the shop cared"


def test_later_rows_are_the_copies() -> None:
    found = copies_within([LONG, OTHER, LONG.upper() + "!", NEARLY], ["", "", "", ""], 0.9)
    assert found == [None, None, RejectionReason.DUPLICATE, RejectionReason.NEAR_DUPLICATE]
    assert copies_within([LONG, NEARLY], ["", ""], None) == [None, None]


def test_the_same_question_on_another_context_is_no_copy() -> None:
    scopes = ["a bridge", "a tower", "a bridge"]
    found = copies_within(["When was it built?"] * 3, scopes, 0.9)
    assert found == [None, None, RejectionReason.DUPLICATE]


def test_copies_of_gold_name_the_part() -> None:
    gold = {"extrapolate": [LONG], "test": [OTHER]}
    assert copies_of([NEARLY, OTHER, "something else entirely"], gold, 0.9) == ["extrapolate", "test", None]


def test_similarity_is_one_less_the_edits_by_length() -> None:
    assert similarity("abcd", "ABCD!") == 1.0
    assert similarity("abcd", "abxd") == 0.75
    assert similarity("abcd", "wxyz") == 0.0


def test_self_bleu_of_equal_and_of_unlike_texts() -> None:
    assert self_bleu([LONG] * 3) == pytest.approx(1.0)
    unlike = self_bleu(["one two three four five", "red green blue black white", "cat dog cow hen pig"])
    assert unlike is not None
    assert unlike < 0.15
    assert self_bleu([LONG]) is None


def test_variety_is_measured_by_characters_where_a_script_has_no_blanks() -> None:
    alike = self_bleu(["这家店的面条又冷又硬", "这家店的面条又冷又咸"])
    assert alike is not None
    assert 0.7 < alike < 0.9
    assert distinct_2(["好吃好吃"]) == 2 / 3  # 好吃 吃好


def test_distinct_2_counts_pairs_of_words() -> None:
    assert distinct_2(["a b a b", "a b"]) == 2 / 4  # ab ba ab, ab
    assert distinct_2(["word"]) is None


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
