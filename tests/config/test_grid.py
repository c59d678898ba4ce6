"""A grid becomes runs, each with its own name, seed and settings; what is wrong is said before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from s3ray.config.grid import Campaign, load_campaign
from s3ray.errors import InputError

GRID: dict[str, Any] = {
    "name": "grid",
    "job": "job.yaml",
    "axes": {
        "method": {"zerogen": {"strategy.name": "zerogen"}, "s3": {}},
        "size": {"small": {"strategy.rows": 60}, "large": {"strategy.rows": 90}},
    },
    "seeds": [3, 5],
}


def load(folder: Path, set_: dict[str, Any] | None = None, **changes: Any) -> Campaign:
    job = {
        "name": "job",
        "task": "review_sentences",
        "strategy": {"rounds": 1, "seed_examples": 50, "rows": 80},
        "generator": {"engine": "fake"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID | changes, sort_keys=False))
    return load_campaign(folder / "grid.yaml", set_)


def test_there_is_one_run_for_each_combination_and_seed(tmp_path: Path) -> None:
    runs = load(tmp_path).runs
    assert [run.name for run in runs[:4]] == ["zerogen-small-3", "zerogen-large-3", "s3-small-3", "s3-large-3"]
    assert len(runs) == 8
    last = runs[-1]
    assert (last.config.name, last.config.strategy.name, last.config.strategy.rows) == ("s3-large-5", "s3", 90)
    assert (last.config.seed, last.config.gold.seed) == (5, 5)
    assert runs[0].config.strategy.name == "zerogen"


def test_the_last_value_of_the_first_axis_is_the_reference_unless_it_is_named(tmp_path: Path) -> None:
    assert load(tmp_path).reference == "s3"
    assert load(tmp_path, reference="zerogen").reference == "zerogen"


TASKS = {"reviews": {}, "pairs": {"task": "qnli"}}


def test_tasks_are_not_compared_with_each_other_wherever_their_axis_stands(tmp_path: Path) -> None:
    campaign = load(tmp_path, axes={"task": TASKS, **GRID["axes"]})
    assert (campaign.task_axis, campaign.compared_axis, campaign.reference) == ("task", "method", "s3")
    assert load(tmp_path).task_axis is None
    alone = load(tmp_path, axes={"task": TASKS})
    assert (alone.task_axis, alone.compared_axis, alone.reference) == ("task", None, None)


def test_an_axis_is_numeric_if_its_values_set_a_field_to_different_numbers(tmp_path: Path) -> None:
    campaign = load(
        tmp_path,
        axes={
            "gold": {
                "few": {"gold.select": 9, "gold.extrapolate": 50},
                "many": {"gold.select": 9, "gold.extrapolate": 99},
            },
            "method": {"s3": {}, "zerogen": {"strategy.name": "zerogen"}},
            "rationales": {"no": {"strategy.rationales": False}, "yes": {"strategy.rationales": True}},
        },
    )
    assert campaign.numbers("gold") == {"few": 50.0, "many": 99.0}
    assert campaign.numbers("method") is None
    assert campaign.numbers("rationales") is None


def test_settings_change_the_grid_its_values_and_the_job_of_all(tmp_path: Path) -> None:
    axes = {"v1.5": {"a": {}, "a.b": {}}, "method": {"s3": {"strategy.rows": 90}, "zerogen": {}}}
    changes = {
        "axes.v1.5.a.b.data": "some/folder",
        "axes.method.s3.strategy.rows": 70,
        "job.generator.engines": 4,
        "job.strategy.rows": 60,
        "seeds": [8],
    }
    runs = {run.name: run.config for run in load(tmp_path, changes, axes=axes).runs}
    assert list(runs) == ["a-s3-8", "a-zerogen-8", "a.b-s3-8", "a.b-zerogen-8"]
    assert [run.data for run in runs.values()] == [None, None, "some/folder", "some/folder"]
    assert [run.strategy.rows for run in runs.values()] == [70, 60, 70, 60]
    assert {run.generator.engines for run in runs.values()} == {4}


def test_a_value_may_set_more_where_it_meets_another_and_combinations_may_be_left_out(tmp_path: Path) -> None:
    axes = {
        "method": {"s3": {}, "seed_only": {"strategy.rounds": 0, "with": {"small": {"strategy.seed_examples": 60}}}},
        "size": {"small": {"strategy.rows": 60}, "large": {"strategy.rows": 90}},
    }
    runs = {run.name: run.config.strategy for run in load(tmp_path, axes=axes, skip=[SEED_ONLY_LARGE], seeds=[3]).runs}
    assert list(runs) == ["s3-small-3", "s3-large-3", "seed_only-small-3"]
    assert [run.seed_examples for run in runs.values()] == [50, 50, 60]


SEED_ONLY_LARGE = {"method": "seed_only", "size": "large"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"axes.method.s3plus.data": "x"},
            r"--set.*names no field.*axes.method.s3plus.data.*values of method: zerogen, s3",
        ),
        ({"axes.methods.s3.data": "x"}, "axes: method, size"),
        ({"axes.method.s3": {}}, "names no field"),
        ({"axes.method.s3.strategy.nam": "s3"}, "run s3-small-3: unknown field"),
        ({"job.generator.engine": "vlm"}, "generator.engine"),
        ({"strategy.rows": 60}, "unknown field"),
    ],
)
def test_a_wrong_setting_of_a_grid_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(tmp_path, change)


def test_priorities_add_up(tmp_path: Path) -> None:
    runs = load(tmp_path, priorities={"s3": 2, "small": 1}).runs
    assert {run.name: run.priority for run in runs if run.seed == 3} == {
        "zerogen-small-3": 1,
        "zerogen-large-3": 0,
        "s3-small-3": 3,
        "s3-large-3": 2,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {}}, "axes"),
        ({"axes": {"method": {}}}, "axes.method: has no values"),
        ({"axes": {"method": {"../s3": {}}}}, r"cannot be part of a folder's name \(got \.\./s3\)"),
        ({"axes": {"a": {"x": {}, "x-y": {}}, "b": {"y-z": {}, "z": {}}}}, r"two runs one name \(got x-y-z-3\)"),
        ({"axes": {"method": {"s3": {"strategy.nam": "s3"}}}}, "run s3-3: unknown field"),
        ({"axes": {"method": {"s3": {"strategy.rows": 10}}}}, r"run s3-3: `rows` \(10\) is less than"),
        ({"axes": {"method": {"s3": {"placement.leave": "sleep_1"}}}}, "run s3-3: engines of a campaign make way"),
        ({"axes": {"method": {"s3": {"placement.elastic": True}}}}, "run s3-3: is for single runs"),
        ({"seeds": [1, 1]}, "holds a seed twice"),
        (
            {"reference": "gold"},
            "reference: is not a value of the axis that is compared.*Values of axis method: zerogen, s3",
        ),
        ({"priorities": {"gold": 1}}, "priorities.gold: is not a value of any axis"),
        ({"job": "other.yaml"}, "other.yaml"),
        ({"skip": [{"method": "gold"}]}, r"skip.0.method: is not a value of that axis \(got gold\)"),
        ({"skip": [{}]}, "skip.0: names no value"),
        ({"skip": [{"method": "s3"}, {"method": "zerogen"}]}, "skip: leaves no run"),
        (
            {"axes": {"a": {"x": {"with": {"y": {}}}, "y": {}}}},
            r"axes.a.x.with: is not a value of another axis \(got y\)",
        ),
        ({"axes": {"a": {"x": {"with": {"y": 1}}}, "b": {"y": {}}}}, "axes.a.x.with: is not a mapping"),
        ({"sedes": [1]}, "Did you mean `seeds`"),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(tmp_path, **changes)
