"""Values of labels: one text for one value in every kind of file, and the spellings of a class."""

import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import yaml

from s3ray.errors import InputError
from s3ray.tasks.classification import Classification
from s3ray.tasks.draft import classes_of
from s3ray.tasks.labels import label_text
from s3ray.tasks.spec import load_spec

PLAIN = {"name": "t", "kind": "classification", "fields": ["text"], "writes": "text"}
PROMPTS = {"chat": {"seed": {"user": "{{ label }}"}, "extrapolate": {"user": "{{ label }}"}}}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((True, "true", "True", "TRUE", " true\n", np.True_), "true"),
        ((1, 1.0, "1", " 1", "1.0", np.int64(1), np.float32(1), Decimal("1.0")), "1"),
        ((-1, -1.0, "-1", "-1.0"), "-1"),
        ((0, 0.0, -0.0, "0"), "0"),
        ((0.5, "0.5", Decimal("0.5")), "0.5"),
        (("01",), "01"),
        (("1.10",), "1.10"),
        (("caf\u00e9", "cafe\u0301", " caf\u00e9 "), "caf\u00e9"),
        (("good", "good\u200b", "\ufeffgood", "\u200e good\u00a0"), "good"),
        ((["good"], ("good",), [" good "]), "good"),
        ((None, "", "  ", math.nan, np.float64("nan"), [], [None], "\u200b"), ""),
    ],
)
def test_a_value_has_one_text_whatever_a_file_stores_it_as(values: tuple[object, ...], text: str) -> None:
    assert {label_text(value) for value in values} == {text}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("-1", "0", "1"), ["-1", "0", "1"]),
        (("C", "C++", "C#"), ["C", "C++", "C#"]),
        (("A", "A-", "A+"), ["A", "A-", "A+"]),
        (("very_good", "so-so"), ["very good", "so so"]),
        (("a/b", "a b", "a_b", "c/d"), ["a/b", "a b", "a_b", "c d"]),
        (("good!", "good?"), ["good!", "good?"]),
        (("\U0001f44d", "\U0001f44e"), ["\U0001f44d", "\U0001f44e"]),
        (("level_1", "level_2.5"), ["level 1", "level 2.5"]),
    ],
)
def test_words_keep_what_tells_labels_apart(values: tuple[str, ...], words: list[str]) -> None:
    assert [each.words for each in classes_of(dict.fromkeys(values, 1))] == words


def test_values_that_differ_by_case_or_blanks_alone_are_spellings_of_one_class() -> None:
    ham, spam = classes_of({"ham": 3, "Spam": 1, "HAM": 5, "spam": 2, "spam  mail": 0} | {"Ham": 1})[:2]
    assert (ham.name, ham.spellings, ham.num_rows) == ("HAM", ("HAM", "ham", "Ham"), 9)
    assert (spam.name, spam.spellings, spam.num_rows) == ("spam", ("spam", "Spam"), 3)


@pytest.mark.parametrize(
    "values",
    [
        ("don't know", "don\u2019t know"),
        ("so-so", "so\u2013so", "so\u2011so"),
        ("not good", "not\u200b good", "not\u00a0good"),
        ("\u263a", "\u263a\ufe0f"),
        ("\u0130Y\u0130", "iyi"),
        ("\uff2f\uff2b", "ok"),
        ("true", "1"),
    ],
)
def test_what_a_reader_cannot_tell_apart_is_one_class(values: tuple[str, ...]) -> None:
    assert [each.spellings for each in classes_of(dict.fromkeys(values, 1))] == [values]


def test_what_differs_in_more_than_that_stays_apart() -> None:
    values = ("a b", "a-b", "ab", "\U0001f44d", "\U0001f44d\U0001f3fd", "C+", "C")
    assert len(classes_of(dict.fromkeys(values, 1))) == len(values)


def test_one_and_zero_are_true_and_false_where_there_is_nothing_else() -> None:
    assert [each.spellings for each in classes_of({"true": 3, "0": 1, "1": 2, "false": 2})] == [
        ("true", "1"),
        ("false", "0"),
    ]
    assert len(classes_of({"true": 3, "0": 1, "1": 2, "2": 2})) == 4


def spec_of(tmp_path: Path, *values: object) -> Classification:
    labels = [{"name": f"label {n}", "value": value, "words": f"words {n}"} for n, value in enumerate(values)]
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, "labels": labels, "prompts": PROMPTS}))
    return Classification(load_spec(path))


def test_a_task_may_list_the_spellings_of_a_class_and_say_true_or_a_float(tmp_path: Path) -> None:
    task = spec_of(tmp_path, ["ham", "Ham", True], 0.0, "b")
    for value in ("ham", " Ham ", "TRUE", True, np.True_):
        assert task.read_target({"label": value}, {}) == {"label": "label 0"}
    for number in (0, "0", "0.0", np.float64(0)):
        assert task.read_target({"label": number}, {}) == {"label": "label 1"}
    with pytest.raises(InputError, match=r"unknown label(.|\n)*Values of this task: ham \(label 0\), Ham \(label 0\)"):
        task.read_target({"label": "hAm"}, {})


def test_a_label_whose_zero_yaml_has_taken_is_told_to_be_quoted(tmp_path: Path) -> None:
    task = spec_of(tmp_path, 1, 2)
    with pytest.raises(InputError, match="write value: '01'"):
        task.read_target({"label": "01"}, {})
    with pytest.raises(InputError) as other:
        task.read_target({"label": "3"}, {})
    assert "01" not in str(other.value)


def test_two_labels_cannot_have_one_value_in_two_spellings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two labels share the value '1'"):
        spec_of(tmp_path, 1, ["x", "1.0"])
