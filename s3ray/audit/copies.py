"""Texts that say the same: copies within the set, copies of gold, likeness to the parent, and how varied a set is."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rapidfuzz.distance import Levenshtein

from s3ray.curation.clean import normalise
from s3ray.curation.duplicates import DuplicateIndex
from s3ray.types import RejectionReason

NEAR = 0.9
"""Normalised edit similarity from which a text counts as a near copy; curation's own default is 0.95."""
NUM_COMPARED = 100
"""Texts of a set that self-BLEU and distinct-2 look at: both depend on how many there are."""


def copies_within(texts: Sequence[str], scopes: Sequence[str], threshold: float | None) -> list[RejectionReason | None]:
    """Of each text whether it is an exact or a near copy of an earlier one of its scope; None: neither."""
    index = DuplicateIndex(threshold)
    found: list[RejectionReason | None] = []
    for place, (text, scope) in enumerate(zip(texts, scopes, strict=True)):
        copied = index.find(text, scope)
        found.append(copied[0] if copied else None)
        index.add(str(place), text, scope)
    return found


def copies_of(texts: Iterable[str], gold: Mapping[str, Sequence[str]], threshold: float) -> list[str | None]:
    """Of each text the part of gold that holds an equal or nearly equal one; None: no part does."""
    index = DuplicateIndex(threshold)
    for part, rows in gold.items():
        for row in rows:
            index.add(part, row)
    found = (index.find(text) for text in texts)
    return [copied[1] if copied else None for copied in found]


def similarity(one: str, other: str) -> float:
    """Normalised edit similarity in [0, 1], of the texts as ``DuplicateIndex`` compares them."""
    return Levenshtein.normalized_similarity(normalise(one), normalise(other))


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text with all others as references, in [0, 1] (Zhu et al., Texygen, SIGIR 2018).

    None for fewer than two texts. Needs the extra ``audit``.
    """
    from sacrebleu.metrics.bleu import BLEU

    if len(texts) < 2:
        return None
    bleu = BLEU(effective_order=True)  # short texts have no 4-grams
    scores = [
        bleu.sentence_score(text, [*texts[:place], *texts[place + 1 :]]).score for place, text in enumerate(texts)
    ]
    return sum(scores) / len(scores) / 100


def distinct_2(texts: Iterable[str]) -> float | None:
    """Different pairs of neighbouring words by all such pairs (Li et al., NAACL 2016); None where there are none."""
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = normalise(text).split()
        pairs.update(itertools.pairwise(words))
    return len(pairs) / pairs.total() if pairs else None
