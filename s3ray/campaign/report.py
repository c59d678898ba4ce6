"""The comparison of a campaign's runs: compare.html, compare.md, compare.json and the captions of its plots."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from markupsafe import Markup

from s3ray.campaign.intervals import LEVEL, NUM_DRAWS, Answers, Interval, excludes_zero
from s3ray.campaign.results import Result
from s3ray.campaign.table import Row
from s3ray.config.grid import Campaign
from s3ray.monitor import timeline
from s3ray.monitor.accounting import Account, account
from s3ray.monitor.metrics import shares
from s3ray.report import plots
from s3ray.report.captions import devices_caption
from s3ray.report.plots import Part, Point, standalone
from s3ray.report.run import page_template
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import CampaignStarted, Event, MadeBy
from s3ray.telemetry.records import to_plain

_NUM_NAMED = 5


def caption_of_scores(campaign: Campaign, rows: Sequence[Row]) -> str:
    """Which of one task's rows is best, and which ones the reference leads by an interval that excludes zero."""
    best = max(rows, key=lambda row: row.mean)
    told = [f"Best in the mean: {best.name}, {best.mean:.3f}."] if len(rows) > 1 else []
    axis = campaign.compared_axis
    others = [row for row in rows if row.lead_interval is not None and row.cell[str(axis)] != campaign.reference]
    clear = [row for row in others if excludes_zero(row.lead_interval)]
    ahead, behind = ([row.name for row in clear if (row.lead_mean or 0) * sign > 0] for sign in (1, -1))
    unclear = [row.name for row in others if row not in clear]
    for words, names in (
        (f"{campaign.reference} is clearly ahead of", ahead),
        (f"{campaign.reference} is clearly behind", behind),
        ("Not clear either way:", unclear),
    ):
        if names:
            told.append(f"{words} {_listed(names)}.")
    if max(len(row.scores) for row in rows) == 1:
        told.append("With one seed each, what changes from seed to seed is in no interval.")
    return " ".join(told)


