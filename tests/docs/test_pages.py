"""What the documentation shows works: files are valid, links lead somewhere, figures are the measured ones."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_map_of_the_tree_names_what_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| [^|]+\? \| (`[^|]+) \| ([^|]+) \|$", readme.partition("## Where things are")[2], re.MULTILINE
    )
    packages = {f"s3ray/{path.parent.name}/" for path in (ROOT / "s3ray").glob("*/__init__.py")}
    assert not {folder for folder in packages if not any(f"`{folder}" in places for places, _ in rows)}
    missing = []
    for places, files in rows:
        folders = [ROOT, ROOT / "s3ray", *(ROOT / place for place in re.findall(r"`([\w/]+/)`", places))]
        named = re.findall(r"`([\w./-]*(?:/|\.\w+))`", f"{places} {files}")
        missing += [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert not missing


def test_every_job_file_is_valid() -> None:
    from s3ray.config.grid import load_campaign
    from s3ray.config.load import load_config, read_yaml
    from s3ray.strategies.check import check_strategy
    from s3ray.tasks import load_task

    task_named = cache(load_task)  # hundreds of runs have a few tasks
    for path in (ROOT / "jobs").rglob("*.yaml"):
        is_grid = "axes" in read_yaml(path)
        for config in [run.config for run in load_campaign(path).runs] if is_grid else [load_config(path)]:
            task, form = task_named(config.task), config.generator.prompt_form
            assert task.has_form(form)
            check_strategy(config.strategy, task, form)


def test_the_readme_quotes_the_measured_table() -> None:
    measured = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks/results").glob("*.md")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (quoted,) = re.findall(r"<!-- results:begin -->\n(.*?)<!-- results:end -->", readme, re.DOTALL)
    rows = [line for line in quoted.splitlines() if line.startswith("|")]
    assert rows
    assert any(all(line in page for line in rows) for page in measured)
