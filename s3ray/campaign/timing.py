"""Where the time of a campaign's engines and train workers went, from its own events. Pure.

Train workers are there only while they start and work, so that is all there is to book of them: one lane for each run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from s3ray.monitor.accounting import BUSY, STARTING, Account, Lane, Span, account, shares
from s3ray.monitor.events import Event, TrainingFinished, TrainingStarted
from s3ray.monitor.records import to_plain


def campaign_account(events: Iterable[Event], campaign: str) -> Account:
    """Book the time of a campaign from its log, oldest event first; ``campaign`` is its name."""
    kept = list(events)
    return replace(account(kept, campaign), trainers=tuple(_trainers(kept)), students=())


def campaign_time(booked: Account) -> dict[str, Any]:
    """The shares of each state for ``compare.json``, and the busy part of the time in which engines existed."""
    time = {"engines": shares(booked.engines), "trainers": shares(booked.trainers)}
    return {"engine_busy_share": booked.engine_busy_share, "time": to_plain(time)}


def _trainers(events: Iterable[Event]) -> Iterator[Lane]:
    lanes: dict[str, Lane] = {}
    num_workers: dict[str, int] = {}
    for event in events:
        if isinstance(event, TrainingStarted):
            num_workers[event.run] = event.workers
        elif isinstance(event, TrainingFinished):
            run, seconds, end = event.run, event.seconds, event.time
            lane = lanes.setdefault(run, Lane(name=run, num=num_workers.get(run, 1)))
            begun = end - seconds["train"] - seconds["score"]
            lane.spans += [
                Span(state=STARTING, start=begun - seconds["start"], end=begun),
                Span(state=BUSY, start=begun, end=end),
            ]
    yield from lanes.values()
