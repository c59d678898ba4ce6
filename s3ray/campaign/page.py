"""compare.json, compare.md and compare.html: a campaign's result for programs, for publication and for people.

compare.md comes with its plots, as files of their own (compare-*.svg). And timeline.json: what every engine and every
run's train workers did when, for Perfetto and Chrome.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from s3ray.campaign import answers
from s3ray.campaign.grid import Campaign
from s3ray.campaign.intervals import LEVEL, NUM_DRAWS, Answers, excludes_zero
from s3ray.campaign.markdown import from_to, mean_std, num_rows, to_page
from s3ray.campaign.results import Result
from s3ray.campaign.table import Row
from s3ray.monitor import comparison, plots, timeline
from s3ray.monitor.accounting import Account, account
from s3ray.monitor.answers import use_answer
from s3ray.monitor.comparison import Point
from s3ray.monitor.events import CampaignStarted, Event
from s3ray.monitor.metrics import shares
from s3ray.monitor.plots import Part
from s3ray.monitor.records import to_plain
from s3ray.monitor.report import page_template
from s3ray.monitor.svg import standalone
from s3ray.store import RunStore

_Curve = tuple[str, str, Markup, list[Part]]
"""Task, axis, plot, legend."""


def write_comparison(
    store: RunStore, campaign: Campaign, rows: Sequence[Row], results: Mapping[str, Result], events: Sequence[Event]
) -> None:
    """Write the files into the campaign's folder; there is at least one row. ``events`` are the campaign's own."""
    booked = account(events, campaign.config.name)
    starts = [event.made_by for event in events if isinstance(event, CampaignStarted) and event.made_by]
    made_by = {"made_by": to_plain(starts)}
    store.write_json("compare.json", to_json(campaign, rows, results) | made_by | time_json(booked))
    store.write_json("timeline.json", timeline.trace(booked))
    tables = {task: [row for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)}
    curves = _curves(campaign, rows)
    pictures = _write_pictures(store, tables, curves)
    store.write_text("compare.md", to_page(campaign, rows, results, starts, pictures))
    page = page_template("compare.html.j2").render(
        campaign=campaign.config,
        campaign_runs=campaign,
        reference=campaign.reference,
        num_runs=len(campaign.runs),
        missing=[run.name for run in campaign.runs if run.name not in results],
        answers=answers,
        use=use_answer(shares(booked.engines), shares(booked.trainers)),
        tables=list(tables.items()),
        axes=[axis for axis in campaign.config.axes if axis != campaign.task_axis],
        num_combinations=len({row.name for row in rows}),
        has_labels=any(row.label_accuracy is not None for row in rows),
        scores_plot=_scores_plot,
        cost_plot=_cost_plot,
        curves=curves,
        texts={"mean_std": mean_std, "from_to": from_to, "num_rows": num_rows, "excludes_zero": excludes_zero},
        lanes=timeline.rows(booked),
        plots=plots,
        links={run.name: f"{run.name}/report.html" for run in campaign.runs if store.has(f"{run.name}/report.html")},
    )
    store.write_text("compare.html", page)


def _write_pictures(store: RunStore, tables: Mapping[str, Sequence[Row]], curves: Sequence[_Curve]) -> dict[str, str]:
    """Write plots as files, and say which there are, by what each shows."""
    found = {f"Scores: {task}": _scores_plot(rows) for task, rows in tables.items()}
    for task, axis, plot, legend in curves:
        lines = ", ".join(f"{part.name} {part.value:.3f}" for part in legend)
        found[f"Along {axis}: {task} (last points, in the order of the colours: {lines})"] = plot
    costs = {f"Costs: {task}": _cost_plot(rows) for task, rows in tables.items()}
    found |= {title: plot for title, plot in costs.items() if plot is not None}
    style = page_template("style.css.j2").render()
    pictures = {}
    for title, plot in found.items():
        name = f"compare-{re.sub('[^a-z0-9]+', '-', title.partition('(')[0].lower()).strip('-')}.svg"
        store.write_text(name, standalone(plot, style))
        pictures[title] = name
    return pictures


def to_json(campaign: Campaign, rows: Sequence[Row], results: Mapping[str, Result]) -> dict[str, Any]:
    """The content of ``compare.json`` (schema 2): the rows, and of each run what intervals are computed from."""
    return {
        "schema": 2,
        "campaign": campaign.config.name,
        "axes": {axis: list(values) for axis, values in campaign.config.axes.items()},
        "seeds": campaign.config.seeds,
        "reference": campaign.reference,
        "interval": {"level": LEVEL, "draws": NUM_DRAWS},
        "rows": [asdict(row) for row in rows],
        "runs": {
            run.name: {"cell": run.cell, "seed": run.seed, **_run_json(results[run.name])}
            for run in campaign.runs
            if run.name in results
        },
    }


def time_json(booked: Account) -> dict[str, Any]:
    """What ``compare.json`` says of a campaign's time: shares of each state, and the busy part of what engines had."""
    time = {"engines": shares(booked.engines), "trainers": shares(booked.trainers)}
    return {"engine_busy_share": booked.engine_busy_share, "time": to_plain(time)}


