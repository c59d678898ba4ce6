from pathlib import Path

import pytest

from s3ray.monitor.events import EventLog
from s3ray.monitor.view import SILENT_S, RunView
from s3ray.store import RunStore
from tests.monitor.run_folder import Clock, new_store, start_engines, start_run, write_chunk, write_student


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return new_store(tmp_path / "run")


@pytest.fixture
def view() -> RunView:
    return RunView()


@pytest.fixture
def log(store: RunStore, view: RunView, clock: Clock) -> EventLog:
    log = EventLog(store, "quickstart", 1, clock)
    log.listen(view.apply)
    return log


def test_phases_follow_the_run(log: EventLog, view: RunView, clock: Clock, store: RunStore) -> None:
    start_run(log)
    log.emit("engine_starting", engine="engine-0")
    phases: list[str] = [view.phase]
    start_engines(log, clock)
    log.emit("stage_started", round=0, stage="seed", target=200, known=0)
    phases.append(view.phase)
    log.emit("student_started", round=0, rows=200, workers=2)
    phases.append(view.phase)
    assert phases == ["start", "generate", "train"]
    assert view.state(clock.now + 1) == "running"
    assert view.state(clock.now + SILENT_S) == "unknown"
    log.emit("run_failed", problem="no engine left")
    assert view.state(clock.now + SILENT_S) == "failed"
    assert view.problem == "no engine left"


def test_rate_and_eta_come_from_the_recent_chunks(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    log.emit("stage_started", round=0, stage="seed", target=200, known=0)
    assert view.tokens_per_s is None
    chunk = {"round": 0, "stage": "seed", "rows": 20, "ok": 20, "rejected": {}, "failed": {}, "engines": {}}
    chunk |= {"prompt_tokens": 0, "cached_tokens": 0, "target": 200}
    # A slow first minute must not weigh on what is fast at the end: 10 s a chunk, 10 accepted and 1000 tokens each.
    clock.now += 60
    log.emit("chunk_written", chunk="a", output_tokens=10, accepted=1, **chunk)
    for num in range(5):
        clock.now += 10
        log.emit("chunk_written", chunk=str(num), output_tokens=1000, accepted=11 + 10 * num, **chunk)
    assert view.tokens_per_s == pytest.approx(100)
    assert view.eta_s == pytest.approx((200 - 51) / 1.0)


def test_a_second_attempt_goes_on_and_counts_nothing_twice(finished: RunStore) -> None:
    events = list(finished.events())
    second = next(i for i, event in enumerate(events) if event["attempt"] == 2)
    view = RunView.replay(events[:second])
    assert view.stages[0, "seed"].accepted == 72
    for event in events[second:]:
        view.apply(event)
        if event["event"] == "chunk_written":
            break
    seed = view.stages[0, "seed"]
    assert (view.attempt, seed.accepted, seed.outcomes, seed.rejected["truncated"]) == (2, 84, 140, 28)
    view.apply(event)
    assert seed.outcomes == 140


def test_pauses_between_attempts_are_not_working_time(finished: RunStore) -> None:
    view = RunView.replay(finished.events())
    assert view.total_s < 600
    seconds = view.seconds()
    assert seconds["train"] == pytest.approx(34 + 42 + 50)
    assert seconds["start"] == pytest.approx(2 * 9 + 3 * 6)  # until one engine is ready, twice; then three trainings
    assert sum(seconds.values()) <= view.total_s


def test_a_finished_run_in_view(finished: RunStore) -> None:
    view = RunView.replay(finished.events())
    assert view.ended == "finished"
    assert [view.students[num]["select"]["accuracy"] for num in (0, 1, 2)] == [0.775, 0.8125, 0.8375]
    assert view.test == {"accuracy": 0.8267, "macro_f1": 0.8251}
    assert view.rejected(1) == {"near_duplicate": 18, "copy_of_parent": 11, "truncated": 9, "unparsable": 2}
    assert view.num_lost == 1


def test_a_lost_engine_that_comes_back_is_ready_again(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)
    log.emit("engine_lost", engine="engine-1", problem="gone", in_flight=3, restarts=0)
    assert view.engines == {"engine-0": "ready", "engine-1": "lost"}
    start_engines(log, clock)
    assert view.engines == {"engine-0": "ready", "engine-1": "ready"}


def test_training_killed_and_done_again_counts_both_times(view: RunView, clock: Clock, store: RunStore) -> None:
    for attempt in (1, 2):
        log = EventLog(store, "quickstart", attempt, clock)
        log.listen(view.apply)
        start_run(log, resumed=attempt == 2)
        if attempt == 1:
            log.emit("student_started", round=0, rows=200, workers=2)
            clock.now += 20
            write_chunk(log, clock, 0, "seed", 0, 12, 200)  # any event: the clock moves with events only
        else:
            write_student(store, log, clock, 0, rows=200)
    assert view.seconds()["train"] == pytest.approx(28 + 34)
