"""ROUGE-L by a search that misses none: against hand-worked values, and against comparing with every text."""

import json
import random
from typing import Any

import pytest
from rapidfuzz import process

from s3ray.curation.duplicates import DuplicateIndex
from s3ray.curation.rouge import WordIndex
from s3ray.tasks import load_task
from s3ray.types import RejectionReason


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
def test_what_is_found_is_what_comparing_with_every_text_finds(threshold: float) -> None:
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
