from typing import Any

import pytest

from s3ray.audit.findings import find
from tests.audit.defects import figures

ACCURACY = {"value": 0.8, "low": 0.75, "high": 0.86, "clipped": False, "by_label": {}}
GOLD_COPIES = {"extrapolate": 2, "select": 1, "test": 4}


def test_nothing_stands_out() -> None:
    assert find(figures()) == []


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({"label_accuracy": ACCURACY}, "wrong: all 80 % right (75 % to 86 %)"),
        ({"exact_copies": 20}, "repeat each other: all 2.0 % exact, 0.0 % exact or near"),
        ({"near_copies": 50}, "10 % exact or near"),
        ({"parents": {"rows": 100, "above_0.8": 9, "above_0.9": 3}}, "near copies of their parents: all 9.0 %"),
        ({"label_drift": 0.2}, "otherwise than in gold: all by 20 %"),
        ({"words": [1.0, 2.0, 3.0, 4.0, 5.0]}, "all median 3 words, gold 10"),
        ({"words": [1.0, 2.0, 30.0, 40.0, 50.0]}, "all median 30 words, gold 10"),
        ({"coverage": 0.2}, "all 20 % of test rows, other gold rows 50 %"),
        ({"told_apart": 0.95}, "easily told from gold: all area 0.95"),
        ({"self_bleu": 0.4}, "all self-BLEU 0.40, gold 0.20"),
    ],
)
def test_each_defect_is_named_with_its_group_and_number(differs: dict[str, Any], says: str) -> None:
    (found,) = find(figures(2, **differs))
    assert says in found
    assert "round" not in found  # the other group is well


def test_copies_of_gold_come_first() -> None:
    first, second, *_ = find(figures(copies_of_gold=GOLD_COPIES, label_drift=0.3))
    assert first.startswith("4 rows are copies or near copies of test rows")
    assert second.startswith("3 rows are copies or near copies of gold rows outside the test part")


def test_a_checker_that_cannot_judge_is_named() -> None:
    audit = figures(label_accuracy=None)
    audit["checker"]["identifiable"] = False
    assert find(audit) == ["The checker is too weak, or gold too small, to say how many labels are right."]


def test_answers_are_measured_by_what_the_checker_finds_on_gold() -> None:
    audit = figures(label_accuracy=None, answered={"exact_match": 0.2, "f1": 0.3}, label_drift=None)
    audit["checker"] = {"held_out": {"scores": {"exact_match": 0.5, "f1": 0.6}}}
    assert find(audit) == ["The checker finds fewer of the answers than on gold: all F1 0.30, on gold 0.60."]
    audit["checker"]["held_out"]["scores"]["f1"] = 0.35
    assert find(audit) == []


def test_what_is_not_known_is_no_alarm() -> None:
    audit = figures(parents={"rows": 0, "above_0.8": 0, "above_0.9": 0}, looked_at=0)
    audit["groups"][0] |= dict.fromkeys(("label_accuracy", "coverage", "told_apart", "self_bleu", "label_drift"))
    assert find(audit) == []
