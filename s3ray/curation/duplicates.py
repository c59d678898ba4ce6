"""Finding copies and near copies among many texts: by edits (Levenshtein), and by ROUGE-L (Lin, 2004).

ROUGE-L's F-measure of two texts of m and n words is 2 L / (m + n), where L words is their longest common subsequence:
the normalised similarity of an alignment by insertions and deletions alone.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import xxhash
from rapidfuzz import process
from rapidfuzz.distance import Indel, Levenshtein

from s3ray.text import normalise, units_of
from s3ray.types import RejectionReason

# Similarities are floats: without slack a text exactly at the threshold is sometimes missed.
_ROUNDING = 1e-6


class NewText(NamedTuple):
    """A text to look for. ``sketch`` (``curation.sketch``) is empty where nobody made it yet."""

    text: str
    scope: str = ""
    sketch: bytes = b""


class WordIndex:
    """Finds similar texts by a few of their words (prefix filtering; Chaudhuri et al., ICDE 2006).

    L is at most the number of words that two texts share. If the words of both are sorted in the same order, similar
    texts share one of the first few: m - s + 1 of m words, where s is the least number that they must share. The order
    puts long words first, as these are rarely shared. So a text is looked up by few of its words (at 0.95 by a tenth
    of them, and one more). It is aligned, in m n / 64 steps, only with texts that have one of these words and are of
    about its length. With N texts that is some share of all N^2 / 2 pairs: a small one for sentences at 0.95, a larger
    one for long texts; the lower the threshold, the more, up to all.
    """

    def __init__(self, threshold: float) -> None:
        """``threshold`` is the F-measure, in (0, 1], from which two texts count as similar."""
        self._threshold = threshold
        self._ratio = threshold / (2 - threshold)  # of the lengths of two texts, at least
        self._texts: list[tuple[str, list[str]]] = []
        self._places: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

    def add(self, id: str, normal: str) -> None:
        """Remember a normalised text."""
        words = [sys.intern(word) for word in units_of(normal)]  # a word of many texts is in memory once
        for key in self._first(words):
            self._places[key].append(len(self._texts))
        self._texts.append((id, words))

    def most_similar(self, normal: str) -> str | None:
        """The id of the most similar text, the earliest of equals; None if none reaches the threshold."""
        words = units_of(normal)
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
        """The words of which every similar text has at least one, numbered where a word repeats."""
        seen: defaultdict[str, int] = defaultdict(int)
        keys = []
        for word in words:
            keys.append((word, seen[word]))
            seen[word] += 1
        keys.sort(key=lambda key: (-len(key[0]), key))
        num_shared = math.ceil(self._threshold * (len(words) + self._fewest(len(words))) / 2 - _ROUNDING)
        return keys[: len(words) - num_shared + 1]

    def _fewest(self, num_words: int) -> int:
        """The fewest words of a text that is similar to one of ``num_words``."""
        return math.ceil(num_words * self._ratio - _ROUNDING)


class DuplicateIndex:
    """Texts seen so far, each within a scope: texts of different scopes are never copies of each other.

    ``threshold`` is the normalised edit similarity, in (0, 1], from which a text counts as a near copy; None looks for
    exact copies only. ``rouge_l`` is the F-measure of ROUGE-L, in (0, 1], from which a text counts as one too; None
    ignores it.
    """

    def __init__(self, threshold: float | None, rouge_l: float | None = None) -> None:
        self._threshold = threshold
        self._rouge_l = rouge_l
        self._exact: dict[int, str] = {}
        self._near: defaultdict[str, _Pieces] = defaultdict(lambda: _Pieces(threshold or 1.0))
        self._alike: defaultdict[str, WordIndex] = defaultdict(lambda: WordIndex(rouge_l or 1.0))

    def expect(self, texts: Sequence[NewText]) -> None:
        """Hear of the texts that will be asked for; this index prepares nothing."""

    def find(self, text: str, scope: str = "") -> tuple[RejectionReason, str] | None:
        """The kind of copy that the text is, and the id of its original; None if it is not a copy.

        The original is the most similar text, the earliest of equals. Edit similarity goes before ROUGE-L.
        """
        normal = normalise(text)
        original = self._exact.get(_key(normal, scope))
        if original is not None:
            return RejectionReason.DUPLICATE, original
        if scope in self._near:
            original = self._near[scope].most_similar(normal)
        if original is None and scope in self._alike:
            original = self._alike[scope].most_similar(normal)
        return None if original is None else (RejectionReason.NEAR_DUPLICATE, original)

    def add(self, id: str, text: str, scope: str = "") -> None:
        """Remember a text; of exact copies the first id stays."""
        normal = normalise(text)
        key = _key(normal, scope)
        if key in self._exact:
            return
        self._exact[key] = id
        if self._threshold is not None:
            self._near[scope].add(id, normal)
        if self._rouge_l is not None:
            self._alike[scope].add(id, normal)


class _Pieces:
    """Finds similar texts by their pieces (pigeonhole principle; Li et al., Pass-Join, VLDB 2011).

    A text is cut into one piece more than a near copy of it can have edits, so that a near copy has at least one of the
    pieces unchanged. An index takes about 10 bytes per character at a threshold of 0.95.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[tuple[str, str]] = []
        self._places: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, id: str, normal: str) -> None:
        num_edits = self._most_edits(len(normal))
        size = len(normal) // (num_edits + 1)
        for start in range(0, (num_edits + 1) * size, size) if size else (0,):
            self._places[normal[start : start + size]].append(len(self._texts))
        self._texts.append((id, normal))

    def most_similar(self, normal: str) -> str | None:
        shortest = math.ceil(len(normal) * self._threshold - _ROUNDING)
        longest = math.floor(len(normal) / self._threshold + _ROUNDING)
        sizes = {length // (self._most_edits(length) + 1) for length in range(shortest, longest + 1)}
        pieces = {normal[start : start + size] for size in sizes for start in range(len(normal) - size + 1)}
        positions = {position for piece in pieces & self._places.keys() for position in self._places[piece]}
        best = process.extractOne(
            normal,
            {n: self._texts[n][1] for n in sorted(positions) if shortest <= len(self._texts[n][1]) <= longest},
            scorer=Levenshtein.normalized_similarity,
            score_cutoff=self._threshold - _ROUNDING,
        )
        return None if best is None else self._texts[best[2]][0]

    def _most_edits(self, length: int) -> int:
        """How many edits a text of this length may be from a near copy, the longest one included."""
        return math.floor(length * (1 - self._threshold) / self._threshold + _ROUNDING)


def _key(normal: str, scope: str) -> int:
    return xxhash.xxh64_intdigest(f"{scope}\0{normal}".encode())
