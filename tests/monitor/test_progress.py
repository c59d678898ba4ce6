import io
from pathlib import Path

from rich.console import Console

from s3ray.monitor.events import EventLog
from s3ray.monitor.progress import LiveProgress, PlainProgress, duration, live_table, make_progress
from s3ray.monitor.view import RunView
from s3ray.store import RunStore
from tests.monitor.run_folder import Clock, new_store, start_engines, start_run, write_chunk


def _plain_lines(store: RunStore) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    progress = make_progress(console)
    assert isinstance(progress, PlainProgress)
    for event in store.events():
        progress(event)
    progress.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_plain_lines_tell_the_run_milestone_by_milestone(finished: RunStore) -> None:
    lines = _plain_lines(finished)
    assert lines[0] == "[run] quickstart starts: s3 on review_sentences, 3 round(s)"
    assert "[round 0 seed] starts: 200 example(s) wanted, 120 outcome(s) already on disk" in lines
    assert "[round 0 student] selection accuracy 0.775, macro_f1 0.770, 24 mistake(s) on 120 gold rows (45 s)" in lines
    assert any(line.startswith("[engines] engine-1 lost with 14 request(s) in flight") for line in lines)
    assert any("SHORT of positive 3" in line for line in lines)
    assert "[test] accuracy 0.827, macro_f1 0.825 on 150 examples" in lines
    assert lines[-1].startswith("[run] finished in ")


def test_plain_chunk_lines_say_how_far_and_how_fast(finished: RunStore) -> None:
    chunks = [line for line in _plain_lines(finished) if line.startswith("[round 1 extrapolate]") and "tok/s" in line]
    assert chunks[0].startswith("[round 1 extrapolate] 12/60 accepted, ")
    assert "ETA " in chunks[0]


def test_plain_chunk_lines_are_throttled(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    log.emit("stage_started", round=0, stage="seed", target=2000, known=0)
    for num in range(100):
        write_chunk(log, clock, 0, "seed", num, num, 2000)
        clock.now -= 7.9  # so the next one comes within a second or two, not eight
    spoken = [line for line in _plain_lines(store) if "accepted" in line]
    assert 5 <= len(spoken) <= 25


def test_live_progress_on_a_terminal_keeps_the_milestones(finished: RunStore) -> None:
    file = io.StringIO()
    progress = make_progress(Console(file=file, width=100, force_terminal=True))
    assert isinstance(progress, LiveProgress)
    for event in finished.events():
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
    log.emit("stage_started", round=0, stage="seed", target=200, known=0)
    write_chunk(log, clock, 0, "seed", 0, 12, 200)
    console = Console(file=io.StringIO(), width=80)
    console.print(live_table(view, clock.now))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("round 0 of 2", "generate: seed", "12 / 200", "output tokens/s, ETA", "2 ready", "truncated 4"):
        assert text in shown


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 35, 250, 7500)] == ["0 s", "35 s", "4 min 10 s", "2 h 05 min"]
