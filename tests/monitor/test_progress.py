import io
from pathlib import Path

import pytest
from rich.console import Console

from s3ray.monitor.events import EventLog, read_events
from s3ray.monitor.progress import LiveProgress, PlainProgress, duration, live_table, make_progress, short_count
from s3ray.monitor.run_view import RunView
from s3ray.store import RunStore
from tests.events import an_event
from tests.monitor.run_folder import Clock, new_store, start_engines, start_run, write_chunk


def _plain_lines(store: RunStore) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    progress = make_progress(console)
    assert isinstance(progress, PlainProgress)
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


def test_live_progress_on_a_terminal_keeps_the_milestones(finished: RunStore) -> None:
    file = io.StringIO()
    progress = make_progress(Console(file=file, width=100, force_terminal=True))
    assert isinstance(progress, LiveProgress)
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