def _run_json(result: Result) -> dict[str, Any]:
    metrics, answers = result.metrics, result.answers
    return {"metric": metrics.metric, "score": metrics.score, "answers": answers and _answers_json(answers)}


def _answers_json(answers: Answers) -> dict[str, Any]:
    """Scores in the order of the sorted ids, of which ``rows`` is a digest: runs with the same one can be paired."""
    rows = hashlib.sha256("\n".join(answers.ids).encode()).hexdigest()[:16]
    scores = answers.scores.tolist()
    if set(scores) <= {0.0, 1.0}:
        scores = "".join("1" if score else "0" for score in scores)
    labels = {"truth": answers.truth, "predicted": answers.predicted} if answers.truth else {}
    return {"rows": rows, "scores": scores, **labels}


def _point(row: Row, x: float = 0.0) -> Point:
    return Point(name=row.name, mean=row.mean, scores=tuple(row.scores.values()), interval=row.interval, x=x)


def _scores_plot(rows: Sequence[Row]) -> Markup:
    return comparison.scores_plot(rows[0].metric, [_point(row) for row in rows])


def _cost_plot(rows: Sequence[Row]) -> Markup | None:
    """None where fewer than two costs are known."""
    points = [_point(row, row.device_s) for row in rows if row.device_s is not None]
    return comparison.cost_plot(rows[0].metric, "device-s", points) if len(points) > 1 else None


def _curves(campaign: Campaign, rows: Sequence[Row]) -> list[_Curve]:
    """A learning curve for each numeric axis and each task."""
    curves = []
    for axis in campaign.config.axes:
        numbers = campaign.numbers(axis) if axis != campaign.task_axis else None
        for task in dict.fromkeys(row.task for row in rows) if numbers else ():
            own = [row for row in rows if row.task == task]
            if len({row.cell[axis] for row in own}) > 1:
                curves.append((task, axis, *_curve(own, axis, numbers or {})))
    return curves


def _curve(rows: Sequence[Row], axis: str, numbers: Mapping[str, float]) -> tuple[Markup, list[Part]]:
    """A line for each combination of the other axes; ``numbers`` are those of the values of ``axis``."""
    lines: dict[str, list[Point]] = {}
    for row in sorted(rows, key=lambda row: numbers[row.cell[axis]]):
        name = " ".join(value for other, value in row.cell.items() if other != axis)
        lines.setdefault(name or row.metric, []).append(_point(row, numbers[row.cell[axis]]))
    legend = [
        Part(name=f"{name} (dashed)" if is_dashed else name, value=line[-1].mean, colour=colour)
        for i, (name, line) in enumerate(lines.items())
        for colour, is_dashed in [comparison.line_look(i)]
    ]
    return comparison.curve_plot(rows[0].metric, axis, lines), legend
