"""Events: on disk before anyone hears of them, and read again as they were, also those of other versions."""

import json
import threading
from pathlib import Path

import pytest

from s3ray.errors import StoreError
from s3ray.telemetry.events import EVENTS, EngineReady, Event, EventLog, event_from_dict, read_events
from tests.events import an_event
from tests.monitor.run_folder import Clock, new_store


def test_an_event_is_on_disk_before_a_listener_hears_it(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 3, clock)
    on_disk_when_heard: list[list[dict[str, object]]] = []
    log.listen(lambda event: on_disk_when_heard.append(list(store.events())))
    log.emit(an_event("run_failed", problem="the disk is full"))
    expected = {
        "time": clock.now,
        "run": "quickstart",
        "attempt": 3,
        "event": "run_failed",
        "problem": "the disk is full",
    }
    assert on_disk_when_heard == [[expected]]
    assert json.loads(store.path("events.jsonl").read_text()) == expected


def test_an_event_comes_back_from_disk_as_it_was_heard(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    heard: list[Event] = []
    log.listen(heard.append)
    with log.within(round=2, phase="generate", stage="seed"):
        for name in EVENTS:
            log.emit(an_event(name, round=2, stage="seed"))
    assert [event.kind for event in heard] == [*EVENTS]
    assert list(read_events(store)) == heard
    assert {(event.round, event.phase, event.time) for event in heard} == {(2, "generate", clock.now)}


def test_fields_of_newer_versions_are_passed_over_and_those_that_older_ones_lack_have_defaults() -> None:
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 9, "max_model_len": 10, "num_kv_tokens": 11}
    record = {"time": 1.0, "run": "r", "attempt": 1, "event": "engine_ready", "engine": "engine-0", "seconds": 3.5}
    record |= {"limits": {**limits, "dtype": "float32", "device": "cpu", "colour": "red"}, "running": 1, "wanted": 2}
    event = event_from_dict({**record, "mood": "good"})
    assert isinstance(event, EngineReady)
    assert (event.seconds, event.limits.device_name) == (3.5, "")
    assert event_from_dict({"time": 1.0, "run": "r", "attempt": 1, "event": "came_later", "x": 1}).time == 1.0
    with pytest.raises(StoreError, match="engine_ready: limits"):
        event_from_dict({name: value for name, value in record.items() if name != "limits"})


def test_each_thread_is_at_a_place_of_its_own(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)

    def train() -> None:
        with log.within(round=0, phase="train"):
            trained.set()
            written.wait(20)
            log.emit(an_event("student_finished", round=0))

    trained, written = threading.Event(), threading.Event()
    thread = threading.Thread(target=train)
    thread.start()
    trained.wait(20)
    with log.within(round=1, phase="generate", stage="extrapolate"):
        log.emit(an_event("stage_started", round=1, stage="extrapolate"))
        written.set()
        thread.join(20)
        log.emit(an_event("stage_finished", round=1, stage="extrapolate"))
    places = [(event["event"], event["round"], event["phase"], event.get("stage")) for event in store.events()]
    assert places == [
        ("stage_started", 1, "generate", "extrapolate"),
        ("student_finished", 0, "train", None),
        ("stage_finished", 1, "generate", "extrapolate"),
    ]
