"""The time of a campaign: overlapping runs are one to the engines, and train workers count while they are there."""

from typing import Any

import pytest

from s3ray.campaign.page import time_json
from s3ray.monitor.accounting import account
from s3ray.monitor.events import Event
from tests.events import an_event


def event(time: float, name: str, run: str = "all", attempt: int = 1, **fields: Any) -> Event:
    return an_event(name, time=time, run=run, attempt=attempt, **fields)


def dealt(time: float, busy_s: float) -> Event:
    return event(time, "answers_dealt", engines={"engine-0": {"busy_s": busy_s, "restarts": 0}})


SECONDS = {"start": 4.0, "train": 5.0, "score": 1.0}
EVENTS = [
    event(0, "campaign_started"),
    event(0, "stage_started", "a", round=0, stage="seed"),
    event(0, "engine_starting", engine="engine-0", restarts=0),
    event(10, "engine_ready", engine="engine-0"),
    event(12, "stage_started", "b", round=0, stage="seed"),
    dealt(20, 10.0),
    event(20, "stage_finished", "a", round=0, stage="seed"),
    event(20, "student_started", "a", round=0, workers=2),
    dealt(30, 18.0),
    event(30, "stage_finished", "b", round=0, stage="seed"),
    event(32, "student_finished", "a", round=0, seconds=SECONDS),
    event(32, "student_started", "b", round=0, workers=1),
    event(44, "student_finished", "b", round=0, seconds=SECONDS),
    event(50, "engine_stopped", engine="engine-0"),
    event(50, "campaign_finished"),
]


def test_an_engine_works_while_any_run_writes_and_waits_while_they_only_train() -> None:
    booked = account(EVENTS, "all")
    (lane,) = booked.engines
    assert lane.seconds == {
        "starting": 10.0,
        "busy": 18.0,
        "waiting for work": 2.0 + 6.0,
        "waiting for the other phase": 14.0,
    }
    assert booked.engine_busy_share == pytest.approx(18 / 50)


def test_train_workers_count_while_they_are_there_and_not_while_they_queue() -> None:
    first, second = account(EVENTS, "all").trainers
    assert (first.name, first.num, second.name, second.num) == ("a", 2, "b", 1)
    assert first.seconds == second.seconds == {"starting": 4.0, "busy": 6.0}
    time = time_json(account(EVENTS, "all"))["time"]
    assert time["trainers"]["seconds"] == 30.0
    assert time["trainers"]["busy"] == pytest.approx(0.6)
    assert sum(share for name, share in time["engines"].items() if name != "seconds") == pytest.approx(1.0)


def test_a_run_that_fails_and_a_killed_campaign_leave_nothing_open() -> None:
    failing = [
        *EVENTS[:5],
        event(20, "run_failed", "a"),
        event(22, "run_failed", "b"),
        event(30, "engine_stopped", engine="engine-0"),
        event(100, "campaign_started", attempt=2),
        event(101, "stage_started", "a", attempt=2, round=0, stage="seed"),
        event(101, "engine_starting", attempt=2, engine="engine-0", restarts=0),
        event(105, "engine_ready", attempt=2, engine="engine-0"),
        event(110, "stage_finished", "a", attempt=2, round=0, stage="seed"),
        event(110, "engine_stopped", attempt=2, engine="engine-0"),
    ]
    booked = account(failing, "all")
    assert [window for _, window in booked.stages] == [(0, 22), (101, 110)]
    assert sum(booked.engines[0].seconds.values()) == pytest.approx(30 + 9)


def test_a_checker_and_a_student_of_another_run_are_trained_at_once() -> None:
    checking = [
        event(0, "campaign_started"),
        event(0, "engine_starting", engine="engine-0", restarts=0),
        event(1, "engine_ready", engine="engine-0"),
        event(1, "checker_started", "a", round=0, workers=2),
        event(2, "student_started", "b", round=0, workers=1),
        event(11, "checker_finished", "a", round=0, seconds=SECONDS),
        event(12, "student_finished", "b", round=0, seconds=SECONDS),
        event(12, "campaign_finished"),
    ]
    booked = account(checking, "all")
    assert [(lane.name, lane.num, lane.seconds["busy"]) for lane in booked.trainers] == [("a", 2, 6.0), ("b", 1, 6.0)]
    assert booked.engines[0].seconds["waiting for the other phase"] == 11
