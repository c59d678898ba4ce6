"""compare.json, compare.md and compare.html: a campaign's result for programs, for a README and for people.

And timeline.json: what every engine and every run's train workers did when, for Perfetto and Chrome.
"""

from collections.abc import Sequence

from s3ray.campaign.grid import Campaign
from s3ray.campaign.table import Row, mean_std, to_json, to_markdown
from s3ray.campaign.timing import campaign_time
from s3ray.monitor import lanes, plots
from s3ray.monitor.accounting import Account
from s3ray.monitor.report import page_template
from s3ray.store import RunStore


def write_comparison(store: RunStore, campaign: Campaign, rows: Sequence[Row], booked: Account) -> None:
    """Write the files into the campaign's folder; there is at least one row."""
    store.write_json("compare.json", to_json(campaign, rows) | campaign_time(booked))
    store.write_json("timeline.json", lanes.trace(booked))
    store.write_text("compare.md", to_markdown(campaign, rows))
    groups = {" ".join(row.cell.values()): list(row.scores.values()) for row in rows}
    page = page_template("compare.html.j2").render(
        campaign=campaign.config,
        reference=campaign.reference,
        rows=rows,
        plot=plots.comparison_plot(rows[0].metric, groups),
        mean_std=mean_std,
        lanes=lanes.rows(booked),
        plots=plots,
        links={run.name: f"{run.name}/report.html" for run in campaign.runs if store.has(f"{run.name}/report.html")},
    )
    store.write_text("compare.html", page)
