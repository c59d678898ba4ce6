"""The tables of a comparison as Markdown: short ones for the terminal and a README, and the whole as a page."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import yaml

from s3ray.campaign.grid import Campaign
from s3ray.campaign.intervals import Interval, excludes_zero
from s3ray.campaign.results import Result
from s3ray.campaign.table import Row
from s3ray.monitor.events import MadeBy

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
    """The comparison as a page that can be published: where it comes from, scores, costs, every seed and every setting.

    ``made_by`` says of each start of the campaign what was run (``command``, ``commit``, ``machine``). ``pictures`` are
    the files of its plots, by what they show.
    """
    missing = [run.name for run in campaign.runs if run.name not in results]
    made = [f"Made by `{start.command}` at commit {start.commit} on {start.machine}." for start in made_by]
    parts = [
        f"# {campaign.config.name}",
        *dict.fromkeys(made),
        _about(campaign, results),
        *([f"Not finished: {', '.join(missing)}."] if missing else []),
        "\n".join(_tables(campaign, rows, _score_table)),
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
    """Rows that the students were trained on, where seeds differ all numbers of them."""
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


def _tables(campaign: Campaign, rows: Sequence[Row], lines_of: _Lines) -> Iterator[str]:
    """A table of each task's rows."""
    for task in dict.fromkeys(row.task for row in rows):
        head, *lines = lines_of(campaign, [row for row in rows if row.task == task])
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
    """Device-seconds, or a dash where nobody knows them."""
    return "-" if value is None else f"{value:.0f}"
