"""Measures of a synthetic set against gold: labels, copies, variety, lengths, coverage. Pure.

Points are rows' embeddings: float32 of shape ``(rows, dimensions)``, each of length 1.

The share of right labels is estimated with a checker that is itself sometimes wrong.
The checker's answers to rows that were asked to carry label *a* are distributed as ``q_a = P^T pi_a``, where
``P[t, c]`` is the probability that it answers *c* to a row whose label truly is *t*, and ``pi_a`` the distribution of
true labels among these rows. ``P`` is known from gold, ``q_a`` is counted, so ``pi_a = (P^T)^-1 q_a``, and ``pi_a[a]``
is the share of right labels. With two labels this is the estimator of Rogan and Gladen (Am. J. Epidemiol. 107:71,
1978): ``(q + specificity - 1) / (sensitivity + specificity - 1)``.

Limits: the estimate assumes that the checker errs on synthetic rows as it does on gold. Rows that are harder than gold
(those written from mistakes) look worse than they are, rows in textbook style better, and the checker agrees too
readily with rows that are close to the gold it was trained on. Estimates outside the simplex are clipped and marked.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from s3ray.curation.duplicates import DuplicateIndex
from s3ray.text import normalise, units_of
from s3ray.types import RejectionReason

Points = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NUM_FOLDS = 5
MIN_TOLD_APART = 20
"""Rows of either set below which it is not measured how well the two can be told apart."""
NEAR = 0.9
"""Normalised edit similarity from which a text counts as a near copy; curation's own default is 0.95."""
NUM_COMPARED = 100
"""Texts of a set that self-BLEU and distinct-2 look at: both depend on how many there are."""
MIN_GOLD_ROWS = 5
"""Gold rows that each label needs, so that the checker's errors on it are known."""
MIN_SINGULAR_VALUE = 0.25
"""Below it errors of the counts grow more than fourfold in the estimate: the labels are not identifiable."""
NUM_DRAWS = 1000


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
    """Share of distances that are at most ``radius``, but for what rounding adds to a distance of zero."""
    return float(np.mean(found <= radius + 1e-6))


def told_apart(one: Points, other: Points) -> float | None:
    """How well a linear classifier that was not shown these rows tells the two sets apart: area under its ROC curve.

    0.5 means not at all, 1 means always. The classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017), by five-fold
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


# -- copies and variety of texts ------------------------------------------------------------------------------------


def copies_within(texts: Sequence[str], scopes: Sequence[str], threshold: float | None) -> list[RejectionReason | None]:
    """For each text, whether it is an exact or a near copy of an earlier one of its scope; None: neither."""
    index = DuplicateIndex(threshold)
    found: list[RejectionReason | None] = []
    for place, (text, scope) in enumerate(zip(texts, scopes, strict=True)):
        copied = index.find(text, scope)
        found.append(copied[0] if copied else None)
        index.add(str(place), text, scope)
    return found


def copies_of(texts: Iterable[str], gold: Mapping[str, Sequence[str]], threshold: float) -> list[str | None]:
    """For each text, the part of gold that holds an equal or nearly equal one; None: no part does."""
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
    """Share of distinct pairs among all pairs of neighbouring words (Li et al., NAACL 2016); None without any pair."""
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = units_of(normalise(text))
        pairs.update(itertools.pairwise(words))
    return len(pairs) / pairs.total() if pairs else None


# -- right labels ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAccuracy:
    """Estimated share of right labels, with a 95 % interval, in all and by the label that was asked for.

    ``clipped``: the counts fit no mixture of labels exactly.
    """

    value: float
    low: float
    high: float
    clipped: bool
    by_label: dict[str, float]


def count_pairs(rows: Sequence[str], columns: Sequence[str], labels: Sequence[str]) -> Matrix:
    """How many rows have each label (of ``rows``: true or asked for) and each answer (of ``columns``); shape (K, K)."""
    return np.asarray(confusion_matrix(rows, columns, labels=labels), dtype=np.float64)


def is_identifiable(confusion: Matrix) -> bool:
    """Whether the checker's errors (true label by answer, counts) can be told from errors of the labels."""
    if confusion.sum(axis=1).min() < MIN_GOLD_ROWS:
        return False
    return bool(np.linalg.svd(_normalised(confusion), compute_uv=False).min() >= MIN_SINGULAR_VALUE)


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
    truths, clipped = _truths(_normalised(answered[asked]), _normalised(confusion))
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

    A drawn matrix can be singular; then this is the least-squares solution.
    """
    truths = answers @ np.linalg.pinv(errors)
    return _normalised(np.maximum(truths, 0.0)), bool(truths.min() < -1e-9)


def _draws(counts: Matrix, chance: np.random.Generator) -> Matrix:
    """``NUM_DRAWS`` matrices of probabilities that may stand behind the counts; the prior counts as one row."""
    gammas = chance.standard_gamma(counts + 1.0 / counts.shape[1], size=(NUM_DRAWS, *counts.shape))
    return _normalised(np.maximum(gammas, np.finfo(np.float64).tiny))


def _normalised(counts: Matrix) -> Matrix:
    shares: Matrix = counts / counts.sum(axis=-1, keepdims=True)
    return shares
