"""Texts that share most of their words in the same order: ROUGE-L (Lin, 2004) between each new text and all before.

ROUGE-L's F-measure of two texts of m and n words is 2 L / (m + n), where L words is their longest common subsequence:
the normalised similarity of an alignment by insertions and deletions alone.
"""

import math
import sys
from collections import defaultdict

from rapidfuzz import process
from rapidfuzz.distance import Indel

# Similarities are floats: without slack a text exactly at the threshold is sometimes missed.
_ROUNDING = 1e-6


class WordIndex:
    """Texts found again by a few of their words (prefix filtering; Chaudhuri et al., ICDE 2006).

    L is at most the number of words that two texts share. Lay both texts' words out in one order, and texts that are
    alike enough share one of the first few: m - s + 1 of m words, where s is the least number that they must share.
    The order puts long words first, as they are rarely shared. So a text is looked up by few of its words (at 0.95 by
    one of ten, and one more) and aligned, in m n / 64 steps, with those alone that have one of them and are of about
    its length. With N texts that is some share of all N^2 / 2 pairs: a small one for sentences at 0.95, a larger one
    for long texts; the lower the threshold, the more, up to all.
    """

    def __init__(self, threshold: float) -> None:
        """``threshold`` is the F-measure, in (0, 1], from which two texts count as alike."""
        self._threshold = threshold
        self._ratio = threshold / (2 - threshold)  # of the lengths of two texts, at least
        self._texts: list[tuple[str, list[str]]] = []
        self._places: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

    def add(self, id: str, normal: str) -> None:
        """Remember a normalised text."""
        words = [sys.intern(word) for word in normal.split()]  # a word of many texts lies in memory once
        for key in self._first(words):
            self._places[key].append(len(self._texts))
        self._texts.append((id, words))

    def most_similar(self, normal: str) -> str | None:
        """The id of the text that is most alike, the earliest of equals; None if none is alike enough."""
        words = normal.split()
        shortest, longest = self._fewest(len(words)), math.floor(len(words) / self._ratio + _ROUNDING)
        positions = {place for key in self._first(words) for place in self._places.get(key, ())}
        best = process.extractOne(
            words,
            {n: self._texts[n][1] for n in sorted(positions) if shortest <= len(self._texts[n][1]) <= longest},
            scorer=Indel.normalized_similarity,
            score_cutoff=self._threshold - _ROUNDING,
        )
        return None if best is None else self._texts[best[2]][0]

    def _first(self, words: list[str]) -> list[tuple[str, int]]:
        """The words of which a text that is alike has one; of a word that comes again, the second is another one."""
        seen: defaultdict[str, int] = defaultdict(int)
        keys = []
        for word in words:
            keys.append((word, seen[word]))
            seen[word] += 1
        keys.sort(key=lambda key: (-len(key[0]), key))
        num_shared = math.ceil(self._threshold * (len(words) + self._fewest(len(words))) / 2 - _ROUNDING)
        return keys[: len(words) - num_shared + 1]

    def _fewest(self, num_words: int) -> int:
        """The fewest words that a text alike to one of ``num_words`` can have."""
        return math.ceil(num_words * self._ratio - _ROUNDING)
