import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.audit.measures import Points, distances, drift, own_radius, quantiles, share_within, shares, told_apart


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