def caption_of_costs(rows: Sequence[Row]) -> str:
    """What the best costs, and what the cheapest, of those of one task's rows whose cost is known."""
    known = [(row.device_s, row) for row in rows if row.device_s]
    if not known:
        return ""
    best_s, best = max(known, key=lambda pair: (pair[1].mean, -pair[0]))
    least_s, least = min(known, key=lambda pair: (pair[0], -pair[1].mean))
    if best is least:
        return f"The best is the cheapest too: {best.name}, {best_s:,.0f} device-seconds."
    return (
        f"The best, {best.name}, took {best_s:,.0f} device-seconds for {best.mean:.3f}; the cheapest, {least.name}, "
        f"{least_s:,.0f} for {least.mean:.3f}."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return f"{', '.join(names[:_NUM_NAMED])}{more}"


_Lines = Callable[[Campaign, Sequence[Row]], Iterator[list[str]]]
"""Head and lines of a table of some rows."""


def to_markdown(campaign: Campaign, rows: Sequence[Row]) -> str:
    """A table for each task, and one for the mean over them: scores and leads."""
    return "\n".join(_tables(campaign, rows, _score_table))


def to_page(
    campaign: Campaign,
    rows: Sequence[Row],
    results: Mapping[str, Result],
    made_by: Sequence[MadeBy],
    pictures: Mapping[str, str],
) -> str:
    """The comparison as Markdown to publish: where it comes from, scores, costs, every seed and every setting.

    ``made_by`` holds command, commit and machine of each start of the campaign. ``pictures`` are the files of its
    plots, by title.
    """
    missing = [run.name for run in campaign.runs if run.name not in results]
    made = [f"Made by `{start.command}` at commit {start.commit} on {start.machine}." for start in made_by]
    parts = [
        f"# {campaign.config.name}",
        *dict.fromkeys(made),
        _about(campaign, results),
        *([f"Not finished: {', '.join(missing)}."] if missing else []),
        to_markdown(campaign, rows),
        "## What it cost, and every seed",
        "Means over the seeds: output tokens of all stages; device-seconds in which engines were busy for the run, and "
        "in which its train workers trained and scored.",
        "\n".join(_tables(campaign, rows, _cost_table)),
        "## Plots",
        "A dot is a seed, the stroke their mean, the bar its 95 % interval over seeds and test rows.",
        *(f"{title}\n\n![{title}]({name})" for title, name in pictures.items()),
        "## The settings",
        f"All runs begin with `{campaign.config.job}`; what each value sets:",
        f"```yaml\n{yaml.safe_dump(campaign.config.axes, sort_keys=False, default_flow_style=None, width=110)}```",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def mean_std(mean: float | None, std: float | None, sign: str = "") -> str:
    """``0.874 ± 0.010``; empty for no mean."""
    if mean is None:
        return ""
    return f"{mean:{sign}.3f}" + (f" ± {std:.3f}" if std is not None else "")


def from_to(found: Interval | None, sign: str = "") -> str:
    """``+0.004 to +0.018``; empty for none."""
    return "" if found is None else f"{found[0]:{sign}.3f} to {found[1]:{sign}.3f}"


def num_rows(row: Row) -> str:
    """Rows that the last students were trained on: one number, or several where seeds differ."""
    return "/".join(map(str, sorted(set(row.rows))))


def _about(campaign: Campaign, results: Mapping[str, Result]) -> str:
    found = [result.metrics for result in results.values()]
    generators = ", ".join(sorted({each.generator for each in found if each.generator is not None}))
    students = ", ".join(sorted({each.student for each in found}))
    tests = {each.task: each.num_test for each in found}
    sizes = ", ".join(f"{task}: {num} rows" for task, num in tests.items())
    seeds = ", ".join(map(str, campaign.config.seeds))
    lead = (
        f" A lead is {campaign.reference} minus the other, on the same test rows, seed by seed; **bold** where its "
        "95 % interval (bootstrap over seeds and test rows) excludes zero."
        if campaign.reference is not None
        else ""
    )
    return (
        f"Generator {generators or 'none'}, student {students}; seeds {seeds}. Scores are those of "
        f"the last student on test ({sizes}), which was read once; mean ± standard deviation over the seeds.{lead}"
    )


def _by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return found


def _tables(campaign: Campaign, rows: Sequence[Row], lines_of: _Lines) -> Iterator[str]:
    """A table of each task's rows."""
    for task, own in _by_task(rows).items():
        head, *lines = lines_of(campaign, own)
        table = [head, ["---"] * len(head), *lines]
        yield f"### {task}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table) + "\n"


def _score_table(campaign: Campaign, rows: Sequence[Row]) -> Iterator[list[str]]:
    lead = [f"lead of {campaign.reference}", "95 % interval"] if campaign.reference is not None else []
    yield [*rows[0].cell, "rows", f"test {rows[0].metric}", *lead]
    for row in rows:
        stress = "**" if excludes_zero(row.lead_interval) else ""
        own = [mean_std(row.lead_mean, row.lead_std, "+"), from_to(row.lead_interval, "+")] if lead else []
        own = [f"{stress}{text}{stress}" if text else "" for text in own]
        yield [*row.cell.values(), num_rows(row), mean_std(row.mean, row.std), *own]


def _cost_table(campaign: Campaign, rows: Sequence[Row]) -> Iterator[list[str]]:
    seeds = campaign.config.seeds
    has_labels = any(row.label_accuracy is not None for row in rows)
    labels = ["labels right"] if has_labels else []
    yield [*rows[0].cell, "output tokens", "generate s", "train s", *labels, *(f"seed {seed}" for seed in seeds)]
    for row in rows:
        right = ["-" if row.label_accuracy is None else f"{row.label_accuracy:.1%}"] if has_labels else []
        own = [f"{row.scores[seed]:.3f}" if seed in row.scores else "-" for seed in seeds]
        yield [
            *row.cell.values(),
            f"{row.output_tokens:.0f}",
            seconds(row.generate_s),
            seconds(row.train_s),
            *right,
            *own,
        ]


def seconds(value: float | None) -> str:
    """Device-seconds, or a dash where they are unknown."""
    return "-" if value is None else f"{value:.0f}"


_Curve = tuple[str, str, Markup, list[Part]]
"""Task, axis, plot, legend."""


def write_comparison(
    store: RunStore, campaign: Campaign, rows: Sequence[Row], results: Mapping[str, Result], events: Sequence[Event]
) -> None:
    """Write the files into the campaign's folder; there is at least one row. ``events`` are the campaign's own."""
    time_account = account(events, campaign.config.name)
    starts = [event.made_by for event in events if isinstance(event, CampaignStarted) and event.made_by]
    made_by = {"made_by": to_plain(starts)}
    store.write_json("compare.json", to_json(campaign, rows, results) | made_by | time_json(time_account))
    store.write_json("timeline.json", timeline.trace(time_account))
    tables = _by_task(rows)
    curves = _curves(campaign, rows)
    pictures = _write_pictures(store, tables, curves)
    store.write_text("compare.md", to_page(campaign, rows, results, starts, pictures))
    page = page_template("compare.html.j2").render(
        campaign=campaign.config,
        campaign_runs=campaign,
        reference=campaign.reference,
        num_runs=len(campaign.runs),
        missing=[run.name for run in campaign.runs if run.name not in results],
        answers={"scores": caption_of_scores, "costs": caption_of_costs},
        use=devices_caption(time_account),
        tables=list(tables.items()),
        axes=[axis for axis in campaign.config.axes if axis != campaign.task_axis],
        num_combinations=len({row.name for row in rows}),
        has_labels=any(row.label_accuracy is not None for row in rows),
        scores_plot=_scores_plot,
        cost_plot=_cost_plot,
        curves=curves,
        texts={"mean_std": mean_std, "from_to": from_to, "num_rows": num_rows, "excludes_zero": excludes_zero},
        lanes=timeline.rows(time_account),
        plots=plots,
        links={run.name: f"{run.name}/report.html" for run in campaign.runs if store.has(f"{run.name}/report.html")},
    )
    store.write_text("compare.html", page)


def _write_pictures(store: RunStore, tables: Mapping[str, Sequence[Row]], curves: Sequence[_Curve]) -> dict[str, str]:
    """Write plots as files; returns their names by title."""
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
            run.name: {
                "cell": run.cell,
                "seed": run.seed,
                "metric": results[run.name].metrics.metric,
                "score": results[run.name].metrics.score,
                "answers": _answers_json(results[run.name].answers),
            }
            for run in campaign.runs
            if run.name in results
        },
    }


