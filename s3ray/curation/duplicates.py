"""Copies among texts: exact ones by hash of the normalised text, near ones by MinHash candidates that are verified.

One index serves the synthetic rows; another one, filled with gold, is the leak guard. What ``find`` answers depends
on the texts added before and their order, on nothing else.
"""

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH
from rapidfuzz.distance import Levenshtein

from s3ray.curation.clean import normalise
from s3ray.types import RejectionReason

_NGRAM = 3
_NUM_HASHES = 64
_HASH_SEED = 1
_FAVOUR_RECALL = (0.2, 0.8)


class DuplicateIndex:
    """Texts seen so far, each within a scope: texts of different scopes are never copies of each other.

    ``threshold`` is the normalised edit similarity, in (0, 1], from which a text counts as a near copy; None looks for
    exact copies only.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._exact: dict[int, str] = {}
        self._texts: list[tuple[str, str, str]] = []
        self._blank = MinHash(num_perm=_NUM_HASHES, seed=_HASH_SEED, hashfunc=xxhash.xxh32_intdigest)
        self._lsh = None
        if threshold is not None:
            floor = _lowest_jaccard(threshold)
            self._lsh = MinHashLSH(threshold=floor, num_perm=_NUM_HASHES, weights=_FAVOUR_RECALL)

    def find(self, text: str, scope: str = "") -> tuple[RejectionReason, str] | None:
        """The kind of copy that the text is, and the original's id: the most similar text's, the earliest of equals."""
        normal = normalise(text)
        original = self._exact.get(_key(normal, scope))
        if original is not None:
            return RejectionReason.DUPLICATE, original
        if self._lsh is None or self._threshold is None:
            return None
        best, best_similarity = None, self._threshold
        for position in sorted(self._lsh.query(self._minhash(normal))):
            other, other_scope, other_id = self._texts[position]
            if other_scope != scope:
                continue
            similarity = Levenshtein.normalized_similarity(normal, other, score_cutoff=best_similarity)
            if similarity > best_similarity or (best is None and similarity >= best_similarity):
                best, best_similarity = other_id, similarity
        return None if best is None else (RejectionReason.NEAR_DUPLICATE, best)

    def add(self, id: str, text: str, scope: str = "") -> None:
        """Remember a text; of exact copies the first id stays."""
        normal = normalise(text)
        key = _key(normal, scope)
        if key in self._exact:
            return
        self._exact[key] = id
        if self._lsh is not None:
            self._lsh.insert(len(self._texts), self._minhash(normal))
            self._texts.append((normal, scope, id))

    def _minhash(self, normal: str) -> MinHash:
        grams = {normal[start : start + _NGRAM] for start in range(max(1, len(normal) - _NGRAM + 1))}
        minhash = self._blank.copy()
        minhash.update_batch([gram.encode() for gram in sorted(grams)])
        return minhash


def _key(normal: str, scope: str) -> int:
    return xxhash.xxh64_intdigest(f"{scope}\0{normal}".encode())


def _lowest_jaccard(similarity: float) -> float:
    """The smallest n-gram overlap of two texts at this edit similarity: an edit changes at most n n-grams of each."""
    changed = _NGRAM * (1 - similarity)
    return float(np.clip((1 - changed) / (1 + changed), 0.1, 0.95))
