"""`s3ray compare` as a user starts it: runs share engines and a seed set, and each can go on alone after a kill."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.journal import audit
from s3ray.storage.run_folder import RunStore
from tests.cluster.heads import WAIT_S
from tests.cluster.test_run import FAST, SLOW, events, finish, kill_driver, start, wait_for, write_job
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
    finish(out / begun / "config.yaml", out / begun, "--local")
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


def write_two_sizes(folder: Path, student: Path, address: str, fake: str) -> Path:
    """A grid of two runs of unlike size, the small one first, that have two pretend GPUs for engines and students."""
    (folder / "job.yaml").write_text(
        "name: job\ntask: review_sentences\ngold: {extrapolate: 30, select: 20, test: 20}\n"
        "strategy: {name: zerogen, rows: 2400}\n"
        "generator: {engine: fake, engines: 2, prompt_form: completion, max_num_seqs: 4,"
        f" fake: {{takes_gpus: true, {fake}}}}}\n"
        f"student: {{model: {student}, epochs: 1, max_length: 32, workers: 1}}\n"
        f"cluster: {{address: '{address}'}}\n"
    )
    grid = folder / "grid.yaml"
    grid.write_text(
        "name: grid\njob: job.yaml\naxes:\n  rows:\n    few: {strategy.rows: 30}\n    many: {}\nseeds: [0]\n"
        "priorities: {few: 1}\n"
    )
    return grid


def test_engines_and_students_of_different_runs_pass_devices_to_each_other(address: str, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    student, out = make_bert(tmp_path / "bert"), tmp_path / "out"
    # At this speed the large run writes for minutes: it cannot end before the student of the small one is trained.
    process = start(write_two_sizes(tmp_path, student, address, SLOW), out, command="compare")
    wait_for(process, lambda: bool(events(out, "student_finished")))
    kill_driver(process)
    happened = [event["event"] for event in RunStore(out).events()]
    while_trained = happened[happened.index("student_started") : happened.index("student_finished")]
    assert while_trained.count("engine_stopped") == 1, "one engine makes way, the other stays"
    since_way_was_made = while_trained[::-1][: while_trained[::-1].index("engine_stopped")]
    assert "answers_dealt" in since_way_was_made, "nobody wrote while another run trained"
    finish(write_two_sizes(tmp_path, student, address, FAST), out, command="compare")
    result = RunStore(out).read_json("compare.json")
    assert [row["rows"] for row in result["rows"]] == [[30], [2400]]
    assert 0 < result["engine_busy_share"] < 1


def test_a_wrong_job_of_a_grid_is_refused_before_anything_starts(tmp_path: Path) -> None:
    job = write_job(tmp_path, tmp_path / "no-such-student")
    command = [sys.executable, "-c", "from s3ray.cli import main; main()", "compare", str(write_grid(tmp_path, job))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=tmp_path)
    assert result.returncode == 2
    assert "slow-0" in result.stderr
    assert "no-such-student" in result.stderr
    assert not (tmp_path / "runs").exists()
