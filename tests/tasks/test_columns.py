"""Which column `s3ray init` takes for what: what it asks, and what it leaves out."""

from collections.abc import Callable, Mapping

import pytest

from s3ray.errors import InputError
from s3ray.tasks.columns import sort_columns

Row = dict[str, object]

WORDS = ("kettle", "lamp", "sofa", "phone", "shoe", "bag", "desk")


def rows(num: int = 60, /, **columns: Callable[[int], object]) -> list[Row]:
    """Rows of a text and of a label with two values, and the given columns."""
    made: dict[str, Callable[[int], object]] = {
        "text": lambda n: f"The {WORDS[n % 7]} number {n} came late.",
        "label": lambda n: ("good", "bad")[n % 2],
        **columns,
    }
    return [{name: value(n) for name, value in made.items() if value(n) is not ...} for n in range(num)]


def unlike_text(n: int) -> str:
    return f"What is said of number {n} before that."


def test_a_column_called_label_wins_however_many_values_it_has_and_a_coarser_one_is_not_given() -> None:
    columns = sort_columns(rows(616, label=lambda n: f"intent {n % 77}", area=lambda n: "abc"[n % 77 % 3]), None, None)
    assert (columns.label, columns.given) == ("label", ())
    assert columns.left_out == {"area": "the label tells them"}


@pytest.mark.parametrize("name", ["Labels", "gold_label", "TARGET", "class", "Category", "intent", "sentiment"])
def test_the_names_that_people_give_to_labels_are_known(name: str) -> None:
    made = rows(60, **{name: lambda n: f"{n % 15}", "kind": lambda n: "ab"[n // 15 % 2]})
    columns = sort_columns([{key: value for key, value in row.items() if key != "label"} for row in made], None, None)
    assert (columns.label, columns.given) == (name, ("kind",))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"target": lambda n: n % 3}, ["several columns can be the label", "label: 2", "target: 3"]),
        ({"label": lambda n: n * 0.7}, ["label is called a label", "60 different numbers", "regression"]),
        ({"label": lambda n: ["a", "b"]}, ["label is called a label", "lists", "not offered"]),
        ({"label": lambda n: "one"}, ["label is called a label", "1 different value in 60 rows"]),
        ({"label": lambda n: ..., "stars": lambda n: n % 5, "kind": lambda n: n % 3}, ["several columns", "stars: 5"]),
        ({"label": lambda n: ..., "score": lambda n: n % 45 / 10}, ["no column looks like", "regression"]),
        ({"label": lambda n: ..., "score": lambda n: n % 25 / 10}, ["no column looks like", "25 different numbers"]),
    ],
)
def test_what_cannot_be_told_is_asked_with_what_the_columns_hold(
    columns: Mapping[str, Callable[[int], object]], told: list[str]
) -> None:
    with pytest.raises(InputError) as asked:
        sort_columns(rows(60, **columns), None, None)
    assert "--label COLUMN" in asked.value.hint
    for part in told:
        assert part in str(asked.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda n: ["price", "quality"][: 1 + n % 2], "several labels per row (multi-label) are not offered"),
        (lambda n: f"['price', '{n % 3}']", "several labels per row (multi-label) are not offered"),
        (lambda n: {"a": n}, "no label that can be read"),
        (lambda n: "same", "fewer than two values"),
    ],
)
def test_a_column_that_is_named_and_is_no_label_is_refused(value: Callable[[int], object], told: str) -> None:
    with pytest.raises(InputError) as refused:
        sort_columns(rows(tags=value), "tags", None)
    assert told in str(refused.value)


def test_numbers_that_are_named_as_the_label_are_told_to_look_like_regression() -> None:
    assert "looks like regression" in sort_columns(rows(score=lambda n: n % 40 / 10), "score", None).warnings[0]
    assert sort_columns(rows(stars=lambda n: n % 5), "stars", None).warnings == ()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("response", lambda n: f"R_{n * 7919:05x}", "ids"),
        ("customer", lambda n: f"c{n % 9}", "ids"),
        ("annotator", lambda n: ("ann", "bob", "eve")[n * n % 3], "how a row was made"),
        ("agreement", lambda n: ("high", "low")[n * n % 3 % 2], "how a row was made"),
        ("fold", lambda n: ("train", "dev")[n * n % 3 % 2], "how a row was made"),
        ("shop", lambda n: "ours", "the same in every row"),
        ("when", lambda n: f"2026-01-{1 + n % 28:02d} 10:00", "dates or times"),
        ("price", lambda n: f"{n}.5", "numbers"),
        ("tags", lambda n: ["a"], "no texts but list"),
        ("verbose", lambda n: ("it is good", "it is bad")[n % 2], "they tell the label"),
        ("title", lambda n: None if n % 3 else "A title", "some rows have nothing there"),
        ("phone", lambda n: f"+49 30 {n * 7919}", "no words"),
        ("parts", lambda n: f"['{WORDS[n % 7]}', 'came', '{n}']", "they hold lists"),
        ("model_says", lambda n: ("good", "BAD")[n * n % 3 % 2], "labels too, of another annotator or model"),
        ("vague", lambda n: ("it is good", "it is bad")[n % 2 if n != 7 else 0], "they tell the label"),
        ("profileName", lambda n: f"{WORDS[n % 5]} of {WORDS[n * n % 3]}", "how a row was made"),
        ("user_name", lambda n: f"{WORDS[n % 5]} of {WORDS[n * n % 3]}", "how a row was made"),
        ("copy", lambda n: f"[The {WORDS[n % 7]}  number {n} CAME late.]", "repeat the text"),
    ],
)
def test_what_a_task_has_no_use_for_is_left_out_with_the_reason(
    name: str, value: Callable[[int], object], reason: str
) -> None:
    columns = sort_columns(rows(60, **{name: value}), None, "text")
    assert columns.given == ()
    assert reason in columns.left_out[name]


