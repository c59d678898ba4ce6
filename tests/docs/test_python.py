"""docs/python.md in a notebook: its blocks run one after the other, with small jobs, while an event loop is running."""

import ast
import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray

import s3ray
from s3ray.config.job import to_yaml
from s3ray.storage.run_folder import RunStore
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "python.md"
SMALL = {
    "generator": {"engine": "fake", "engines": 2, "prompt_form": "completion"},
    "gold": {"extrapolate": 24, "select": 12, "test": 10},
    "strategy": {"name": "s3", "rounds": 1, "seed_examples": 16, "rows": 24},
}
GRID = """\
name: compare
job: quickstart.yaml
axes: {strategy: {zerogen: {strategy: {name: zerogen, rows: 24}}, gold: {strategy: {name: gold}}}}
"""


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_uses_nothing_but_public_names() -> None:
    trees = [ast.walk(ast.parse(block)) for block in blocks()]
    nodes = [node for tree in trees for node in tree if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "s3ray"}
    assert {"load_job", "plan", "run", "open", "compare"} <= used <= {*s3ray.__all__, "__all__"}


@pytest.mark.ray
def test_the_page_runs_in_a_notebook(
    local_ray: None, folder: Path, student: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    small = {**SMALL, "student": {"model": str(student), "epochs": 1, "max_length": 32}}
    job = s3ray.load_job(ROOT / "jobs" / "quickstart.yaml", small)
    (folder / "jobs").mkdir()
    (folder / "jobs" / "quickstart.yaml").write_text(to_yaml(job))
    (folder / "jobs" / "compare.yaml").write_text(GRID)
    names: dict[str, Any] = {}
    printed: list[tuple[str, str]] = []

    async def notebook() -> None:
        for number, block in enumerate(blocks()):
            exec(compile(block, f"block {number} of {PAGE.name}", "exec"), names)
            printed.append(capfd.readouterr())

    asyncio.run(notebook())
    assert ray.is_initialized(), "the notebook's Ray stays open"

    (plan, _), (events, log), *_ = printed
    assert plan.startswith("quickstart: this job can run on the Ray cluster at ")
    kinds = [line.split()[0] for line in events.splitlines()]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished"), "and nothing else is printed"
    assert "s3ray" not in log
    run, comments = names["run"], names["comments"]
    assert [event.kind for event in s3ray.open(run.folder).events()] == kinds
    assert run.metrics.as_dict() == RunStore(run.folder).read_json("metrics.json")
    assert run.dataset().num_rows == sum(each.accepted for each in run.rounds)
    assert names["model"].config.id2label == {0: "good", 1: "bad"}
    assert set(comments.dataset().column_names) >= {"product", "comment", "label"}
    assert names["own"].strategy.name == "s3ray.strategies.s3plus:S3Plus"
    assert {row.name for row in names["compared"].rows} == {"zerogen", "gold"}
    assert Path(names["compared"].page).exists()

    # The same cells once more: nothing is written or trained again.
    shutil.rmtree(folder / "cache")
    again = s3ray.run(
        s3ray.load_job(names["job"], {"name": "comments", "task": names["task"], "data": names["reviews"]})
    )
    assert again.folder == comments.folder
    assert [event.kind for event in again.events()].count("student_finished") == 2
