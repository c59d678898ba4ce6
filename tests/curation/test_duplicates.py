import json
import random
import time

import pytest
from rapidfuzz.distance import Levenshtein

from s3ray.curation.clean import normalise
from s3ray.curation.duplicates import DuplicateIndex
from s3ray.tasks import load_task
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


def perturbed(text: str, num_edits: int, draw: random.Random) -> str:
    letters = list(text)
    for _ in range(num_edits):
        place = draw.randrange(len(letters))
        letters[place : place + draw.randint(0, 1)] = draw.choice(["", "q", "zq"])
    return "".join(letters)


@pytest.mark.parametrize("threshold", [0.95, 0.9, 0.6])
def test_every_near_copy_of_a_gold_text_is_found(threshold: float) -> None:
    draw = random.Random(0)
    folder = load_task("review_sentences").data
    assert folder is not None
    texts = [json.loads(line)["text"] for line in (folder / "test.jsonl").read_text("utf-8").splitlines()]
    texts += [" ".join(texts[start : start + 30]) for start in range(0, 300, 30)]
    made = index(threshold, **{str(number): text for number, text in enumerate(texts)})
    num_near = 0
    for text in texts:
        changed = perturbed(text, draw.randint(1, 1 + int(len(text) * (1 - threshold))), draw)
        similarity = Levenshtein.normalized_similarity(normalise(text), normalise(changed))
        if threshold <= similarity < 1:
            num_near += 1
            assert made.find(changed) is not None, f"{similarity:.3f}: {changed}"
    assert num_near > 400


@pytest.mark.parametrize("threshold", [0.95, 0.8, 0.5, 0.3])
def test_what_is_found_is_what_comparing_with_every_text_finds(threshold: float) -> None:
    draw = random.Random(1)
    texts = list(dict.fromkeys("".join(draw.choices("ab", k=draw.randint(1, 30))) for _ in range(300)))
    made = index(threshold, **{text: text for text in texts[:200]})
    for text in texts[200:]:
        similarities = [Levenshtein.normalized_similarity(text, other) for other in texts[:200]]
        nearest = texts[similarities.index(max(similarities))]
        expected = (RejectionReason.NEAR_DUPLICATE, nearest) if max(similarities) >= threshold else None
        assert made.find(text) == expected


@pytest.mark.parametrize(("num_texts", "num_words"), [(5000, 12), (500, 500)])
def test_many_texts_and_long_ones_are_compared_fast(num_texts: int, num_words: int) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
    made = DuplicateIndex(0.95)
    started = time.process_time()
    for number in range(num_texts):
        text = " ".join(["the film was", *draw.choices(words, k=num_words)])
        assert made.find(text) is None
        made.add(str(number), text)
    assert time.process_time() - started < 10
