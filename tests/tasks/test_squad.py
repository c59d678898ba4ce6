"""Exact match and F1 are those of the official SQuAD script: compared with another implementation of it, and with the
examples that its documentation scores."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.data.metrics import squad_metrics

from s3ray.config.job import GoldConfig
from s3ray.tasks import load_task
from s3ray.tasks.gold import load_gold
from s3ray.tasks.metrics import exact_match, normalise_answer, token_f1

official: Any = squad_metrics  # which has no types


def _perturbed(answer: str, other: str) -> list[str]:
    """What a student may say instead: cut, widened, spelled in another way, or something else."""
    words = answer.split()
    return [
        answer,
        answer.upper() + ".",
        f"the {answer}, an {other.split()[0]}",
        " ".join(words[1:]),
        " ".join(words[:-1]),
        " ".join(reversed(words)),
        answer.replace(" ", "-", 1),
        f"  {answer}\t{answer} ",
        other,
        "",
    ]


def _pairs() -> Iterator[tuple[list[str], str]]:
    """Pieces of real sentences, with their articles, quotes, dashes and numbers, as answers with several references."""
    gold = load_gold(load_task("review_sentences"), GoldConfig(extrapolate=1, select=1))
    draw = random.Random(0)
    sentences = [example.fields["text"].split() for example in gold.test]
    pieces = [" ".join(words[(at := draw.randrange(len(words))) : at + draw.randrange(1, 7)]) for words in sentences]
    for number, piece in enumerate(pieces):
        references = [piece, *draw.sample(pieces, k=number % 3)]
        for predicted in _perturbed(piece, draw.choice(pieces)):
            yield references, predicted


def _agree(references: list[str], predicted: str) -> bool:
    match = max(official.compute_exact(reference, predicted) for reference in references)
    f1 = max(official.compute_f1(reference, predicted) for reference in references)
    return exact_match(references, predicted) == match and token_f1(references, predicted) == pytest.approx(f1)


def _has_words(*texts: str) -> bool:
    """Version 2.0 of the script takes an answer without words for "there is none", which 1.1 does not know."""
    return all(normalise_answer(text) for text in texts)


def test_many_real_pairs_are_scored_as_by_the_official_script() -> None:
    pairs = [(references, predicted) for references, predicted in _pairs() if _has_words(*references, predicted)]
    assert len(pairs) > 5000
    assert 0.2 < sum(exact_match(*pair) for pair in pairs) / len(pairs) < 0.8, "too easy or too hard to tell"
    assert [pair for pair in pairs if not _agree(*pair)] == []


_TEXTS = st.lists(st.sampled_from(["the", "a", "An", "cat", "Cat's", "3.5", "été", "—", "co-op", " ", "\n"])).map(
    " ".join
)


@given(references=st.lists(_TEXTS, min_size=1, max_size=3), predicted=_TEXTS)
def test_odd_texts_are_normalised_as_by_the_official_script(references: list[str], predicted: str) -> None:
    for text in (*references, predicted):
        assert normalise_answer(text) == official.normalize_answer(text)
    assert not _has_words(*references, predicted) or _agree(references, predicted)


@pytest.mark.parametrize(
    ("references", "predicted", "match", "f1"),
    [
        (["1976"], "1976", 1.0, 1.0),  # these three: the page of Hugging Face's metric `squad`
        (["Beyoncé and Bruno Mars"], "Beyonce", 0.0, 0.0),  # accents count
        (["climate change"], "climate change", 1.0, 1.0),
        (
            ["Denver Broncos", "Denver Broncos", "Denver Broncos"],
            "The Denver Broncos.",
            1.0,
            1.0,
        ),  # dev set, question 1
    ],
)
def test_documented_examples(references: list[str], predicted: str, match: float, f1: float) -> None:
    assert exact_match(references, predicted) == match
    assert token_f1(references, predicted) == pytest.approx(f1)
