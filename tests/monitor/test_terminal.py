"""Terminal output: live progress, milestones, status and the summary table."""

import io
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console, RenderableType

from s3ray.monitor.metrics import read_metrics
from s3ray.monitor.run_view import RunView
from s3ray.monitor.terminal import live_table, make_progress, status_text, summary_table
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import EventLog, read_events
from s3ray.text import duration, short_count
from tests.events import LIMITS, an_event
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


def _plain_lines(store: RunStore) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    progress = make_progress(console)
    for event in read_events(store):
        progress(event)
    progress.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def _table(view: RunView, clock: Clock) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(live_table(view, clock.now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_tell_the_run_milestone_by_milestone(finished: RunStore) -> None:
    lines = _plain_lines(finished)
    assert lines[0] == "[run] quickstart starts: s3 on review_sentences, 3 round(s)"
    assert "[round 0 seed] starts: 200 example(s) wanted, 120 outcome(s) already on disk" in lines
    assert "[round 0 student] selection accuracy 0.775, macro_f1 0.770, 24 mistake(s) on 120 gold rows (45 s)" in lines
    assert any(line.startswith("[engines] engine-1 lost with 14 request(s) in flight") for line in lines)
    assert any("SHORT of positive 3" in line for line in lines)
    assert "[test] accuracy 0.827, macro_f1 0.825 on 150 examples" in lines
    assert lines[-1].startswith("[run] finished in ")


def test_a_stage_whose_model_thinks_aloud_says_how_to_stop_it(tmp_path: Path, clock: Clock) -> None:
    counted = {"rejected": {"truncated": 9}, "failed": {}, "prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    for thinking in (9, 2):
        told = {"requested": 60, "accepted": 51, "seconds": 9.0, "thinking": thinking, **counted}
        log.emit(an_event("stage_finished", round=0, stage="seed", **told))
    often, seldom = _plain_lines(store)[1:]
    assert "the model thinks aloud, and 9 answer(s) were cut before they began: set generator.thinking: off" in often
    assert "thinks" not in seldom


def test_a_stage_that_fell_short_says_why(tmp_path: Path, clock: Clock) -> None:
    causes = ("5 failed, refused_by_engine: HTTP 400: no system role", "1 rejected, empty")
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    log.emit(an_event("stage_finished", stage="seed", requested=6, short={"positive": 6}, causes=causes))
    ended, *why = _plain_lines(store)[1:]
    assert "SHORT of positive 6" in ended
    assert [line.strip() for line in why] == list(causes)


@pytest.mark.parametrize(
    ("mistakes", "mined", "says"),
    [
        (2, 30, "2 mistake(s) on 30 gold rows (9 s)"),
        (0, 30, "0 mistake(s) on 30 gold rows: nothing is left to"),
        (None, None, ""),
    ],
)
def test_a_student_without_mistakes_leaves_nothing_to_extrapolate_from(
    mistakes: int | None, mined: int | None, says: str, tmp_path: Path, clock: Clock
) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    seconds = {"start": 0.0, "train": 9.0, "score": 0.0}
    log.emit(an_event("student_finished", round=0, select={}, mistakes=mistakes, mined=mined, seconds=seconds))
    (line,) = _plain_lines(store)
    assert says in line
    assert ("extrapolate" in line) == (mistakes == 0)


def test_plain_chunk_lines_say_how_far_and_how_fast(finished: RunStore) -> None:
    chunks = [line for line in _plain_lines(finished) if line.startswith("[round 1 extrapolate]") and "tok/s" in line]
    assert chunks[0].startswith("[round 1 extrapolate] 12/60 accepted, ")
    assert "ETA " in chunks[0]


def test_plain_chunk_lines_are_throttled(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    log.emit(an_event("stage_started", round=0, stage="seed", target=2000, known=0))
    for num in range(100):
        write_chunk(log, clock, 0, "seed", num, num, 2000)
        clock.now -= 7.9  # so the next one comes within a second or two, not eight
    spoken = [line for line in _plain_lines(store) if "accepted" in line]
    assert 5 <= len(spoken) <= 25


def test_an_engine_says_where_the_seconds_of_its_start_went(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    for start_s in ({}, {"turn": 0.2, "weights": 12.0, "compile": 41.0}):
        limits = {**LIMITS, "notes": ["takes less"], "start_s": start_s}
        log.emit(an_event("engine_ready", engine="engine-0", limits=limits))
    without, with_parts = _plain_lines(store)[-2:]
    assert without.endswith("tokens a step); takes less")
    assert with_parts.endswith("tokens a step); weights 12 s, compile 41 s; takes less")


def test_live_progress_on_a_terminal_keeps_the_milestones(finished: RunStore) -> None:
    file = io.StringIO()
    progress = make_progress(Console(file=file, width=100, force_terminal=True))
    for event in read_events(finished):
        progress(event)
    progress.close()
    progress.close()
    assert "[test] accuracy 0.827" in file.getvalue()


def test_live_table_shows_what_a_watcher_wants(tmp_path: Path, clock: Clock) -> None:
    view = RunView()
    log = EventLog(new_store(tmp_path / "run"), "quickstart", 1, clock)
    log.listen(view.apply)
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    write_chunk(log, clock, 0, "seed", 0, 12, 200)
    shown = _table(view, clock)
    for text in ("round 0 of 2", "generate: seed", "12 / 200", "output tokens/s, ETA", "truncated 4"):
        assert text in shown
    assert "2 ready; requests: 40 running, 3 waiting" in shown
    assert "starve" not in shown


def test_plain_lines_say_with_how_many_engines_the_run_goes_on(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    log.emit(an_event("engine_waiting", engine="engine-3", problem="no node has room for it", running=3, wanted=4))
    log.emit(an_event("engine_given_up", engine="engine-1", problem="EngineDeadError: gone", running=2, wanted=4))
    log.emit(an_event("engine_given_up", engine="engine-2", problem="out of memory", running=0, wanted=4))
    assert _plain_lines(store)[1:] == [
        "[engines] engine-3 waits: no node has room for it; the run goes on with 3 of 4 engine(s)",
        "[engines] engine-1 given up: EngineDeadError: gone; the run goes on with 2 of 4 engine(s)",
        "[engines] engine-2 given up: out of memory; none of 4 engine(s) runs",
    ]


@pytest.mark.parametrize(
    ("starving", "said"),
    [
        (["positive"], "label positive starves: too few of its requests become examples"),
        (["positive", "negative"], "labels positive, negative starve: too few of their requests become examples"),
        (list("abcdefg"), "labels a, b, c, d, e and 2 more starve: too few of their requests become examples"),
        ([""], "the stage starves: too few of its requests become examples"),
    ],
)
def test_labels_that_starve_are_named_in_lines_and_table(
    tmp_path: Path, clock: Clock, starving: list[str], said: str
) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    write_chunk(log, clock, 0, "seed", 0, 12, 200, *starving)
    assert _plain_lines(store)[-1].endswith(f"; {said}")
    assert said in " ".join(_table(RunView.replay(read_events(store)), clock).split())


def test_a_stage_that_ends_early_says_what_was_not_needed(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    counts = {"accepted": 36, "requested": 60, "rejected": {}, "failed": {}, "output_tokens": 0, "short": {}}
    log.emit(an_event("stage_finished", round=0, stage="seed", **counts, seconds=9.0, given_up=7))
    assert _plain_lines(store)[-1].endswith("; 7 under way not needed")


def test_counts_are_short() -> None:
    assert [short_count(num) for num in (0, 999, 1000, 99_949, 123_456, 4_560_000, 7 * 10**11)] == [
        *("0", "999", "1.0k", "99.9k", "123k", "4.6M", "700G"),
    ]


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 35, 250, 7500)] == ["0 s", "35 s", "4 min 10 s", "2 h 05 min"]


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


def test_a_run_that_a_signal_ended_is_not_called_killed(tmp_path: Path, clock: Clock) -> None:
    store = _interrupted(tmp_path, clock)
    log = EventLog(store, "quickstart", 1, clock)
    log.stop("stopped by SIGTERM")
    log.emit(an_event("run_failed", problem="torn down"))  # a thread's last words
    text = " ".join(_shown(status_text(store, clock.now + 5)).split())
    assert "stopped, last event 5 s ago: stopped by SIGTERM" in text
    assert "Go on with the same `s3ray run` command" in text
    assert _plain_lines(store)[-1] == "[run] stopped by SIGTERM; the same command goes on from what is on disk"


def test_what_next_can_be_pasted_into_a_shell(finished: RunStore, tmp_path: Path, clock: Clock) -> None:
    place = tmp_path / "it's #1"
    shutil.copytree(finished.root, place)
    text = " ".join(_shown(status_text(RunStore(place), clock.now)).split())
    assert shlex.split(text.partition("s3ray report ")[2])[0] == str(place)


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
