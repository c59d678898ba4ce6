"""What a campaign comes to: mean, standard deviation and paired differences of the scores on test. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s3ray.campaign.grid import Campaign, GridRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One combination of values over all seeds.

    ``scores`` is the deciding metric on test by seed. ``lead_mean`` and ``lead_std`` are of the differences to the
    reference, seed by seed; None for the reference itself, and where it has no score. Standard deviations are of the
    sample, None for a single seed. ``output_tokens`` and ``train_s`` are means over the seeds.
    """

    cell: Mapping[str, str]
    metric: str
    rows: Sequence[int]
    scores: Mapping[int, float]
    mean: float
    std: float | None
    lead_mean: float | None
    lead_std: float | None
    output_tokens: float
    train_s: float


def compare(campaign: Campaign, metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows in the order of the grid, from the metrics of the runs that are finished, by name."""
    by_cell: dict[tuple[str, ...], list[GridRun]] = {}
    for run in campaign.runs:
        if run.name in metrics:
            by_cell.setdefault(tuple(run.cell.values()), []).append(run)
    scores = {cell: {run.seed: _score(metrics[run.name]) for run in runs} for cell, runs in by_cell.items()}
    return [_row(campaign, runs, metrics, scores) for runs in by_cell.values()]


def to_json(campaign: Campaign, rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as plain values, for ``compare.json`` (schema 1)."""
    return {
        "schema": 1,
        "campaign": campaign.config.name,
        "axes": {axis: list(values) for axis, values in campaign.config.axes.items()},
        "seeds": campaign.config.seeds,
        "reference": campaign.reference,
        "rows": [asdict(row) for row in rows],
    }


def to_markdown(campaign: Campaign, rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    axes, seeds = list(campaign.config.axes), campaign.config.seeds
    head = [*axes, "rows", "test", f"lead of {campaign.reference}", *(f"seed {seed}" for seed in seeds)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        own = [f"{row.scores[seed]:.3f}" if seed in row.scores else "-" for seed in seeds]
        num = "/".join(map(str, sorted(set(row.rows))))
        score, lead = mean_std(row.mean, row.std), mean_std(row.lead_mean, row.lead_std, "+")
        lines.append([*row.cell.values(), num, f"{row.metric} {score}", lead, *own])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def mean_std(mean: float | None, std: float | None, sign: str = "") -> str:
    """``0.874 ± 0.010``; empty for no mean."""
    if mean is None:
        return ""
    return f"{mean:{sign}.3f}" + (f" ± {std:.3f}" if std is not None else "")


def _row(
    campaign: Campaign,
    runs: Sequence[GridRun],
    metrics: Mapping[str, Mapping[str, Any]],
    scores: Mapping[tuple[str, ...], Mapping[int, float]],
) -> Row:
    cell = runs[0].cell
    own = scores[tuple(cell.values())]
    is_reference = cell[campaign.first_axis] == campaign.reference
    reference = scores.get(tuple((cell | {campaign.first_axis: campaign.reference}).values()), {})
    leads = [] if is_reference else [reference[seed] - score for seed, score in own.items() if seed in reference]
    found = [metrics[run.name] for run in runs]
    return Row(
        cell=dict(cell),
        metric=found[0]["metric"],
        rows=[each["rounds"][-1]["rows"] for each in found],
        scores=dict(own),
        mean=statistics.mean(own.values()),
        std=statistics.stdev(own.values()) if len(own) > 1 else None,
        lead_mean=statistics.mean(leads) if leads else None,
        lead_std=statistics.stdev(leads) if len(leads) > 1 else None,
        output_tokens=statistics.mean(sum(each["output_tokens"] for each in one["rounds"]) for one in found),
        train_s=statistics.mean(one["seconds"]["train"] for one in found),
    )


def _score(metrics: Mapping[str, Any]) -> float:
    score: float = metrics["test"][metrics["metric"]]
    return score
