"""None"""

import json
import random
import time
from typing import Any

import pytest
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from s3ray.curation.duplicates import DuplicateIndex, WordIndex
from s3ray.tasks import load_task
from s3ray.text import normalise
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


def rouge_l(one: str, other: str) -> float:
    """The F-measure by its definition (Lin, 2004): precision and recall of the longest common subsequence."""
    a, b = one.split(), other.split()
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, word in enumerate(a):
        for j, known in enumerate(b):
            longest[i + 1][j + 1] = longest[i][j] + 1 if word == known else max(longest[i][j + 1], longest[i + 1][j])
    num = longest[-1][-1]
    if not num:
        return 0.0
    precision, recall = num / len(b), num / len(a)
    return 2 * precision * recall / (precision + recall)


def found(threshold: float, known: str, text: str) -> bool:
    index = WordIndex(threshold)
    index.add("known", known)
    return index.most_similar(text) == "known"


@pytest.mark.parametrize(
    ("one", "other", "f_measure"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # 3 of 4 and 4
        ("police killed the gunman", "the gunman kill police", 2 / 4),  # "the gunman" alone is in one order
        ("the cat sat", "the cat sat on the mat", 2 * 3 / 9),  # precision 1/2, recall 1
        ("a b c d e f g h i j", "j a b c d e f g h i", 9 / 10),  # one word moved to the front
        ("very very good", "very good", 4 / 5),  # a word said twice counts twice
    ],
)
def test_the_threshold_is_the_f_measure(one: str, other: str, f_measure: float) -> None:
    assert rouge_l(one, other) == pytest.approx(f_measure)
    for known, text in ((one, other), (other, one)):
        assert found(f_measure, known, text)
        assert not found(f_measure + 0.001, known, text)


@pytest.mark.parametrize("threshold", [0.95, 0.8, 0.5, 0.2])
def test_the_most_alike_by_rouge_is_what_comparing_with_every_text_finds(threshold: float) -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(["a", "b", "cc", "ddd"], k=draw.randint(1, 25))) for _ in range(250)]
    texts += [" ".join(draw.choices([f"word{n}" for n in range(40)], k=20)) for _ in range(50)]
    texts += [" ".join([*text.split()[1:], "end"]) for text in texts[:100]]
    draw.shuffle(texts)
    index = WordIndex(threshold)
    for number, text in enumerate(texts[:250]):
        index.add(str(number), text)
    num_found = 0
    for text in texts[250:]:
        values = [round(rouge_l(text, other), 9) for other in texts[:250]]
        best = max(values)
        expected = str(values.index(best)) if best >= threshold - 1e-9 else None
        assert index.most_similar(text) == expected, (text, best)
        num_found += expected is not None
    assert num_found > 10


def test_few_texts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows like real ones: a limit of 0.95 may not cost a comparison with each row kept before."""
    folder = load_task("review_sentences").data
    assert folder is not None
    texts = [json.loads(line)["text"] for line in (folder / "test.jsonl").read_text("utf-8").splitlines()]
    num_compared = 0
    extract = process.extractOne

    def counted(query: Any, choices: Any, **settings: Any) -> Any:
        nonlocal num_compared
        num_compared += len(choices)
        return extract(query, choices, **settings)

    monkeypatch.setattr(process, "extractOne", counted)
    index = DuplicateIndex(None, rouge_l=0.95)
    for number, text in enumerate(texts):
        index.find(text)
        index.add(str(number), text)
    assert num_compared < 0.02 * len(texts) ** 2 / 2


def test_case_and_punctuation_are_no_words() -> None:
    index = DuplicateIndex(None, rouge_l=0.9)
    index.add("a", "The waiter, who smiled, brought the soup; then he brought the bill!")
    near = "the waiter who smiled brought the soup then he brought the check"
    assert index.find(near) == (RejectionReason.NEAR_DUPLICATE, "a")
    assert index.find(near, scope="another passage") is None
