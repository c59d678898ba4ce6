"""Choices told apart by first tokens: with a tokenizer at hand, and where a server tells the likeliest tokens only."""

import math

import pytest

from s3ray.errors import RequestRefusedError
from s3ray.generator.engines.label_probabilities import first_tokens, read_likeliest, shares

PIECES = (
    "yes",
    "no",
    "not",
    "pos",
    "itive",
    "neg",
    "ative",
    "Pos",
    ' "',
    "It is",
    " yes",
    *"abcdefghijklmnopqrstuvwxyzYNPG ",
)


def encode(text: str) -> list[int]:
    """Cut a text into the longest pieces known."""
    token_ids = []
    while text:
        piece = max((piece for piece in PIECES if text.startswith(piece)), key=len)
        token_ids.append(PIECES.index(piece))
        text = text[len(piece) :]
    return token_ids


def begins(before: str, *choices: str) -> list[list[str]]:
    return [[PIECES[token] for token in tokens] for tokens in first_tokens(encode, before, choices)]


def test_a_choice_begins_as_it_is_written_or_with_the_other_case() -> None:
    assert begins('It is "', "positive", "negative") == [["pos", "Pos"], ["neg", "N"]]
    assert begins('It is "', "Positive", "negative") == [["Pos", "pos"], ["neg", "N"]]


def test_another_case_that_two_choices_share_counts_for_neither() -> None:
    assert begins('It is "', "yes", "no", "neg") == [["yes", "Y"], ["no"], ["neg"]]


def test_choices_that_begin_alike_are_refused() -> None:
    with pytest.raises(RequestRefusedError, match=r"'ab' and 'ac' begin with the same token.*`says`"):
        begins('It is "', "yes", "ab", "ac")


def test_a_choice_that_merges_with_the_end_of_the_prompt_is_refused() -> None:
    assert begins("It is", " yes", " no") == [[" yes"], [" "]]
    with pytest.raises(RequestRefusedError, match=r"'yes' merges with the end of the prompt.*without a space"):
        begins("It is ", "yes", "no")


def test_tokens_count_for_the_choice_that_they_begin() -> None:
    told = [(" Yes", 0.3), ("yes", 0.2), ("\u0120n", 0.1), ("y", 0.1), ("nothing", 0.05), ('"', 0.05)]
    logs = [(text, math.log(probability)) for text, probability in told]
    assert read_likeliest(logs, ("yes", "no")) == pytest.approx((6 / 7, 1 / 7))
    assert read_likeliest(logs, ("yes", "no", "young")) == pytest.approx((5 / 6.5, 1 / 6.5, 0.5 / 6.5)), (
        "y may be either"
    )
    assert read_likeliest(logs, ("up", "down")) == ()


def test_a_choice_that_is_not_told_gets_no_more_than_it_can_have() -> None:
    assert read_likeliest([("yes", math.log(0.7)), ("well", math.log(0.1))], ("yes", "no")) == pytest.approx(
        (7 / 8, 1 / 8)
    )
    assert read_likeliest([("yes", math.log(0.95)), ("so", math.log(0.04))], ("yes", "no")) == pytest.approx(
        (95 / 96, 1 / 96)
    )


def test_weights_become_shares() -> None:
    assert shares([1, 3]) == (0.25, 0.75)
    assert shares([0, 0]) == ()
