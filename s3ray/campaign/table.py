"""The table of a campaign: test scores, the reference's lead over each with its interval, and costs. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from s3ray.campaign.intervals import Draws, Interval, interval, redraw_rows, redraw_seeds
from s3ray.campaign.results import Result
from s3ray.config.grid import Campaign, GridRun
from s3ray.monitor.metrics import Metrics

ALL_TASKS = "mean over tasks"
Value = TypeVar("Value")
Results = Mapping[str, Result]
"""The finished runs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One combination of values over all seeds, on one task or (``ALL_TASKS``) in the mean over them.

    ``scores`` is the deciding metric on test by seed. ``lead_mean``, ``lead_std`` and ``lead_interval`` describe the
    reference's score minus this one, seed by seed; None for the reference itself, and where it has no score. Standard
    deviations are of the sample, None for a single seed; intervals are None where answers were not kept, or not to the
    same rows. Costs are means over the seeds: tokens written in all stages, and device-seconds of generation and
    training (``monitor.accounting``), None where they are unknown. ``label_accuracy`` is None unless all are audited.
    """

    task: str
    cell: Mapping[str, str]
    metric: str
    rows: Sequence[int]
    scores: Mapping[int, float]
    mean: float
    std: float | None
    interval: Interval | None
    lead_mean: float | None
    lead_std: float | None
    lead_interval: Interval | None
    output_tokens: float
    generate_s: float | None
    train_s: float | None
    label_accuracy: float | None

    @property
    def name(self) -> str:
        """Its values, without the task."""
        return " ".join(self.cell.values())

    @property
    def device_s(self) -> float | None:
        """Device-seconds of generation and training."""
        return None if self.generate_s is None or self.train_s is None else self.generate_s + self.train_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seeds:
    """One combination on one task: by seed its score, its draws where its answers are known, and its lead's."""

    scores: dict[int, float]
    draws: dict[int, Draws]
    leads: dict[int, float]
    lead_draws: dict[int, Draws]
    stream: str

    def score_draws(self) -> Draws | None:
        return redraw_seeds(list(self.draws.values()), self.stream) if self.draws.keys() == self.scores.keys() else None

    def mean_lead_draws(self) -> Draws | None:
        known = self.leads and self.lead_draws.keys() == self.leads.keys()
        return redraw_seeds(list(self.lead_draws.values()), self.stream) if known else None


def compare(campaign: Campaign, results: Results) -> list[Row]:
    """Rows of each task in the order of the grid, then those of the mean over tasks, where there are several."""
    draws = _redraw(campaign, results)
    rows: list[Row] = []
    over_tasks: dict[tuple[str, ...], list[tuple[Row, _Seeds]]] = {}
    for task in tasks(campaign):
        by_cell: dict[tuple[str, ...], list[GridRun]] = {}
        for run in campaign.runs:
            if run.name in results and _task_of(campaign, run) == task:
                by_cell.setdefault(tuple(run.cell.values()), []).append(run)
        for runs in by_cell.values():
            seeds = _seeds(campaign, runs, by_cell, results, draws)
            rows.append(_row(campaign, runs, results, seeds))
            over_tasks.setdefault(tuple(rows[-1].cell.values()), []).append((rows[-1], seeds))
    num_tasks = len(tasks(campaign))
    whole = [parts for parts in over_tasks.values() if len(parts) == num_tasks > 1]
    return rows + [_mean_row(parts) for parts in whole if _in_common([each.scores for _, each in parts])]


def tasks(campaign: Campaign) -> list[str]:
    """Names of the tasks: of the values on their axis, or of the one task."""
    return list(dict.fromkeys(_task_of(campaign, run) for run in campaign.runs))


def _task_of(campaign: Campaign, run: GridRun) -> str:
    return run.cell[campaign.task_axis] if campaign.task_axis else run.config.task


def _redraw(campaign: Campaign, results: Results) -> dict[str, Draws]:
    """Draws of the runs whose answers are known, by run; independent from task to task."""
    drawn: dict[str, Draws] = {}
    for task in tasks(campaign):
        names = [run.name for run in campaign.runs if run.name in results and _task_of(campaign, run) == task]
        known = {name: answers for name in names if (answers := results[name].answers) is not None}
        if known:
            drawn |= redraw_rows(str(results[next(iter(known))].metrics.metric), known, task)
    return drawn


