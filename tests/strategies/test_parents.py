"""The arithmetic by which s3plus chooses gold rows."""

from collections import Counter

import numpy as np
import pytest

from s3ray.strategies.parents import (
    balanced,
    clusters,
    moderately_hard,
    nearest,
    persistent,
    representatives,
    unit_rows,
)


def test_rows_get_length_1_and_zeros_stay() -> None:
    assert unit_rows(np.array([[3, 4], [0, 0]], dtype=np.float32)) == pytest.approx(np.array([[0.6, 0.8], [0, 0]]))


def test_persistent_rows_are_those_that_so_many_students_in_a_row_got_wrong() -> None:
    history = [{"a", "b"}, {"b", "c"}]
    assert persistent({"a", "b", "c"}, history, 2) == {"b", "c"}
    assert persistent({"a", "b", "c"}, history, 3) == {"b"}
    assert persistent({"a", "b", "c"}, history, 4) == set(), "there were only three students"
    assert persistent({"a"}, [], 2) == set()


def test_nearest_is_by_direction() -> None:
    candidates = unit_rows(np.array([[1, 0], [0, 5], [1, 1]], dtype=np.float32))
    queries = unit_rows(np.array([[9, 1], [1, 2], [0, 0.1]], dtype=np.float32))
    assert nearest(queries, candidates) == [0, 2, 1]


def test_rows_weigh_most_where_the_student_is_in_two_minds() -> None:
    weights = moderately_hard([0.5, 0.75, 0.25, 1.0, 0.0])
    assert weights[:3] == pytest.approx([1.0, 0.5, 0.5])
    assert (weights[3:] > 0).all()
    assert (weights[3:] < 0.001).all()


def groups_of_points(*centres: tuple[float, float]) -> np.ndarray:
    """Ten points near each centre."""
    draw = np.random.default_rng(3)
    near = [np.array(centre) + draw.normal(scale=0.02, size=(10, 2)) for centre in centres]
    return unit_rows(np.concatenate(near).astype(np.float32))


def test_representatives_cover_every_group_before_any_twice() -> None:
    points = groups_of_points((1, 0), (0, 1), (-1, 0))
    chosen = representatives(points, np.ones(30), 3)
    assert {place // 10 for place in chosen} == {0, 1, 2}
    assert len(set(representatives(points, np.ones(30), 7))) == 7
    assert sorted(representatives(points, np.ones(30), 99)) == list(range(30))
    assert representatives(points, np.ones(30), 0) == []


def test_representatives_are_hard_rows_of_their_group() -> None:
    points = groups_of_points((1, 0), (0, 1))
    hard = {4, 15}
    weights = np.array([1.0 if place in hard else 0.05 for place in range(20)])
    assert set(representatives(points, weights, 2)) == hard


def test_clusters_are_the_groups_most_typical_rows_first_and_the_same_every_time() -> None:
    points = groups_of_points((1, 0), (0, 1), (-1, 0))
    found = clusters(points, 3, seed=5)
    assert [{place // 10 for place in group} for group in found] == [{0}, {1}, {2}]
    for group in found:
        centre = points[group].mean(axis=0)
        distances = [float(np.linalg.norm(points[place] - centre)) for place in group]
        assert distances == sorted(distances)
    assert found == clusters(points, 3, seed=5)


def test_there_are_no_more_clusters_than_different_rows() -> None:
    points = unit_rows(np.array([[1, 0]] * 5 + [[0, 1]] * 2, dtype=np.float32))
    assert clusters(points, 4, seed=0) == [[0, 1, 2, 3, 4], [5, 6]]
    assert clusters(points[:0], 4, seed=0) == []


def test_new_rows_go_to_the_labels_that_have_fewest() -> None:
    assert balanced({"a": 10, "b": 4}, 8) == {"a": 1, "b": 7}
    assert balanced({"a": 10, "b": 4}, 3) == {"a": 0, "b": 3}
    assert balanced({"a": 5, "b": 5, "c": 5}, 7) == {"a": 3, "b": 2, "c": 2}
    assert balanced({}, 7) == {}


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_balance_is_of_the_whole_set_however_many_rounds(rounds: int) -> None:
    total = Counter({"a": 40, "b": 30, "c": 3})
    for _ in range(rounds):
        total.update(balanced(total, 60 // rounds))
    assert max(total.values()) - min(total.values()) <= 13, total
