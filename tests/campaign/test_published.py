"""The page of the grid of methods says what its kept runs say, and leaves out none of them."""

import json
import re
from pathlib import Path

from benchmarks.audits import GRID, audit_tables
from benchmarks.unseen import unseen_table
from s3ray.campaign.report import to_page
from s3ray.campaign.results import read_result
from s3ray.campaign.table import compare
from s3ray.config.grid import load_campaign
from s3ray.storage.run_folder import RunStore

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PAGE = RESULTS / "methods.md"
KEPT = RESULTS / "methods"


def published(name: str) -> str:
    (found,) = re.findall(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", PAGE.read_text("utf-8"), re.DOTALL)
    return str(found)


def test_every_run_of_the_grid_is_kept() -> None:
    kept = {folder.name for folder in KEPT.iterdir() if folder.is_dir()}
    assert kept == {run.name for run in load_campaign(GRID).runs}


def test_its_scores_intervals_and_costs_are_those_of_the_kept_runs() -> None:
    campaign = load_campaign(GRID)
    results = {run.name: read_result(RunStore(KEPT / run.name)) for run in campaign.runs}
    page = to_page(campaign, compare(campaign, results), results, made_by=[], pictures={})
    _, _, tables = page.partition(f"# {campaign.config.name}\n")
    assert published("tables").strip() == tables.partition("\n## Plots\n")[0].strip()


def test_its_audits_are_those_of_the_kept_runs() -> None:
    assert published("audits").strip() == audit_tables(KEPT).strip()


def test_its_scores_on_unseen_rows_are_the_measured_ones() -> None:
    measured = json.loads((RESULTS / "unseen.json").read_text(encoding="utf-8"))
    assert published("unseen").strip() == unseen_table(measured["runs"]).strip()
