"""Which gold rows to write from (s3plus), as arithmetic on how a student sees them. Pure; equal input, equal choice."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_AT_ONCE = 1024
_LEAST_WEIGHT = 1e-6


def unit_rows(features: npt.NDArray[np.floating[Any]]) -> Matrix:
    """Rows of length 1, so that inner products are cosines; a row of zeros stays one."""
    rows = features.astype(np.float64)
    lengths: Matrix = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def persistent(mistaken: Set[str], history: Sequence[Set[str]], num: int) -> Set[str]:
    """The rows that the last ``num`` students all got wrong.

    ``mistaken`` are those of the last one, ``history`` those of the students before it, oldest first.
    """
    before = history[len(history) - (num - 1) :] if len(history) >= num - 1 else [frozenset[str]()]
    return set(mistaken).intersection(*before)


def nearest(queries: Matrix, candidates: Matrix) -> list[int]:
    """For each query the place of the candidate with the largest cosine; rows of both have length 1."""
    found: list[int] = []
    for first in range(0, len(queries), _AT_ONCE):
        found += np.argmax(queries[first : first + _AT_ONCE] @ candidates.T, axis=1).tolist()
    return found


def moderately_hard(target_probability: Iterable[float]) -> Matrix:
    """Weights in (0, 1]: 1 where the student is in two minds about the truth, near 0 where it is sure of anything."""
    return np.array([max(_LEAST_WEIGHT, 1 - abs(2 * p - 1)) for p in target_probability], dtype=np.float64)


def representatives(features: Matrix, weights: Matrix, num: int) -> list[int]:
    """The places of ``num`` rows that cover all of them, hard ones above all: a greedy, weighted K-centre.

    The first has the largest product of its weight and its cosine (plus 1) with the weighted mean; each further one of
    its weight and its cosine distance to those chosen. Shapes: ``features`` (rows, width) of length 1, ``weights``
    (rows). Coverage of moderately hard rows is from CondenseLM (ACL 2025.emnlp-main.65); the weighting is ours.
    """
    if not len(features) or num <= 0:
        return []
    mean = unit_rows((weights @ features)[None])[0]
    chosen = [int(np.argmax(weights * (1 + features @ mean)))]
    distances = 1 - features @ features[chosen[0]]
    while len(chosen) < min(num, len(features)):
        gains = weights * np.maximum(distances, 0)
        gains[chosen] = -1
        chosen.append(int(np.argmax(gains)))
        distances = np.minimum(distances, 1 - features @ features[chosen[-1]])
    return chosen


def clusters(features: Matrix, num: int, seed: int) -> list[list[int]]:
    """The places of similar rows, in at most ``num`` groups by k-means; in each, those nearest to its centre first."""
    from sklearn.cluster import KMeans  # takes longer to import than all else here, and few strategies ask for it

    num = min(num, len(np.unique(features, axis=0)))
    if not num:
        return []
    model = KMeans(n_clusters=num, n_init=4, random_state=seed).fit(features)
    distances = np.linalg.norm(features - model.cluster_centers_[model.labels_], axis=1)
    order = np.argsort(distances, kind="stable")
    groups = [[int(place) for place in order if model.labels_[place] == number] for number in range(num)]
    return sorted((group for group in groups if group), key=min)


def balanced(have: Mapping[str, int], num: int) -> dict[str, int]:
    """``num`` new rows, shared so that the labels that have fewest rows come as near to the others as they can."""
    total = dict(have)
    for _ in range(num if have else 0):
        total[min(total, key=lambda label: total[label])] += 1
    return {label: total[label] - have[label] for label in have}
