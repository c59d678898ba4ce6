import io
from pathlib import Path

import yaml
from rich.console import Console, RenderableType

from s3ray.monitor.events import EventLog
from s3ray.monitor.metrics import build_metrics, run_identity
from s3ray.monitor.report import write_report
from s3ray.monitor.summary import status_text, summary_table
from s3ray.store import RunStore
from tests.monitor.run_folder import Clock, new_store, start_engines, start_run, write_chunk, write_run


def _shown(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_summary_has_a_row_per_round_and_the_test_score_in_the_last_one(finished: RunStore) -> None:
    text = _shown(summary_table(finished.read_json("metrics.json")))
    rows = [line.split() for line in text.splitlines() if line[:7].strip().isdigit()]
    assert [row[:5] for row in rows] == [
        ["0", "200", "24/120", "0.775", "-"],
        ["1", "260", "18/120", "0.812", "-"],
        ["2", "320", "-", "0.838", "0.827"],
    ]
    assert "quickstart: s3 on review_sentences (accuracy)" in text
    assert "duplicate 61" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_summary_of_gold_alone(tmp_path: Path) -> None:
    text = _shown(summary_table(write_run(tmp_path / "gold", "gold").read_json("metrics.json")))
    assert "0.827" in text


def test_a_run_whose_task_is_a_file_goes_by_the_file_s_name(finished: RunStore, clock: Clock) -> None:
    config = yaml.safe_load(finished.path("config.yaml").read_text())
    finished.write_text("config.yaml", yaml.safe_dump(config | {"task": "/elsewhere/my_reviews.yaml"}))
    metrics = build_metrics(finished, run_identity(finished))
    assert "quickstart: s3 on my_reviews (accuracy)" in _shown(summary_table(metrics))
    assert "3 finished round(s)" in _shown(status_text(finished, clock.now))
    page = write_report(finished).read_text(encoding="utf-8")
    assert "kept (59%)" in page
    assert "/elsewhere" not in page


def test_status_while_a_driver_holds_the_folder(tmp_path: Path, clock: Clock) -> None:
    store = _interrupted(tmp_path, clock)
    with store.lock():
        text = _shown(status_text(store, clock.now + 5000))  # silent for long, but alive
    assert "running" in text
    assert "[round 0 seed] 12/200 accepted" in text


def test_status_after_a_kill_says_how_to_go_on(tmp_path: Path, clock: Clock) -> None:
    store = _interrupted(tmp_path, clock)
    with store.lock():
        pass
    text = " ".join(_shown(status_text(store, clock.now + 5)).split())
    assert "probably killed" in text
    assert "same `s3ray run` command" in text
    assert "0 finished round(s), 0 student(s)" in text


def test_status_of_a_finished_and_of_a_failed_run(finished: RunStore, clock: Clock) -> None:
    text = _shown(status_text(finished, clock.now))
    assert "finished (start 2)" in text
    assert "3 finished round(s), 3 student(s), metrics.json" in text
    EventLog(finished, "quickstart", 3, clock).emit("run_failed", problem="no engine left")
    assert "failed (start 3): no engine left" in _shown(status_text(finished, clock.now))


def _interrupted(tmp_path: Path, clock: Clock) -> RunStore:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    start_engines(log, clock)
    log.emit("stage_started", round=0, stage="seed", target=200, known=0)
    write_chunk(log, clock, 0, "seed", 0, 12, 200)
    return store
