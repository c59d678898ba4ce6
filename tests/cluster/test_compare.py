"""`s3ray compare` as a user starts it: runs share engines and a seed set, and each can go on alone after a kill."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.journal import audit
from s3ray.store import RunStore
from tests.cluster.test_run import SLOW, WAIT_S, events, finish, kill_driver, start, wait_for, write_job
from tests.models import make_bert

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def write_grid(folder: Path, job: Path) -> Path:
    grid = folder / "grid.yaml"
    grid.write_text(
        f"name: grid\njob: {job.name}\naxes:\n  student:\n"
        "    slow: {strategy.rounds: 0, strategy.rows: null, student.learning_rate: 0.0001}\n"
        "    fast: {strategy.rounds: 0, strategy.rows: null, student.learning_rate: 0.01}\nseeds: [0]\n"
    )
    return grid


def test_a_killed_comparison_goes_on_and_each_run_goes_on_alone(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    job = write_job(tmp_path, make_bert(tmp_path / "student"), fake=SLOW)
    grid, out = write_grid(tmp_path, job), tmp_path / "out"
    process = start(grid, out, command="compare")
    wait_for(process, lambda: bool(events(out / "fast-0", "chunk_written") or events(out / "slow-0", "chunk_written")))
    kill_driver(process)
    (begun,) = [name for name in ("slow-0", "fast-0") if events(out / name, "chunk_written")]
    (other,) = {"slow-0", "fast-0"} - {begun}
    finish(out / begun / "config.yaml", out / begun)
    finished = RunStore(out / begun).path("metrics.json").stat().st_mtime_ns
    text = finish(grid, out, command="compare")
    assert RunStore(out / begun).path("metrics.json").stat().st_mtime_ns == finished, "a finished run was run again"
    assert f"round 0] is that of {begun}" in text
    for name in (begun, other):
        store = RunStore(out / name)
        books = audit(out / name)
        assert (books["lost"], books["duplicated"], books["unbalanced"]) == (0, 0, 0)
        assert len(store.read_table("rounds/0/accepted.parquet")) == 60
    accepted = [RunStore(out / name).read_table("rounds/0/accepted.parquet") for name in (begun, other)]
    assert accepted[0].equals(accepted[1])
    rows = RunStore(out).read_json("compare.json")["rows"]
    assert {row["cell"]["student"]: row["rows"] for row in rows} == {"slow": [60], "fast": [60]}
    assert rows[0]["lead_mean"] is not None
    assert (out / "compare.html").exists()


def test_a_wrong_job_of_a_grid_is_refused_before_anything_starts(tmp_path: Path) -> None:
    job = write_job(tmp_path, tmp_path / "no-such-student")
    command = [sys.executable, "-c", "from s3ray.cli import main; main()", "compare", str(write_grid(tmp_path, job))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=tmp_path)
    assert result.returncode == 2
    assert "slow-0" in result.stderr
    assert "no-such-student" in result.stderr
    assert not (tmp_path / "runs").exists()
