import json
import threading
from pathlib import Path

import pytest

from s3ray.monitor.events import EVENTS, Event, EventLog
from s3ray.monitor.view import _FOLDS
from tests.monitor.run_folder import Clock, new_store


def test_an_event_is_on_disk_before_a_listener_hears_it(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 3, clock)
    on_disk_when_heard: list[list[Event]] = []
    log.listen(lambda event: on_disk_when_heard.append(list(store.events())))
    log.emit("run_failed", problem="the disk is full")
    expected = {
        "time": clock.now,
        "run": "quickstart",
        "attempt": 3,
        "event": "run_failed",
        "problem": "the disk is full",
    }
    assert on_disk_when_heard == [[expected]]
    assert json.loads(store.path("events.jsonl").read_text()) == expected


def test_an_unknown_event_is_refused_and_not_written(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    with pytest.raises(ValueError, match="run_finnished"):
        EventLog(store, "quickstart", 1, clock).emit("run_finnished")
    assert list(store.events()) == []


def test_each_thread_is_at_a_place_of_its_own(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)

    def train() -> None:
        with log.within(round=0, phase="train"):
            trained.set()
            written.wait(20)
            log.emit("student_finished")

    trained, written = threading.Event(), threading.Event()
    thread = threading.Thread(target=train)
    thread.start()
    trained.wait(20)
    with log.within(round=1, phase="generate", stage="extrapolate"):
        log.emit("stage_started")
        written.set()
        thread.join(20)
        log.emit("stage_finished")
    places = [(event["event"], event["round"], event["phase"], event.get("stage")) for event in store.events()]
    assert places == [
        ("stage_started", 1, "generate", "extrapolate"),
        ("student_finished", 0, "train", None),
        ("stage_finished", 1, "generate", "extrapolate"),
    ]


def test_every_event_is_folded_into_the_view() -> None:
    assert set(_FOLDS) == set(EVENTS)
