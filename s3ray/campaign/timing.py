"""Where the time of a campaign's engines and train workers went, from its own events. Pure.

Engines serve many stages at once, and many students train at once: for the engines' account the campaign is one run
that writes while any of its runs does, and trains while any of its runs does. Train workers are there only while they
start and work, so that is all there is to book of them: one lane for each run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from s3ray.monitor.accounting import BUSY, STARTING, Account, Lane, Span, account, shares
from s3ray.monitor.events import Event

_BEGINS = {"stage_started": "stage_finished", "student_started": "student_finished"}
_ENDS = {end: begin for begin, end in _BEGINS.items()}
_TRAININGS = {"checker_started": "student_started", "checker_finished": "student_finished"}


def campaign_account(events: Iterable[Event], campaign: str) -> Account:
    """Book the time of a campaign from its log, oldest event first; ``campaign`` is its name."""
    kept = [_of_students(event) for event in events]
    return replace(account(_as_one_run(kept, campaign)), trainers=tuple(_trainers(kept)), students=())


def campaign_time(booked: Account) -> dict[str, Any]:
    """The shares of each state for ``compare.json``, and the busy part of the time in which engines existed."""
    return {
        "engine_busy_share": booked.engine_busy_share,
        "time": {"engines": shares(booked.engines), "trainers": shares(booked.trainers)},
    }


def _of_students(event: Event) -> Event:
    """The training of a checker takes the same workers as that of a student; ``stage`` tells them apart."""
    name = event["event"]
    return event | {"event": _TRAININGS[name], "stage": "checker"} if name in _TRAININGS else event


def _as_one_run(events: Iterable[Event], campaign: str) -> Iterator[Event]:
    """The events of engines, and of the first to begin and the last to end among overlapping stages and students."""
    attempt = 0
    open_: dict[str, set[tuple[str, int, str]]] = {}
    for event in events:
        if event["run"] == campaign and event["attempt"] != attempt:
            attempt, open_ = event["attempt"], {begin: set() for begin in _BEGINS}
        name, placed = event["event"], event | {"attempt": attempt}
        who = (event["run"], event.get("round", 0), event.get("stage", ""))
        if name == "answers_dealt":
            yield placed | {"event": "chunk_written"}
        elif name.startswith("engine_") or name.startswith("campaign_"):
            yield placed
        elif name in _BEGINS:
            open_[name].add(who)
            if len(open_[name]) == 1:
                yield placed
        elif name in _ENDS or name == "run_failed":
            for begin in [_ENDS[name]] if name in _ENDS else list(_BEGINS):
                gone = {who} if name in _ENDS else {each for each in open_[begin] if each[0] == event["run"]}
                if open_[begin] and not open_[begin] - gone:
                    yield placed | {"event": _BEGINS[begin], "seconds": {}}
                open_[begin] -= gone


def _trainers(events: Iterable[Event]) -> Iterator[Lane]:
    lanes: dict[str, Lane] = {}
    num_workers: dict[str, int] = {}
    for event in events:
        if event["event"] == "student_started":
            num_workers[event["run"]] = event["workers"]
        elif event["event"] == "student_finished":
            run, seconds, end = event["run"], event["seconds"], event["time"]
            lane = lanes.setdefault(run, Lane(name=run, num=num_workers.get(run, 1)))
            begun = end - seconds["train"] - seconds["score"]
            lane.spans += [
                Span(state=STARTING, start=begun - seconds["start"], end=begun),
                Span(state=BUSY, start=begun, end=end),
            ]
    yield from lanes.values()
