"""How many labels are right, by the word of a checker that is itself sometimes wrong. Pure: counts in, shares out.

The checker's answers to rows that were asked to carry label *a* are distributed as ``q_a = P^T pi_a``, where
``P[t, c]`` is the probability that it answers *c* to a row whose label truly is *t*, and ``pi_a`` the distribution of
true labels among these rows. ``P`` is known from gold, ``q_a`` is counted, so ``pi_a = (P^T)^-1 q_a``, and ``pi_a[a]``
is the share of right labels. With two labels this is the estimator of Rogan and Gladen (Am. J. Epidemiol. 107:71,
1978): ``(q + specificity - 1) / (sensitivity + specificity - 1)``.

Limits: it supposes that the checker errs on synthetic rows as it does on gold. Rows that are harder than gold (those
written from mistakes) look worse than they are, rows in textbook style better; and a row that is near to gold on which
the checker was trained is agreed with too readily. What leaves the simplex is clipped, and said to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

MIN_GOLD_ROWS = 5
"""Gold rows of each label without which the checker's errors on it are unknown."""
MIN_SINGULAR_VALUE = 0.25
"""Below it the errors of the counts come out more than four times as large: the labels are not identifiable."""
NUM_DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAccuracy:
    """Estimated share of right labels, with a 95 % interval, in all and by the label that was asked for.

    ``clipped`` says that the counts fit no mixture of labels exactly.
    """

    value: float
    low: float
    high: float
    clipped: bool
    by_label: dict[str, float]


def count_pairs(rows: Sequence[str], columns: Sequence[str], labels: Sequence[str]) -> Matrix:
    """How often each label of ``rows`` (true or asked for) meets each of ``columns`` (answered): ``(K, K)``."""
    places = {label: place for place, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)))
    for row, column in zip(rows, columns, strict=True):
        counts[places[row], places[column]] += 1
    return counts


def is_identifiable(confusion: Matrix) -> bool:
    """Whether the checker's errors (true label by answer, counts) can be told from errors of the labels."""
    if confusion.sum(axis=1).min() < MIN_GOLD_ROWS:
        return False
    return bool(np.linalg.svd(_shares(confusion), compute_uv=False).min() >= MIN_SINGULAR_VALUE)


def label_accuracy(answered: Matrix, confusion: Matrix, labels: Sequence[str]) -> LabelAccuracy | None:
    """The share of right labels behind ``answered`` (label asked for by the checker's answer, counts).

    ``confusion`` counts true label by answer on gold. None where they do not identify it, or there is no row. The
    interval covers the chance in both counts: each is drawn again from its posterior (Dirichlet, prior of one row).
    """
    if not answered.sum() or not is_identifiable(confusion):
        return None
    asked = answered.sum(axis=1) > 0
    shares = answered.sum(axis=1)[asked] / answered.sum()
    places = np.flatnonzero(asked)
    truths, clipped = _truths(_shares(answered[asked]), _shares(confusion))
    right = truths[np.arange(len(places)), places]
    chance = np.random.default_rng(0)
    drawn, _ = _truths(_draws(answered[asked], chance), _draws(confusion, chance))
    low, high = np.quantile(drawn[:, np.arange(len(places)), places] @ shares, [0.025, 0.975])
    by_label = {labels[place]: float(share) for place, share in zip(places, right, strict=True)}
    value = float(shares @ right)
    return LabelAccuracy(
        value=value, low=min(value, float(low)), high=max(value, float(high)), clipped=clipped, by_label=by_label
    )


def _truths(answers: Matrix, errors: Matrix) -> tuple[Matrix, bool]:
    """Distributions of true labels, a row for each of ``answers`` (or of each in a stack), and whether any is clipped.

    A matrix that is drawn can be singular; then the nearest solution stands for it.
    """
    truths = answers @ np.linalg.pinv(errors)
    return _shares(np.maximum(truths, 0.0)), bool(truths.min() < -1e-9)


def _draws(counts: Matrix, chance: np.random.Generator) -> Matrix:
    """``NUM_DRAWS`` matrices of probabilities that may stand behind the counts; the prior counts as one row."""
    gammas = chance.standard_gamma(counts + 1.0 / counts.shape[1], size=(NUM_DRAWS, *counts.shape))
    return _shares(np.maximum(gammas, np.finfo(np.float64).tiny))


def _shares(counts: Matrix) -> Matrix:
    shares: Matrix = counts / counts.sum(axis=-1, keepdims=True)
    return shares