def test_a_list_of_a_text_s_parts_is_not_the_text_to_be_written() -> None:
    made = rows(tokens=lambda n: str(["The", *WORDS, str(n), "came", "late"]))
    columns = sort_columns(made, None, None)
    assert (columns.writes, columns.given) == ("text", ())


def test_another_question_that_is_answered_by_yes_or_no_is_given() -> None:
    columns = sort_columns(
        rows(label=lambda n: ("yes", "no")[n % 2], verified=lambda n: ("yes", "no")[n * n % 3 % 2]), None, None
    )
    assert columns.given == ("verified",)


def test_products_and_passages_are_given() -> None:
    columns = sort_columns(rows(product=lambda n: WORDS[n * n % 5], before=unlike_text), None, "text")
    assert (columns.given, columns.categories) == (("product", "before"), ("product",))
    assert columns.left_out == {}


def test_a_few_passages_that_come_twice_tell_nothing_of_the_label() -> None:
    columns = sort_columns(rows(before=lambda n: unlike_text(n - 2 if n in (2, 3) else n)), None, "text")
    assert columns.given == ("before",)


@pytest.mark.parametrize(
    ("given", "written"),
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("Sentence", "Question"), ("question", "answer")],
)
def test_of_a_pair_the_conventional_one_is_written_though_the_other_is_longer(given: str, written: str) -> None:
    pair = {
        given: lambda n: f"A much longer text than the other one, with number {n // 2}.",
        written: lambda n: f"No {n}",
    }
    made = [{key: value for key, value in row.items() if key != "text"} for row in rows(**pair)]
    columns = sort_columns(made, None, None)
    assert (columns.given, columns.writes) == ((given,), written)


def test_of_two_labels_that_say_the_same_the_first_is_taken() -> None:
    columns = sort_columns(rows(target=lambda n: n % 2), None, None)
    assert (columns.label, columns.given) == ("label", ())


def test_how_a_row_was_made_is_not_taken_for_the_label() -> None:
    made = rows(label=lambda n: ..., fold=lambda n: "ab"[n % 2], stars=lambda n: n % 5)
    assert sort_columns(made, None, None).label == "stars"


def test_an_id_is_not_the_text_to_be_written_however_long_it_is() -> None:
    columns = sort_columns(rows(key=lambda n: f"{n * 7919:x}".rjust(64, "0")), None, None)
    assert (columns.writes, columns.given) == ("text", ())


def test_a_label_in_a_list_of_its_own_is_taken() -> None:
    assert sort_columns(rows(60, label=lambda n: ["ab"[n % 2]]), None, None).label == "label"


@pytest.mark.parametrize("joiner", [";", "|", ", ", " / "])
def test_labels_that_are_joined_are_told(joiner: str) -> None:
    values = ("price", "quality", joiner.join(("price", "quality")), joiner.join(("quality", "price")))
    (warning,) = sort_columns(rows(60, label=lambda n: values[n % 4]), None, None).warnings
    assert "several labels per row (multi-label), which are not offered" in warning


def test_labels_that_only_hold_a_comma_are_not_told() -> None:
    values = ("yes, always", "no, never", "yes", "no")
    assert not sort_columns(rows(60, label=lambda n: values[n % 4]), None, None).warnings


def test_a_column_for_each_class_is_told_or_asked() -> None:
    columns = sort_columns(rows(60, label=lambda n: n % 2, rude=lambda n: n % 3 // 2), None, None)
    (warning,) = columns.warnings
    assert warning.startswith("rude can be labels too; several labels per row (multi-label) are not offered")
    with pytest.raises(InputError, match="Is there a column for each class"):
        sort_columns(rows(60, label=lambda n: ..., joy=lambda n: n % 2, anger=lambda n: 1 - n % 2), None, None)


def test_a_text_that_some_rows_lack_is_still_the_text_and_what_is_none_says_why() -> None:
    made = rows(60, title=lambda n: "short", text=lambda n: f"The {WORDS[n % 7]} number {n} came late." if n else 123)
    assert sort_columns(made, None, None).writes == "text"
    with pytest.raises(InputError, match="text: they hold no texts but bytes"):
        sort_columns(rows(60, text=lambda n: b"abc"), None, None)
