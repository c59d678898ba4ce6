"""Calibrating a generator's label probabilities on gold rows, whose labels are known.

A small model often finds "yes" likely whatever it is shown. Vector scaling with a full matrix (Guo et al., *On
Calibration of Modern Neural Networks*, ICML 2017) is a logistic regression on the logarithms of its probabilities.
Classes have equal weight, because rows of all labels are asked for.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_ROWS = 10
"""Fewest judged gold rows of each label; with fewer there is no calibration."""
_TINY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """``softmax(weights @ log(verdict) + bias)``; ``weights`` (labels, labels) and ``bias`` in the task's order.

    ``num`` is the number of judged gold rows, ``accuracy`` the share of them whose label is the likeliest before and
    after calibration.
    """

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    num: int
    accuracy: tuple[float, float]

    def of(self, verdict: Sequence[float]) -> tuple[float, ...]:
        """Calibrated label probabilities; input and result each sum to 1."""
        scores = np.array(self.weights) @ _logarithms([verdict])[0] + np.array(self.bias)
        shares = np.exp(scores - scores.max())
        return tuple((shares / shares.sum()).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def calibrate(verdicts: Sequence[Sequence[float]], truth: Sequence[int], num_labels: int) -> Calibration | None:
    """Fit to verdicts on gold rows, shape (rows, labels), and the numbers of their labels; None: too few of a label."""
    counts = np.bincount(np.asarray(truth, dtype=np.int64), minlength=num_labels)
    if counts.min() < LEAST_ROWS:
        return None
    from sklearn.linear_model import LogisticRegression  # slow to import, and only verification asks for it

    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(_logarithms(verdicts), truth)
    weights, bias = model.coef_, model.intercept_
    if num_labels == 2:  # scikit-learn then returns one row, for the difference of the two
        weights, bias = np.vstack([np.zeros_like(weights), weights]), np.concatenate([[0.0], bias])
    raw = Calibration(
        weights=tuple(map(tuple, weights.tolist())), bias=tuple(bias.tolist()), num=len(truth), accuracy=(0.0, 0.0)
    )
    before, after = (_accuracy(rows, truth) for rows in (verdicts, [raw.of(verdict) for verdict in verdicts]))
    return replace(raw, accuracy=(before, after))


def _logarithms(verdicts: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    return np.log(np.clip(np.asarray(verdicts, dtype=np.float64), _TINY, 1.0))


def _accuracy(verdicts: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    right = np.argmax(np.asarray(verdicts), axis=1) == np.asarray(truth)
    return float(right.mean())
