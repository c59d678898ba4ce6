import pytest

from s3ray.audit.copies import copies_of, copies_within, distinct_2, self_bleu, similarity
from s3ray.types import RejectionReason

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


def test_distinct_2_counts_pairs_of_words() -> None:
    assert distinct_2(["a b a b", "a b"]) == 2 / 4  # ab ba ab, ab
    assert distinct_2(["word"]) is None
