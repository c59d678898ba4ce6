import pytest

from s3ray.tasks.metrics import accuracy, exact_match, macro_f1, normalise_answer, token_f1


def test_accuracy_is_the_share_of_equal_labels() -> None:
    assert accuracy(["a", "b", "a", "b"], ["a", "b", "b", "b"]) == 0.75


def test_macro_f1_is_the_mean_over_labels() -> None:
    # a: precision 1, recall 1/2, F1 2/3. b: precision 2/3, recall 1, F1 4/5.
    assert macro_f1(["a", "b", "a", "b"], ["a", "b", "b", "b"]) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert macro_f1(["a", "a"], ["a", "a"]) == 1.0
    assert macro_f1(["a", "a"], ["c", "c"]) == 0.0


def test_metrics_refuse_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="argument"):
        accuracy(["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Denver Broncos", "denver broncos"),
        ("  an  apple,a day. ", "applea day"),
        ("A-level", "alevel"),
        ("theatre", "theatre"),
        ("Saint Bernadette Soubirous.", "saint bernadette soubirous"),
    ],
)
def test_answers_are_normalised_as_in_the_official_script(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("references", "predicted", "match", "f1"),
    [
        (["Denver Broncos"], "the Denver Broncos!", 1.0, 1.0),
        (["Denver Broncos"], "Broncos", 0.0, 2 / 3),
        (["Denver Broncos"], "Carolina Panthers", 0.0, 0.0),
        (["Denver Broncos", "Broncos"], "The Broncos", 1.0, 1.0),
        (["in the year 1858", "1858"], "year 1858", 0.0, 4 / 5),
        (["gold gold"], "gold", 0.0, 2 / 3),
        (["the"], "a", 1.0, 0.0),
    ],
)
def test_squad_scores(references: list[str], predicted: str, match: float, f1: float) -> None:
    assert exact_match(references, predicted) == match
    assert token_f1(references, predicted) == pytest.approx(f1)
