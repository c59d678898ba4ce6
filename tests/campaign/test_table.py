"""The table of a campaign: means over seeds, and leads that are paired seed by seed and row by row."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from s3ray.campaign.intervals import Answers
from s3ray.campaign.report import to_json, to_markdown, to_page, write_comparison
from s3ray.campaign.results import Result
from s3ray.campaign.table import ALL_TASKS, Row, compare
from s3ray.config.grid import Campaign
from s3ray.monitor.metrics import DeviceSeconds, RoundMetrics, StageMetrics
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import MadeBy
from tests.campaign.test_results import EVENTS
from tests.config.test_grid import GRID, TASKS, load
from tests.events import an_event
from tests.monitor.run_folder import some_metrics

STARTED = an_event(
    "campaign_started",
    run="grid",
    attempt=1,
    made_by=MadeBy(command="s3ray compare grid.yaml", commit="0123abc", machine="1 node"),
)
NUM_TEST = 100


def result(score: float, first: int = 0, **changes: Any) -> Result:
    """A run that has the first test rows right; it was made at 10 device-seconds a round and 15 a student."""
    right = np.arange(NUM_TEST) < round(score * NUM_TEST)
    rounds = []
    for num, (rows, tokens) in enumerate(((60, 100), (90, 50))):
        stages = {"reasons": StageMetrics(output_tokens=7), "seed": StageMetrics(output_tokens=tokens)}
        rounds.append(RoundMetrics(round=num, rows=rows, stages=stages, device_s=COST))
    test = {"accuracy": score}
    metrics = some_metrics(metric="accuracy", test=test, num_test=NUM_TEST, rounds=tuple(rounds))
    ids = tuple(f"{first + number:04d}" for number in range(NUM_TEST))
    return Result(metrics=metrics, **{"answers": Answers(ids=ids, scores=right.astype(np.float64)), **changes})


COST = DeviceSeconds(generate=10.0, train=15.0)
SCORES = {"zerogen-small-3": 0.70, "zerogen-small-5": 0.80, "s3-small-3": 0.75, "s3-small-5": 0.81}
RESULTS = {name: result(score) for name, score in SCORES.items()}


def test_leads_are_paired_by_seed_and_row(tmp_path: Path) -> None:
    zerogen, s3 = compare(load(tmp_path), RESULTS)
    assert (zerogen.cell, s3.cell) == ({"method": "zerogen", "size": "small"}, {"method": "s3", "size": "small"})
    assert zerogen.mean == pytest.approx(0.75)
    assert zerogen.std == pytest.approx(0.0707, abs=1e-4)
    assert zerogen.lead_mean == pytest.approx(0.03)
    assert zerogen.lead_std == pytest.approx(0.0283, abs=1e-4)
    assert (s3.lead_mean, s3.lead_std, s3.lead_interval) == (None, None, None)
    assert (s3.rows, s3.output_tokens, s3.generate_s, s3.train_s) == ([90, 90], 164, 20, 30)
    assert zerogen.interval is not None
    assert zerogen.lead_interval is not None
    # What one has right the other has too: far surer than two scores that have nothing to do with each other.
    assert 0 <= zerogen.lead_interval[0] < 0.03 < zerogen.lead_interval[1] < 0.12
    assert zerogen.interval[0] < 0.66


def test_runs_that_are_missing_leave_holes_and_no_false_pairs(tmp_path: Path) -> None:
    campaign = load(tmp_path)
    found = {name: each for name, each in RESULTS.items() if name != "s3-small-3"}
    zerogen, s3 = compare(campaign, found)
    assert zerogen.lead_mean == pytest.approx(0.01)
    assert (zerogen.lead_std, s3.std) == (None, None)
    page = to_page(campaign, [zerogen, s3], found, [], {"Scores": "scores.svg"})
    assert "| s3 | small | 164 | 20 | 30 | - | 0.810 |" in page
    assert "Not finished: zerogen-large-3," in page
    assert "![Scores](scores.svg)" in page


@pytest.mark.parametrize("answers", [None, result(0.7, first=1).answers])
def test_without_answers_to_the_same_rows_there_is_a_lead_but_no_interval(
    tmp_path: Path, answers: Answers | None
) -> None:
    zerogen, _ = compare(load(tmp_path), RESULTS | {"zerogen-small-3": result(0.7, answers=answers)})
    assert zerogen.lead_mean == pytest.approx(0.03)
    assert zerogen.lead_interval is None


def _over_tasks(tmp_path: Path, scores: Mapping[str, float]) -> tuple[Campaign, list[Row]]:
    campaign = load(tmp_path, axes={"method": GRID["axes"]["method"], "task": TASKS})
    first = {"reviews": 0, "pairs": 500}
    return campaign, compare(campaign, {name: result(of, first[name.split("-")[1]]) for name, of in scores.items()})


def test_several_tasks_have_a_table_each_and_one_for_their_mean(tmp_path: Path) -> None:
    scores = {"zerogen-reviews-3": 0.7, "s3-reviews-3": 0.8, "zerogen-pairs-3": 0.6, "s3-pairs-3": 0.6}
    campaign, rows = _over_tasks(tmp_path, scores)
    assert [(row.task, row.name) for row in rows] == [
        (task, method) for task in ("reviews", "pairs", ALL_TASKS) for method in ("zerogen", "s3")
    ]
    of_reviews, _, of_pairs, _, of_all, _ = rows
    assert of_all.mean == pytest.approx(0.65)
    assert of_all.lead_mean == pytest.approx(0.05)
    assert of_pairs.lead_interval == (0, 0)
    assert of_reviews.lead_interval is not None
    # The other task's lead is 0 at every draw.
    assert of_all.lead_interval == pytest.approx(tuple(end / 2 for end in of_reviews.lead_interval))
    assert to_markdown(campaign, rows).count("### ") == 3
    assert "**+0.100**" in to_markdown(campaign, rows)


def test_a_mean_over_tasks_is_of_whole_sets_of_tasks_and_of_seeds_that_all_have(tmp_path: Path) -> None:
    _, rows = _over_tasks(tmp_path, {"zerogen-reviews-3": 0.7, "s3-reviews-3": 0.8, "s3-pairs-3": 0.6})
    assert [row.name for row in rows if row.task == ALL_TASKS] == ["s3"]
    _, rows = _over_tasks(tmp_path, {"s3-reviews-3": 0.8, "s3-reviews-5": 0.9, "s3-pairs-3": 0.6})
    (of_all,) = [row for row in rows if row.task == ALL_TASKS]
    assert of_all.mean == pytest.approx(0.7)
    assert of_all.interval is None
    _, rows = _over_tasks(tmp_path, {"s3-reviews-3": 0.8, "s3-pairs-5": 0.6})
    assert [row for row in rows if row.task == ALL_TASKS] == []


def test_costs_that_nobody_knows_are_no_zeros(tmp_path: Path) -> None:
    unknown = result(0.7)
    endpoint = DeviceSeconds(train=15.0)
    rounds = tuple(replace(each, device_s=endpoint) for each in unknown.metrics.rounds)
    metrics = replace(unknown.metrics, rounds=rounds)
    zerogen, s3 = compare(load(tmp_path), RESULTS | {"zerogen-small-3": Result(metrics=metrics)})
    assert (zerogen.generate_s, zerogen.train_s, zerogen.device_s, s3.device_s) == (None, 30, None, 50)


def test_the_json_holds_what_intervals_are_computed_from(tmp_path: Path) -> None:
    campaign = load(tmp_path)
    runs = to_json(campaign, compare(campaign, RESULTS), RESULTS)["runs"]
    assert runs["s3-small-3"]["answers"]["scores"] == "1" * 75 + "0" * 25
    assert runs["s3-small-3"]["answers"]["rows"] == runs["zerogen-small-3"]["answers"]["rows"]
    assert (runs["s3-small-3"]["seed"], runs["s3-small-3"]["score"]) == (3, 0.75)
    other = to_json(
        campaign, [], {"s3-small-3": result(0.75, first=1), "s3-small-5": Result(metrics=result(1).metrics)}
    )
    assert other["runs"]["s3-small-3"]["answers"]["rows"] != runs["s3-small-3"]["answers"]["rows"]
    assert other["runs"]["s3-small-5"]["answers"] is None


def test_the_page_shows_every_seed_what_it_cost_and_where_it_comes_from(tmp_path: Path) -> None:
    campaign = load(tmp_path, name="a")
    store = RunStore(tmp_path / "out")
    write_comparison(store, campaign, compare(campaign, RESULTS), RESULTS, [STARTED, *EVENTS])
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count('<circle class="c2"') == 4
    assert page.count('<circle class="c1"') == 2
    assert "0.030 ± 0.028" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    found = store.read_json("compare.json")
    assert found["rows"][0]["scores"] == {"3": 0.7, "5": 0.8}
    assert "Where the time went" in page
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "Made by `s3ray compare grid.yaml` at commit 0123abc on 1 node." in text
    assert "| zerogen | small | 164 | 20 | 30 | 0.700 | 0.800 |" in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert pictures == ["compare-scores-review-sentences.svg", "compare-costs-review-sentences.svg"]
    for name in pictures:
        root = ElementTree.parse(tmp_path / "out" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--paper" in (root[0].text or "")


def test_the_page_says_what_engines_and_train_workers_did(tmp_path: Path) -> None:
    campaign = load(tmp_path, name="all")
    store = RunStore(tmp_path / "out")
    write_comparison(store, campaign, compare(campaign, RESULTS), RESULTS, EVENTS)
    assert store.read_json("compare.json")["engine_busy_share"] == pytest.approx(18 / 50)
    named = {each["args"]["name"] for each in store.read_json("timeline.json")["traceEvents"] if each["ph"] == "M"}
    assert {"engine-0", "2 a", "b"} <= named


def test_a_numeric_axis_gives_a_learning_curve(tmp_path: Path) -> None:
    axes = {
        "method": {"zerogen": {"strategy.name": "zerogen"}, "s3": {}},
        "size": {"few": {"strategy.rows": 60}, "many": {"strategy.rows": 90}},
    }
    campaign = load(tmp_path, axes=axes, seeds=[3])
    names = [run.name for run in campaign.runs]
    results = {name: result(0.6 + number / 20) for number, name in enumerate(names)}
    store = RunStore(tmp_path / "out")
    write_comparison(store, campaign, compare(campaign, results), results, [])
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Along size" in page
    assert page.count("<polyline") == 2
    assert "zerogen, 60: 0.600" in page