def _seeds(
    campaign: Campaign,
    runs: Sequence[GridRun],
    by_cell: Mapping[tuple[str, ...], Sequence[GridRun]],
    results: Results,
    draws: Mapping[str, Draws],
) -> _Seeds:
    cell, axis = runs[0].cell, campaign.compared_axis
    is_reference = axis is None or cell[axis] == campaign.reference
    against = {} if is_reference else cell | {str(axis): str(campaign.reference)}
    reference = {run.seed: run.name for run in by_cell.get(tuple(against.values()), ())}
    own = {run.seed: run.name for run in runs}
    pairs = {seed: (reference[seed], name) for seed, name in own.items() if seed in reference}
    return _Seeds(
        scores={seed: _score(results[name]) for seed, name in own.items()},
        draws={seed: draws[name] for seed, name in own.items() if name in draws},
        leads={seed: _score(results[first]) - _score(results[second]) for seed, (first, second) in pairs.items()},
        lead_draws={
            seed: draws[first] - draws[second]
            for seed, (first, second) in pairs.items()
            if _have_rows_in_common(results[first], results[second])
        },
        stream=_task_of(campaign, runs[0]),
    )


def _have_rows_in_common(first: Result, second: Result) -> bool:
    return first.answers is not None and second.answers is not None and first.answers.ids == second.answers.ids


def _row(campaign: Campaign, runs: Sequence[GridRun], results: Results, seeds: _Seeds) -> Row:
    found = [results[run.name] for run in runs]
    of_runs = [result.metrics.rounds for result in found]
    return Row(
        task=_task_of(campaign, runs[0]),
        cell={axis: value for axis, value in runs[0].cell.items() if axis != campaign.task_axis},
        metric=str(found[0].metrics.metric),
        rows=[rounds[-1].rows for rounds in of_runs],
        **_statistics(seeds.scores, seeds.leads, seeds.score_draws(), seeds.mean_lead_draws()),
        output_tokens=statistics.mean(_output_tokens(result.metrics) for result in found),
        # Unknown for endpoints, and for runs from before this was measured.
        generate_s=_mean([_if_known(sum, [each.device_s.generate for each in rounds]) for rounds in of_runs]),
        train_s=_mean([_if_known(sum, [each.device_s.train for each in rounds]) for rounds in of_runs]),
        label_accuracy=_mean([result.label_accuracy for result in found]),
    )


def _mean_row(parts: Sequence[tuple[Row, _Seeds]]) -> Row:
    """The mean over tasks, which are the same at every draw: only seeds, and rows of each task, are drawn."""
    rows, seeds = [row for row, _ in parts], [each for _, each in parts]
    scores, leads = _in_common([each.scores for each in seeds]), _in_common([each.leads for each in seeds])
    whole = [each for each in seeds if each.scores.keys() == scores.keys() and each.leads.keys() == leads.keys()]
    is_whole = len(whole) == len(seeds)  # otherwise the draws would be of other seeds than the means
    metrics = {row.metric for row in rows}
    return Row(
        task=ALL_TASKS,
        cell=rows[0].cell,
        metric=metrics.pop() if len(metrics) == 1 else "score",
        rows=[round(statistics.mean(statistics.mean(row.rows) for row in rows))],
        **_statistics(
            scores,
            leads,
            _mean_draws([each.score_draws() if is_whole else None for each in seeds]),
            _mean_draws([each.mean_lead_draws() if is_whole else None for each in seeds]),
        ),
        output_tokens=statistics.mean(row.output_tokens for row in rows),
        generate_s=_mean([row.generate_s for row in rows]),
        train_s=_mean([row.train_s for row in rows]),
        label_accuracy=_mean([row.label_accuracy for row in rows]),
    )


def _in_common(by_task: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Means over tasks, of the seeds that all of them have."""
    first, *others = by_task
    return {seed: statistics.mean(of[seed] for of in by_task) for seed in first if all(seed in of for of in others)}


def _statistics(
    scores: Mapping[int, float], leads: Mapping[int, float], score_draws: Draws | None, lead_draws: Draws | None
) -> dict[str, Any]:
    return {
        "scores": dict(scores),
        "mean": statistics.mean(scores.values()),
        "std": statistics.stdev(scores.values()) if len(scores) > 1 else None,
        "interval": None if score_draws is None else interval(score_draws),
        "lead_mean": statistics.mean(leads.values()) if leads else None,
        "lead_std": statistics.stdev(leads.values()) if len(leads) > 1 else None,
        "lead_interval": None if lead_draws is None else interval(lead_draws),
    }


def _if_known(fold: Callable[[list[Value]], Value], values: Sequence[Value | None]) -> Value | None:
    """What ``fold`` makes of the values; None if one of them is unknown."""
    known = [value for value in values if value is not None]
    return fold(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    return _if_known(statistics.mean, values)


def _mean_draws(of_tasks: Sequence[Draws | None]) -> Draws | None:
    return _if_known(lambda known: np.stack(known).mean(axis=0), of_tasks)


def _score(result: Result) -> float:
    score = result.metrics.score
    assert score is not None, "a run that is compared has read the test part"
    return score


def _output_tokens(metrics: Metrics) -> int:
    """Of all stages; the count of a round leaves out its reasons."""
    return sum(stage.output_tokens for each in metrics.rounds for stage in each.stages.values())
