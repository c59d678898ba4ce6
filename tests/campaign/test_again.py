"""A campaign whose runs are finished is compared again from light copies: no data, no models, no cluster."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import yaml

from s3ray.cli import main
from s3ray.config.grid import load_campaign
from s3ray.config.job import to_yaml
from s3ray.config.shaping import data_shaping
from s3ray.storage.run_folder import RunStore
from tests.campaign.test_table import result

JOB = {
    "name": "job",
    "task": "qnli",
    "data": "no/such/folder",
    "strategy": {"rounds": 0, "seed_examples": 50},
    "generator": {"model": "nobody/has-this"},
    "student": {"model": "nobody/has-this-either"},
}


def light_copies(folder: Path, **scores: float) -> Path:
    """A grid, and its runs as docs/campaign.md says that they are kept."""
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    axes = {"method": {"zerogen": {"strategy.name": "zerogen", "strategy.rows": 50}, "s3": {}}}
    grid = folder / "grid.yaml"
    grid.write_text(yaml.safe_dump({"name": "grid", "job": "job.yaml", "axes": axes, "seeds": [0, 1]}, sort_keys=False))
    for run in load_campaign(grid).runs:
        if (score := scores.get(run.name.replace("-", "_"))) is None:
            continue
        store, found = RunStore(folder / "out" / run.name), result(score)
        store.create(data_shaping(run.config), to_yaml(run.config))
        store.write_json("metrics.json", found.metrics.as_dict())
        store.write_json("students/0/score.json", {})
        answers = found.answers
        assert answers is not None
        table = {"id": answers.ids, "predicted": ["yes"] * len(answers.ids), "score": answers.scores}
        store.write_table("students/0/test.parquet", pa.table(table))
    return grid


def compare(grid: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["s3ray", "compare", str(grid), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_light_copies_are_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = light_copies(tmp_path, zerogen_0=0.7, zerogen_1=0.6, s3_0=0.8, s3_1=0.75)
    assert compare(grid, tmp_path / "out", monkeypatch) == 0
    assert not ray.is_initialized()
    first = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert first["rows"][0]["lead_mean"] == pytest.approx(0.125)
    assert first["rows"][0]["lead_interval"][0] > 0
    assert "| zerogen |" in (tmp_path / "out" / "compare.md").read_text()
    # Copied elsewhere the same comes out.
    shutil.copytree(tmp_path / "out", tmp_path / "copy", ignore=shutil.ignore_patterns("compare.*", "timeline.json"))
    assert compare(grid, tmp_path / "copy", monkeypatch) == 0
    assert json.loads((tmp_path / "copy" / "compare.json").read_text()) == first


def test_what_is_missing_is_run_and_so_its_data_and_models_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = light_copies(tmp_path, zerogen_0=0.7, zerogen_1=0.6, s3_0=0.8)
    assert compare(grid, tmp_path / "out", monkeypatch) == 2
    assert "s3-1" in capsys.readouterr().err
    assert not (tmp_path / "out" / "s3-1").exists()
