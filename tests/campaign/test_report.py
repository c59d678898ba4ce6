"""The sentences beside a comparison's plots."""

from dataclasses import replace
from pathlib import Path

from s3ray.campaign import report as answers
from s3ray.campaign.report import write_comparison
from s3ray.campaign.table import compare
from s3ray.storage.run_folder import RunStore
from tests.campaign.test_results import EVENTS
from tests.campaign.test_table import RESULTS, result
from tests.config.test_grid import load


def test_a_lead_is_claimed_where_its_interval_excludes_zero_and_only_there(tmp_path: Path) -> None:
    campaign = load(tmp_path)
    told = answers.caption_of_scores(campaign, compare(campaign, RESULTS))
    assert told == "Best in the mean: s3 small, 0.780. Not clear either way: zerogen small."
    far = {name: result(0.3 if name.startswith("zerogen") else 0.8) for name in RESULTS}
    assert answers.caption_of_scores(campaign, compare(campaign, far)).endswith("s3 is clearly ahead of zerogen small.")
    behind = {name: result(0.8 if name.startswith("zerogen") else 0.3) for name in RESULTS}
    told = answers.caption_of_scores(campaign, compare(campaign, behind))
    assert told == "Best in the mean: zerogen small, 0.800. s3 is clearly behind zerogen small."
    one_seed = {name: each for name, each in RESULTS.items() if name.endswith("3")}
    assert "With one seed each" in answers.caption_of_scores(campaign, compare(campaign, one_seed))


def test_the_best_is_set_against_the_cheapest(tmp_path: Path) -> None:
    zerogen, s3 = compare(load(tmp_path), RESULTS)
    assert answers.caption_of_costs([zerogen, s3]) == "The best is the cheapest too: s3 small, 50 device-seconds."
    assert answers.caption_of_costs([replace(zerogen, train_s=10), s3]) == (
        "The best, s3 small, took 50 device-seconds for 0.780; the cheapest, zerogen small, 30 for 0.750."
    )
    assert answers.caption_of_costs([replace(zerogen, train_s=None)]) == ""


def test_the_page_says_which_runs_are_missing(tmp_path: Path) -> None:
    campaign = load(tmp_path, name="all")
    write_comparison(RunStore(tmp_path / "out"), campaign, compare(campaign, RESULTS), RESULTS, EVENTS)
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "4 of 8 runs are not finished and not in it: zerogen-large-3, " in page
    assert "Engines were busy for 3" in page
