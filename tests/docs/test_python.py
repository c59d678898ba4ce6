"""docs/python.md in a notebook: its blocks run one after the other, with small jobs, while an event loop is running."""

import ast
import asyncio
import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

import s3ray
from s3ray.cluster import occupancy
from s3ray.config.job import to_yaml
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


@pytest.fixture
def names(folder: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the notebook has before its first block, in a folder with small jobs."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program that sets no logging up
    small = {**SMALL, "student": {"model": str(student), "epochs": 1, "max_length": 32}}
    job = s3ray.load_job(ROOT / "jobs" / "quickstart.yaml", small)
    (folder / "jobs").mkdir()
    (folder / "jobs" / "quickstart.yaml").write_text(to_yaml(job))
    (folder / "jobs" / "compare.yaml").write_text(GRID)
    return {"run_in_process": partial(s3ray.run, local=True)}


def run_blocks(chosen: Sequence[str], names: dict[str, Any]) -> None:
    async def notebook() -> None:
        for block in chosen:
            exec(compile(block, PAGE.name, "exec"), names)

    asyncio.run(notebook())


def test_the_page_runs_in_a_notebook_without_ray(names: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    """All but the comparison, with one change: no Ray."""
    in_process = [block.replace("s3ray.run(", "run_in_process(") for block in blocks() if "compare(" not in block]
    run_blocks(in_process[:2], names)
    printed, log = capfd.readouterr()
    run_blocks(in_process[2:], names)

    plan = str(s3ray.plan(names["job"]))
    run, comments = names["run"], names["comments"]
    events = [f"{event.kind} {event.round}" for event in s3ray.open(run.folder).events()]
    assert printed.splitlines()[len(plan.splitlines()) :] == events, "what the page prints, and nothing else"
    assert log == ""
    assert names["model"].config.id2label == {0: "good", 1: "bad"}
    assert set(comments.dataset().column_names) >= {"product", "comment", "label"}
    assert names["own"].strategy.name == "s3ray.strategies.s3plus:S3Plus"


@pytest.mark.ray
def test_the_page_runs_in_a_notebook_that_has_a_ray(
    local_ray: None, names: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its first run, without the round after the seed set, and the comparison."""
    load, run, *_, comparison = blocks()
    job = s3ray.load_job("jobs/quickstart.yaml", {"strategy": {"rounds": 0, "rows": None}})
    Path("jobs/quickstart.yaml").write_text(to_yaml(job))
    run_blocks([load, run], names)
    printed, log = capfd.readouterr()
    assert printed.startswith("quickstart: this job can run on the Ray cluster at ")
    assert "s3ray" not in log
    assert names["run"].metrics.test
    run_blocks([comparison], names)
    assert {row.name for row in names["compared"].rows} == {"zerogen", "gold"}
    assert Path(names["compared"].page).exists()
    assert ray.get(ray.put(1)) == 1, "the notebook's Ray stays open"
    assert not occupancy("CPU").held, "nothing of the runs is left in it"
