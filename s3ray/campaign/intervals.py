"""How sure a score or a lead is: bootstrap intervals over seeds and test rows. Pure.

A draw takes as many seeds and as many test rows as there are, both with replacement, and scores all runs on the same
rows. All seeds have the test rows in common (``tasks.gold``), so a draw takes the same rows for all seeds too: a hard
row is hard with every seed, and rows drawn anew for each seed would count as independent (Owen, *The pigeonhole
bootstrap*, 2007: made for such crossed samples; its intervals are rather too wide than too narrow).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_DRAWS = 10_000
LEVEL = 0.95

Draws = npt.NDArray[np.float64]
"""A value at each draw; shape (``NUM_DRAWS``,)."""
Interval = tuple[float, float]

_MAX_CELLS = 4_000_000  # draws x rows in memory at once: 32 MB for each array of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the last student of a run answered on test, in the order of ``ids``.

    ``scores`` is the deciding metric of each row, or 1 where the row is right and 0 where it is not. ``truth`` and
    ``predicted`` are labels, kept only where macro-F1 decides, which is no mean over rows.
    """

    ids: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    truth: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()


def redraw_rows(metric: str, runs: Mapping[str, Answers], stream: str) -> dict[str, Draws]:
    """The score of each run at each draw of test rows, by the run's name.

    Runs with the same rows are read at the same draws. ``stream`` names the random numbers: draws of two tasks are
    independent, and the same command gives the same intervals.
    """
    with_rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, run in runs.items():
        with_rows[run.ids].append(name)
    drawn: dict[str, Draws] = {}
    for ids, names in with_rows.items():
        labels = sorted({label for name in names for label in (*runs[name].truth, *runs[name].predicted)})
        parts = [_parts(metric, runs[name], labels) for name in names]
        sums = _sums(np.hstack(parts), np.random.default_rng(list(f"{stream} rows".encode())))
        values = _value(metric, sums.reshape(NUM_DRAWS, len(names), -1), len(ids))
        drawn |= dict(zip(names, values.T, strict=True))
    return drawn


def redraw_seeds(of_seeds: Sequence[Draws], stream: str) -> Draws:
    """The mean over drawn seeds, at each draw; a single seed is drawn each time."""
    values = np.stack(of_seeds, axis=1)
    chosen = np.random.default_rng(list(f"{stream} seeds".encode())).integers(values.shape[1], size=values.shape)
    means: Draws = np.take_along_axis(values, chosen, axis=1).mean(axis=1)
    return means


def interval(draws: Draws) -> Interval:
    """The middle ``LEVEL`` of the draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def excludes_zero(found: Interval | None) -> bool:
    """Whether zero lies outside the interval, so that the sign of a lead is clear."""
    return found is not None and not found[0] <= 0 <= found[1]


def _parts(metric: str, run: Answers, labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """What the metric needs of each row, such that sums over rows are enough; shape (rows, parts)."""
    if metric != "macro_f1":
        return run.scores[:, None]
    truth, predicted = (np.array(side)[:, None] == np.array(labels) for side in (run.truth, run.predicted))
    return np.hstack([truth & predicted, truth, predicted]).astype(np.float64)


def _value(metric: str, sums: npt.NDArray[np.float64], num_rows: int) -> npt.NDArray[np.float64]:
    """The metric from sums of parts, (draws, runs, parts) to (draws, runs); ``tasks.metrics`` defines it."""
    if metric != "macro_f1":
        return sums[..., 0] / num_rows
    hits, truth, predicted = np.split(sums, 3, axis=-1)
    occurs = truth + predicted > 0
    f1 = np.divide(2 * hits, truth + predicted, out=np.zeros_like(hits), where=occurs)
    mean: npt.NDArray[np.float64] = f1.sum(axis=-1) / occurs.sum(axis=-1)
    return mean


def _sums(columns: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Sums of columns (rows, columns) over each draw of rows; shape (draws, columns)."""
    num_rows = len(columns)
    at_once = max(1, _MAX_CELLS // num_rows)
    sums = []
    for first in range(0, NUM_DRAWS, at_once):
        num = min(at_once, NUM_DRAWS - first)
        rows = random.integers(num_rows, size=(num, num_rows)) + np.arange(num)[:, None] * num_rows
        times_drawn = np.bincount(rows.ravel(), minlength=num * num_rows).reshape(num, num_rows)
        sums.append(times_drawn @ columns)
    return np.concatenate(sums)
