import random
import time

import pytest

from s3ray.curation.duplicates import DuplicateIndex
from s3ray.types import RejectionReason

TEXT = "The battery of this phone lasts for two whole days and charges within the hour."


def index(threshold: float | None = 0.9, **texts: str) -> DuplicateIndex:
    made = DuplicateIndex(threshold)
    for id, text in texts.items():
        made.add(id, text)
    return made


def test_a_copy_is_found_whatever_its_case_punctuation_and_space() -> None:
    assert index(a=TEXT).find("  the battery of this PHONE lasts, for two whole days and charges within the hour") == (
        RejectionReason.DUPLICATE,
        "a",
    )


def test_a_near_copy_is_found_with_the_id_of_the_most_similar_text() -> None:
    made = index(a=TEXT.replace("two", "three").replace("phone", "torch"), b=TEXT)
    assert made.find(TEXT.replace("days", "weeks")) == (RejectionReason.NEAR_DUPLICATE, "b")


def test_another_text_is_no_copy() -> None:
    assert index(a=TEXT).find("The soup was cold and the waiter looked bored.") is None
    assert index().find(TEXT) is None


def test_without_a_threshold_only_exact_copies_count() -> None:
    made = index(None, a=TEXT)
    assert made.find(TEXT.replace("two", "three")) is None
    assert made.find(TEXT.upper()) == (RejectionReason.DUPLICATE, "a")


@pytest.mark.parametrize(("threshold", "is_copy"), [(0.97, False), (0.93, True)])
def test_the_threshold_is_a_normalised_edit_similarity(threshold: float, is_copy: bool) -> None:
    changed = TEXT.replace("hour", "year")  # 2 edits in 78 characters: 0.974
    changed = changed.replace("two", "ten")  # 2 more: 0.949
    assert (index(threshold, a=TEXT).find(changed) is not None) is is_copy


def test_texts_are_compared_within_one_scope_only() -> None:
    made = DuplicateIndex(0.9)
    made.add("a", TEXT, scope="first passage")
    assert made.find(TEXT, scope="second passage") is None
    assert made.find(TEXT) is None
    assert made.find(TEXT.replace("two", "ten"), scope="second passage") is None
    assert made.find(TEXT.replace("two", "ten"), scope="first passage") == (RejectionReason.NEAR_DUPLICATE, "a")


def test_of_exact_copies_the_first_id_stays() -> None:
    made = index(a=TEXT, b=TEXT)
    assert made.find(TEXT) == (RejectionReason.DUPLICATE, "a")


def test_almost_every_near_copy_is_found_among_many_texts_and_fast() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
    texts = [" ".join(draw.choices(words, k=12)) for _ in range(5000)]
    made = DuplicateIndex(0.9)
    started = time.process_time()
    for number, text in enumerate(texts):
        assert made.find(text) is None
        made.add(str(number), text)
    num_found = 0
    for number in range(0, 5000, 10):
        place = draw.randrange(len(texts[number]))
        copied = made.find(texts[number][:place] + "zq" + texts[number][place:])
        num_found += copied == (RejectionReason.NEAR_DUPLICATE, str(number))
    assert num_found >= 0.97 * 500
    assert time.process_time() - started < 20
