from pathlib import Path

import pytest

from s3ray.monitor.run_view import SILENT_S, Load, RunView
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import EventLog, read_events
from s3ray.types import EngineReport
from tests.events import an_event
from tests.monitor.run_folder import (
    Clock,
    new_store,
    report,
    restart_engine,
    start_engines,
    start_run,
    write_chunk,
    write_student,
)


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
    log.emit(an_event("engine_starting", engine="engine-0", restarts=0))
    phases: list[str] = [view.phase]
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    phases.append(view.phase)
    log.emit(an_event("student_started", round=0, rows=200, workers=2))
    phases.append(view.phase)
    assert phases == ["start", "generate", "train"]
    assert view.state(clock.now + 1) == "running"
    assert view.state(clock.now + SILENT_S) == "unknown"
    log.emit(an_event("run_failed", problem="no engine left"))
    assert view.state(clock.now + SILENT_S) == "failed"
    assert view.problem == "no engine left"


def test_rate_and_eta_come_from_the_recent_chunks(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    assert view.tokens_per_s is None
    chunk = {"round": 0, "stage": "seed", "rows": 20, "ok": 20, "rejected": {}, "failed": {}, "engines": {}}
    chunk |= {"prompt_tokens": 0, "cached_tokens": 0, "target": 200, "starving": []}
    # A slow first minute must not weigh on what is fast at the end: 10 s a chunk, 10 accepted and 1000 tokens each.
    clock.now += 60
    log.emit(an_event("chunk_written", chunk="a", output_tokens=10, accepted=1, **chunk))
    for num in range(5):
        clock.now += 10
        log.emit(an_event("chunk_written", chunk=str(num), output_tokens=1000, accepted=11 + 10 * num, **chunk))
    assert view.tokens_per_s == pytest.approx(100)
    assert view.eta_s == pytest.approx((200 - 51) / 1.0)


def test_a_second_attempt_goes_on_and_counts_nothing_twice(finished: RunStore) -> None:
    events = list(read_events(finished))
    second = next(i for i, event in enumerate(events) if event.attempt == 2)
    view = RunView.replay(events[:second])
    assert view.stages[0, "seed"].accepted == 72
    for event in events[second:]:
        view.apply(event)
        if event.kind == "chunk_written":
            break
    seed = view.stages[0, "seed"]
    assert (view.attempt, seed.accepted, seed.outcomes, seed.rejected["truncated"]) == (2, 84, 140, 28)
    view.apply(event)
    assert seed.outcomes == 140


def test_pauses_between_attempts_are_not_working_time(finished: RunStore) -> None:
    view = RunView.replay(read_events(finished))
    assert view.total_s < 600
    seconds = view.seconds()
    assert seconds["train"] == pytest.approx(34 + 42 + 50)
    assert seconds["start"] == pytest.approx(2 * 9 + 3 * 6)  # until one engine is ready, twice; then three trainings
    assert sum(seconds.values()) <= view.total_s


def test_a_finished_run_in_view(finished: RunStore) -> None:
    view = RunView.replay(read_events(finished))
    assert view.ended == "finished"
    assert [view.students[num].select["accuracy"] for num in (0, 1, 2)] == [0.775, 0.8125, 0.8375]
    assert view.test == {"accuracy": 0.8267, "macro_f1": 0.8251}
    assert view.rejected(1) == {"near_duplicate": 18, "copy_of_parent": 11, "truncated": 9, "unparsable": 2}
    assert view.num_lost == 1


def test_a_lost_engine_that_comes_back_is_ready_again(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("engine_lost", engine="engine-1", problem="gone", in_flight=3, restarts=0))
    assert view.engines == {"engine-0": "ready", "engine-1": "lost"}
    start_engines(log, clock)
    assert view.engines == {"engine-0": "ready", "engine-1": "ready"}


def test_training_killed_and_done_again_counts_both_times(view: RunView, clock: Clock, store: RunStore) -> None:
    for attempt in (1, 2):
        log = EventLog(store, "quickstart", attempt, clock)
        log.listen(view.apply)
        start_run(log, resumed=attempt == 2)
        if attempt == 1:
            log.emit(an_event("student_started", round=0, rows=200, workers=2))
            clock.now += 20
            write_chunk(log, clock, 0, "seed", 0, 12, 200)  # any event: the clock moves with events only
        else:
            write_student(store, log, clock, 0, rows=200)
    assert view.seconds()["train"] == pytest.approx(28 + 34)


def test_a_student_that_is_scored_while_the_next_round_is_written_counts_for_both(
    log: EventLog, view: RunView, clock: Clock
) -> None:
    start_run(log)
    start_engines(log, clock)
    before = view.seconds()
    log.emit(an_event("student_started", round=0, rows=200, workers=2))
    clock.now += 20
    log.emit(an_event("stage_started", round=1, stage="extrapolate", target=None, known=0))
    assert view.phase == "generate"
    clock.now += 5
    seconds = {"start": 2.0, "train": 17.0, "score": 6.0}
    log.emit(an_event("student_finished", round=0, rows=200, select={}, mistakes=3, mined=9, seconds=seconds))
    clock.now += 3
    log.emit(an_event("engine_stopped", engine="engine-0"))
    spent = {phase: value - before[phase] for phase, value in view.seconds().items()}
    assert spent == pytest.approx({"start": 2, "train": 17, "score": 6, "generate": 8})
    assert view.spent[1, "generate"] == pytest.approx(8)


def test_engines_that_wait_or_are_given_up_are_told_apart(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("engine_waiting", engine="engine-2", problem="no node has room for it", running=2, wanted=4))
    log.emit(an_event("engine_given_up", engine="engine-3", problem="ended", running=2, wanted=4))
    assert view.engines == {"engine-0": "ready", "engine-1": "ready", "engine-2": "waiting", "engine-3": "given up"}
    log.emit(an_event("engine_stopped", engine="engine-0"))
    assert view.engines["engine-0"] == "stopped"


def test_time_in_which_no_engine_works_is_waiting_for_engines(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    waited = view.seconds()["start"]
    for num, state in enumerate(("engine_lost", "engine_waiting")):
        log.emit(an_event(state, engine=f"engine-{num}", problem="gone"))
    assert view.phase == "start"
    clock.now += 40
    log.emit(an_event("engine_starting", engine="engine-0", restarts=1))
    assert view.seconds()["start"] == waited + 40
    log.emit(an_event("round_closed", round=2))
    assert view.phase != "start"  # there is nothing left to write


def _emit_chunk(log: EventLog, name: str, **engines: EngineReport) -> None:
    log.emit(an_event(
        "chunk_written", round=0, stage="seed", chunk=name, rows=20, ok=20, rejected={}, failed={}, prompt_tokens=0,
        cached_tokens=0, output_tokens=0, accepted=0, target=200, starving=[], engines=engines,
    ))  # fmt: skip


def test_what_an_engine_did_is_the_sum_over_its_starts(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)

    def tell(name: str, prompt_tokens: int, **more: float) -> None:
        counts = {"prompt_tokens": prompt_tokens, "cached_tokens": prompt_tokens // 2, "preemptions": 2}
        _emit_chunk(log, name, **{"engine-0": report(clock, "engine-0", output_tokens=50, **{**counts, **more})})

    tell("a", 100)
    tell("b", 1000)
    restart_engine(log, clock, "engine-0")
    tell("late", 1200, restarts=0)  # told before its death, written after its next start
    assert view.pool.load.running == 0
    tell("c", 2000)  # more than before its death: no drop gives the restart away
    log.emit(an_event("engine_stopped", engine="engine-0"))
    log.emit(an_event("engine_starting", engine="engine-0", restarts=1))
    tell("d", 3000)
    usage = view.pool.engines["engine-0"].usage
    assert (usage.rows, usage.output_tokens, usage.restarts) == (50, 250, 1)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.preemptions) == (6200, 3100, 6)
    assert usage.prefix_hit_rate == 0.5


def test_a_later_attempt_adds_to_what_engines_did(view: RunView, clock: Clock, store: RunStore) -> None:
    for attempt in (1, 2):
        log = EventLog(store, "quickstart", attempt, clock)
        log.listen(view.apply)
        start_run(log, resumed=attempt == 2)
        assert view.pool.load.running == 0
        start_engines(log, clock)
        restart_engine(log, clock, "engine-0")
        _emit_chunk(log, str(attempt), **{"engine-0": report(clock, "engine-0", prompt_tokens=700)})
        assert view.pool.load.running == 24
    usage = view.pool.usage
    assert (usage.prompt_tokens, usage.restarts) == (1400, 2)


def test_the_load_of_the_pool_is_that_of_its_living_engines(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)
    both = {name: report(clock, name, running=20, waiting=4, kv_use=0.2) for name in ("engine-0", "engine-1")}
    _emit_chunk(log, "a", **both)
    assert (view.pool.load.running, view.pool.load.waiting) == (40, 8)
    log.emit(an_event("engine_lost", engine="engine-1", problem="gone", in_flight=24, restarts=0))
    _emit_chunk(log, "b", **both | {"engine-0": report(clock, "engine-0", running=30, kv_use=0.6)})
    assert (view.pool.load.running, view.pool.load.waiting, view.pool.load.kv_use) == (30, 0, 0.6)
    total = view.pool.usage
    peak = Load(running=total.peak_running, waiting=total.peak_waiting, kv_use=total.peak_kv_use)
    assert (peak.running, peak.waiting, peak.kv_use) == (40, 8, 0.6)


def test_chunks_that_say_nothing_of_engines_leave_the_pool_empty(log: EventLog, view: RunView) -> None:
    start_run(log)
    _emit_chunk(log, "a")
    assert not view.pool.has_reported
    assert (view.pool.usage.output_tokens, view.pool.usage.prefix_hit_rate) == (0, None)


def test_labels_starve_until_the_stage_ends(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    write_chunk(log, clock, 0, "seed", 0, 12, 200, "positive")
    assert view.stage is not None
    assert view.stage.starving == ("positive",)
    write_chunk(log, clock, 0, "seed", 1, 24, 200)
    assert not view.stage.starving
    write_chunk(log, clock, 0, "seed", 2, 36, 200, "positive")
    counts = {"accepted": 36, "requested": 60, "rejected": {}, "failed": {}, "output_tokens": 0}
    log.emit(
        an_event("stage_finished", round=0, stage="seed", **counts, short={"positive": 9}, seconds=9.0, given_up=0)
    )
    assert not view.stage.starving


def test_an_engine_is_busy_or_not_only_while_the_run_generates(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    start_engines(log, clock)
    for num in range(2):
        log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
        clock.now += 50
        _emit_chunk(log, str(num), **{"engine-0": report(clock, "engine-0", busy_s=40.0 * (num + 1))})
        log.emit(an_event("student_started", round=0, rows=200, workers=2))
        clock.now += 1000
        log.emit(an_event("student_finished", round=0, seconds={"start": 0.0, "train": 1000.0, "score": 0.0}))
    usage = view.pool.usage
    lives = view.pool.engines["engine-0"].lives.values()
    busy_s, open_s = sum(life.report.busy_s for life in lives), sum(life.open_s for life in lives)
    assert [busy_s, open_s, usage.busy_share] == pytest.approx([80, 100, 0.8])


def test_engines_stand_in_the_order_of_their_numbers(log: EventLog, view: RunView) -> None:
    for num in (10, 2, 0):
        log.emit(an_event("engine_starting", engine=f"engine-{num}", restarts=0))
    assert list(view.pool.by_name) == ["engine-0", "engine-2", "engine-10"]


def test_a_checker_is_no_student(log: EventLog, view: RunView, clock: Clock) -> None:
    start_run(log)
    log.emit(an_event("checker_started", round=0, rows=300, workers=2))
    assert view.phase == "train"
    clock.now += 20
    seconds = {"start": 2.0, "train": 17.0, "score": 1.0}
    log.emit(an_event("checker_finished", round=0, rows=300, select={"accuracy": 0.8}, seconds=seconds))
    assert (view.student, view.students) == (None, {})
    assert view.seconds()["train"] == pytest.approx(17)
