"""`s3ray compare` as a user starts it: runs share engines and a seed set, and each can go on alone after a kill."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.journal import audit
from s3ray.campaign.compare import run_campaign
from s3ray.campaign.grid import load_campaign
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
    assert rows[0]["lead_interval"] is not None
    assert rows[0]["generate_s"] == pytest.approx(rows[1]["generate_s"]) != 0, "a seed set costs each its whole price"
    assert rows[0]["train_s"] > 0
    assert (out / "compare.html").exists()


def test_engines_and_students_of_different_runs_pass_devices_to_each_other(address: str, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    student = make_bert(tmp_path / "bert")
    (tmp_path / "job.yaml").write_text(
        "name: job\ntask: review_sentences\ngold: {extrapolate: 30, select: 20, test: 20}\n"
        "strategy: {name: zerogen, rows: 60}\n"
        "generator: {engine: fake, engines: 4, prompt_form: completion, max_num_seqs: 4,"
        " fake: {takes_gpus: true, tokens_per_s: 15}}\n"
        f"student: {{model: {student}, epochs: 1, max_length: 32, workers: 2, min_workers: 1}}\n"
        f"cluster: {{address: '{address}'}}\n"
    )
    (tmp_path / "grid.yaml").write_text(
        "name: grid\njob: job.yaml\naxes:\n  rows:\n    few: {strategy.rows: 30}\n    many: {}\nseeds: [0]\n"
    )
    campaign = load_campaign(tmp_path / "grid.yaml")
    run_campaign(campaign, "grid.yaml", str(tmp_path / "out"), Console(quiet=True), command="s3ray compare grid.yaml")
    store = RunStore(tmp_path / "out")
    happened = [event["event"] for event in store.events()]
    first = happened.index("engine_stopped")
    assert first < happened.index("student_finished"), "no engine has made way"
    assert "answers_dealt" in happened[first:], "nobody wrote while another run trained"
    result = store.read_json("compare.json")
    assert [row["rows"] for row in result["rows"]] == [[30], [60]]
    assert 0 < result["engine_busy_share"] < 1


def test_a_wrong_job_of_a_grid_is_refused_before_anything_starts(tmp_path: Path) -> None:
    job = write_job(tmp_path, tmp_path / "no-such-student")
    command = [sys.executable, "-c", "from s3ray.cli import main; main()", "compare", str(write_grid(tmp_path, job))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=tmp_path)
    assert result.returncode == 2
    assert "slow-0" in result.stderr
    assert "no-such-student" in result.stderr
    assert not (tmp_path / "runs").exists()
