"""How a synthetic set lies to gold: drift of labels, lengths, coverage. Pure: numbers in, numbers out.

Points are rows' embeddings: float32 of shape ``(rows, dimensions)``, each of length 1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Points = npt.NDArray[np.float32]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NUM_FOLDS = 5
MIN_TOLD_APART = 20
"""Rows on either side without which nothing is said of how well the two can be told apart."""


def shares(values: Iterable[str]) -> dict[str, float]:
    """The share of each value, in the order of their names."""
    counts = Counter(values)
    return {value: counts[value] / counts.total() for value in sorted(counts)}


def drift(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Total variation distance of two distributions, in [0, 1]: the share of rows that would have to change label."""
    return sum(abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in {*one, *other}) / 2


def quantiles(values: Sequence[float]) -> list[float] | None:
    """The values at ``QUANTILES``; None where there are none."""
    return [float(value) for value in np.quantile(values, QUANTILES)] if len(values) else None


def distances(points: Points, others: Points) -> npt.NDArray[np.float32]:
    """Cosine distance of each point to the nearest of the others, which are not empty."""
    return np.asarray(1.0 - (points @ others.T).max(axis=1), dtype=np.float32)


def own_radius(points: Points) -> float | None:
    """Median distance of a point to the nearest other one of the same set; None for fewer than two.

    A second sample of the same source and size would cover about half of the points within it.
    """
    if len(points) < 2:
        return None
    near = points @ points.T
    np.fill_diagonal(near, -np.inf)
    return float(np.median(1.0 - near.max(axis=1)))


def share_within(found: npt.NDArray[np.float32], radius: float) -> float:
    """Share of distances that are at most ``radius``; what rounding adds to a distance of zero is overlooked."""
    return float(np.mean(found <= radius + 1e-6))


def told_apart(one: Points, other: Points) -> float | None:
    """How well a linear classifier that was not shown these rows tells the two sets apart: area under its ROC curve.

    0.5: not at all; 1: without fail. The classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017), by five-fold
    cross-validation. None where a side has too few rows.
    """
    if min(len(one), len(other)) < MIN_TOLD_APART:
        return None
    rows = np.concatenate([one, other])
    side = np.repeat([0, 1], [len(one), len(other)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(classifier, rows, side, cv=folds, method="decision_function")
    return float(roc_auc_score(side, scores))
