"""The table of a campaign: means over seeds, and leads that are paired seed by seed."""

from pathlib import Path
from typing import Any

import pytest

from s3ray.campaign.page import write_comparison
from s3ray.campaign.table import compare, to_markdown
from s3ray.campaign.timing import campaign_account
from s3ray.store import RunStore
from tests.campaign.test_grid import load
from tests.campaign.test_timing import EVENTS


def metrics(score: float) -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "test": {"accuracy": score, "num_examples": 20},
        "rounds": [{"rows": 60, "output_tokens": 100}, {"rows": 90, "output_tokens": 50}],
        "seconds": {"train": 30.0},
    }


SCORES = {"zerogen-small-3": 0.70, "zerogen-small-5": 0.80, "s3-small-3": 0.75, "s3-small-5": 0.81}


def test_leads_are_paired_by_seed(tmp_path: Path) -> None:
    campaign = load(tmp_path)
    zerogen, s3 = compare(campaign, {name: metrics(score) for name, score in SCORES.items()})
    assert (zerogen.cell, s3.cell) == ({"method": "zerogen", "size": "small"}, {"method": "s3", "size": "small"})
    assert zerogen.mean == pytest.approx(0.75)
    assert zerogen.std == pytest.approx(0.0707, abs=1e-4)
    assert zerogen.lead_mean == pytest.approx(0.03)
    assert zerogen.lead_std == pytest.approx(0.0283, abs=1e-4)
    assert (s3.lead_mean, s3.lead_std) == (None, None)
    assert (s3.rows, s3.output_tokens) == ([90, 90], 150)


def test_runs_that_are_missing_leave_holes_and_no_false_pairs(tmp_path: Path) -> None:
    campaign = load(tmp_path)
    found = {name: metrics(score) for name, score in SCORES.items() if name != "s3-small-3"}
    zerogen, s3 = compare(campaign, found)
    assert zerogen.lead_mean == pytest.approx(0.01)
    assert (zerogen.lead_std, s3.std) == (None, None)
    table = to_markdown(campaign, [zerogen, s3])
    assert table.splitlines()[3].endswith("| - | 0.810 |")


def test_the_page_shows_every_seed_and_escapes_names(tmp_path: Path) -> None:
    campaign = load(tmp_path, name="a")
    store = RunStore(tmp_path / "out")
    rows = compare(campaign, {name: metrics(score) for name, score in SCORES.items()})
    write_comparison(store, campaign, rows, campaign_account(EVENTS, "all"))
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<circle") == 4
    assert "0.030 ± 0.028" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    result = store.read_json("compare.json")
    assert result["rows"][0]["scores"] == {"3": 0.7, "5": 0.8}
    assert result["engine_busy_share"] == pytest.approx(18 / 50)
    assert "Where the time went" in page
    named = {each["args"]["name"] for each in store.read_json("timeline.json")["traceEvents"] if each["ph"] == "M"}
    assert {"engine-0", "2 a", "b"} <= named
