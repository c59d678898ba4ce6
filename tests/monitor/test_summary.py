import io
from pathlib import Path

import yaml
from rich.console import Console, RenderableType

from s3ray.monitor.events import EventLog
from s3ray.monitor.metrics import read_metrics
from s3ray.monitor.report import write_report
from s3ray.monitor.summary import status_text, summary_table
from s3ray.store import RunStore
from tests.events import an_event
from tests.monitor.run_folder import (
    Clock,
    metrics_of,
    new_store,
    report,
    start_engines,
    start_run,
    write_chunk,
    write_run,
)


def _shown(renderable: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_summary_has_a_row_per_round_and_the_test_score_in_the_last_one(finished: RunStore) -> None:
    text = _shown(summary_table(read_metrics(finished)))
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
    text = _shown(summary_table(read_metrics(write_run(tmp_path / "gold", "gold"))))
    assert "0.827" in text


def test_a_run_whose_task_is_a_file_goes_by_the_file_s_name(finished: RunStore, clock: Clock) -> None:
    config = yaml.safe_load(finished.path("config.yaml").read_text())
    finished.write_text("config.yaml", yaml.safe_dump(config | {"task": "/elsewhere/my_reviews.yaml"}))
    metrics = metrics_of(finished)
    assert "quickstart: s3 on my_reviews (accuracy)" in _shown(summary_table(metrics))
    assert "3 finished round(s)" in _shown(status_text(finished, clock.now))
    page = Path(write_report(finished)).read_text(encoding="utf-8")
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
    EventLog(finished, "quickstart", 3, clock).emit(an_event("run_failed", problem="no engine left"))
    assert "failed (start 3): no engine left" in _shown(status_text(finished, clock.now))


def test_status_has_a_row_for_each_of_a_few_engines(tmp_path: Path, clock: Clock) -> None:
    store = _interrupted(tmp_path, clock)
    log = EventLog(store, "quickstart", 1, clock)
    log.emit(an_event("engine_lost", engine="engine-1", problem="gone", in_flight=3, restarts=0))
    log.emit(an_event("engine_given_up", engine="engine-1", problem="gone", running=1, wanted=2))
    with store.lock():
        running = _shown(status_text(store, clock.now), 80)
    assert _row(running, "engine-0") == ["ready", "24", "3", "31%", "500", "1.8k", "75%", "1", "0", "100%"]
    assert _row(running, "engine-1") == ["given", "up", "0", "0", "0%", "400", "800", "75%", "1", "0", "80%"]
    assert _row(running, "all 2") == ["24", "3", "31%", "900", "2.6k", "75%", "2", "0", "90%"]
    killed = _shown(status_text(store, clock.now), 80)
    assert _row(killed, "engine-0") == ["500", "1.8k", "75%", "1", "0", "100%"]


def test_status_of_many_engines_shows_the_pool_alone(tmp_path: Path, clock: Clock) -> None:
    store = _interrupted(tmp_path, clock)
    many = {f"engine-{i}": report(clock, f"engine-{i}", prompt_tokens=0, cached_tokens=0) for i in range(9)}
    EventLog(store, "quickstart", 1, clock).emit(an_event(
        "chunk_written", round=0, stage="seed", chunk="b", rows=90, rejected={}, failed={}, output_tokens=0,
        accepted=102, target=200, starving=[], engines=many,
    ))  # fmt: skip
    text = _shown(status_text(store, clock.now))
    assert _row(text, "all 9") == ["900", "0", "-", "9", "0", "100%"]
    assert "engine-0" not in text


def test_status_without_reports_of_engines_has_no_table_of_them(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    text = _shown(status_text(store, clock.now))
    assert "preempt" not in text


def _row(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return line.removeprefix(name).split()


def _interrupted(tmp_path: Path, clock: Clock) -> RunStore:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    write_chunk(log, clock, 0, "seed", 0, 12, 200)
    return store
