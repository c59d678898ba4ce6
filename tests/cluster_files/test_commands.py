"""Every command line of s3ray in cluster/, its pages and its job files is one that s3ray takes, on jobs that exist."""

import re
import shlex
from pathlib import Path

import pytest
from ray.dashboard.modules.job.cli import job_cli_group

from tests.cluster_files.files import (
    CLUSTER,
    DOCS,
    ROOT,
    Command,
    all_files,
    commands_in,
    documents,
    is_known,
    shell_blocks,
)

JOBS = [ROOT / "jobs" / name for name in ("fake.yaml", "gpu-1.yaml", "gpu-8.yaml", "nodes-8.yaml", "70b.yaml")]
GRIDS = [ROOT / "jobs" / "benchmark" / "generators.yaml"]


def _commands() -> list[Command]:
    found: list[Command] = []
    for page in sorted(DOCS.glob("*.md")):
        found += commands_in(shell_blocks(page), page.name)
    for path in (*JOBS, *GRIDS):
        comments = [line[1:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        found += commands_in("\n".join(comment.split(", ")[0] for comment in comments), path.name)
    for path in (CLUSTER / "kuberay").glob("rayjob*.yaml"):
        found += commands_in(documents(path)[0]["spec"]["entrypoint"], path.name)
    return found


@pytest.mark.parametrize("command", _commands(), ids=lambda command: f"{command.where}-{command.name}")
def test_s3ray_takes_it_and_its_job_loads(command: Command) -> None:
    if not is_known(command.name):
        pytest.fail(f"s3ray has no command {command.name}")
    command.parse()
    if command.job_file():
        assert command.configs()


def test_commands_were_found_everywhere() -> None:
    """A pattern that finds nothing any more would pass all else."""
    found = _commands()
    assert {command.name for command in found} >= {"run", "plan", "compare", "status"}
    pages = {page.name for page in DOCS.glob("*.md")}
    assert pages == {"aws-gcp.md", "kuberay.md", "local.md", "slurm.md"}
    assert {command.where for command in found} >= pages | {"rayjob.yaml", "rayjob-kueue.yaml"}


def _submissions() -> list[str]:
    lines = "\n".join(shell_blocks(page) for page in sorted((ROOT / "docs").rglob("*.md"))).splitlines()
    return [line[line.index("ray job submit") :] for line in lines if "ray job submit" in line]


@pytest.mark.parametrize("line", _submissions())
def test_ray_takes_the_submissions_of_the_pages(line: str) -> None:
    args = shlex.split(line.removeprefix("ray job submit "), comments=True)
    context = job_cli_group.commands["submit"].make_context("submit", args)
    assert context.params["entrypoint"][0] == "s3ray"
    assert (ROOT / context.params["working_dir"]).is_dir()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pages_link_and_name_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for target in re.findall(r"(?<![\w/])(?:cluster|jobs|docs)/[\w./-]+\.\w+", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", all_files(), ids=lambda path: path.name)
def test_files_that_cluster_files_name_exist(path: Path) -> None:
    for target in re.findall(r"(?<![\w/])(?:cluster|jobs|docs)/[\w./-]+\.\w+", path.read_text(encoding="utf-8")):
        assert (ROOT / target.rstrip(".")).exists(), target