def time_json(time_account: Account) -> dict[str, Any]:
    """A campaign's time in ``compare.json``: the share of each state, and the share of time that engines were busy."""
    time = {"engines": shares(time_account.engines), "trainers": shares(time_account.trainers)}
    return {"engine_busy_share": time_account.engine_busy_share, "time": to_plain(time)}


def _answers_json(answers: Answers | None) -> dict[str, Any] | None:
    """Scores in the order of the sorted ids, of which ``rows`` is a digest: runs with the same one can be paired."""
    if answers is None:
        return None
    rows = hashlib.sha256("\n".join(answers.ids).encode()).hexdigest()[:16]
    scores = answers.scores.tolist()
    if set(scores) <= {0.0, 1.0}:
        scores = "".join("1" if score else "0" for score in scores)
    labels = {"truth": answers.truth, "predicted": answers.predicted} if answers.truth else {}
    return {"rows": rows, "scores": scores, **labels}


def _point(row: Row, x: float = 0.0) -> Point:
    return Point(name=row.name, mean=row.mean, scores=tuple(row.scores.values()), interval=row.interval, x=x)


def _scores_plot(rows: Sequence[Row]) -> Markup:
    return plots.scores_plot(rows[0].metric, [_point(row) for row in rows])


def _cost_plot(rows: Sequence[Row]) -> Markup | None:
    """None where fewer than two costs are known."""
    points = [_point(row, row.device_s) for row in rows if row.device_s is not None]
    return plots.cost_plot(rows[0].metric, "device-s", points) if len(points) > 1 else None


def _curves(campaign: Campaign, rows: Sequence[Row]) -> list[_Curve]:
    """A learning curve for each numeric axis and each task."""
    curves = []
    for axis in campaign.config.axes:
        numbers = campaign.numbers(axis) if axis != campaign.task_axis else None
        for task, own in _by_task(rows).items():
            if numbers and len({row.cell[axis] for row in own}) > 1:
                curves.append((task, axis, *_curve(own, axis, numbers)))
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
        for colour, is_dashed in [plots.line_look(i)]
    ]
    return plots.curve_plot(rows[0].metric, axis, lines), legend
