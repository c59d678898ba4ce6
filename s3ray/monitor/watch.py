"""Follows a run or a campaign by its folder alone: the files are the truth, wherever the driver is.

Ends with the run, or when no driver is at work any more.
"""

import math
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from s3ray.errors import RunError
from s3ray.files import Position
from s3ray.monitor.campaign import CampaignView, is_campaign, live_campaign, milestone_of_run
from s3ray.monitor.events import Event, read_events
from s3ray.monitor.progress import LiveProgress, make_progress, say
from s3ray.monitor.run_view import SILENT_S, RunView
from s3ray.monitor.summary import driver_is_there
from s3ray.store import RunStore

LOOK_EVERY_S = 2.0
GONE_S = 60.0
"""So long nobody may hold a folder in silence: a driver that starts again, or renews a lease, needs a moment."""
_PATIENCE_S = {True: math.inf, False: GONE_S, None: SILENT_S}
"""How long to wait for an event, by whether a driver is at work (None: that cannot be told)."""


def watch_run(store: RunStore, console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Show what happened in a run or a campaign and what happens, until it ends.

    Raises:
        InputError: the folder is neither a run's nor a campaign's.
        RunError: it failed, or no driver is at work any more.
    """
    if is_campaign(store):
        _watch_campaign(store, console, pause)
        return
    store = RunStore.existing(store.root)
    view = RunView()
    progress = make_progress(console, view)
    try:
        for event in follow(store, lambda: view.ended is not None, pause):
            progress(event)
    finally:
        progress.close()
    if view.ended == "failed":
        raise RunError(f"the run failed: {view.problem}", f"`s3ray status {store.root}` says what is safe on disk.")


def _watch_campaign(store: RunStore, console: Console, pause: Callable[[float], None]) -> None:
    view = CampaignView()
    live = LiveProgress(console, view, live_campaign, milestone_of_run) if console.is_terminal else None
    try:
        for event in follow(store, lambda: view.ended, pause):
            if live is not None:
                live(event)
                continue
            view.apply(event)
            if line := milestone_of_run(event):
                say(console, line)
    finally:
        if live is not None:
            live.close()
    failed = [name for name, run in view.runs.items() if run.ended == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {view.num_runs} runs failed: {', '.join(failed)}")


def follow(store: RunStore, has_ended: Callable[[], bool], pause: Callable[[float], None]) -> Iterator[Event]:
    """The events of a folder, those to come included, until all that are there say that it ``has_ended``.

    Raises:
        RunError: no driver is at work, and nothing says that it ended.
    """
    position: Position = {}
    heard_at = time.monotonic()
    while True:
        for event in read_events(store, position):
            heard_at = time.monotonic()
            yield event
        if has_ended():
            return
        silent_s = time.monotonic() - heard_at
        if silent_s > GONE_S and silent_s > _PATIENCE_S[driver_is_there(store)]:
            raise RunError("no driver is at work", f"`s3ray status {store.root}` says what is safe on disk.")
        pause(LOOK_EVERY_S)
