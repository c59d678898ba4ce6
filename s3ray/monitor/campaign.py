"""The state of a campaign, one line for each run, folded from its own events, for status and watch.

A campaign's folder holds a folder for each run, and events of its own: those of the engines that its runs share, and
those of each run that begin or end something.
"""

import contextlib
import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3ray.errors import InputError, RunError
from s3ray.monitor.run_view import SILENT_S, RunView
from s3ray.monitor.terminal import Progress, driver_is_there, engines_text, facts_table, make_progress, milestone
from s3ray.storage.local import Position, join
from s3ray.storage.run_folder import METRICS, RunStore
from s3ray.telemetry.events import AnswersDealt, CampaignFinished, CampaignStarted, Event, RunStopped, read_events
from s3ray.text import duration, scores

_MOST_LINES = 24
_STYLES = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "interrupted": "yellow"}


@dataclass(slots=True, kw_only=True)
class CampaignView:
    """The state of a campaign after some of its events: its runs by name, and ``pool``, which has its engines."""

    name: str = ""
    num_runs: int = 0
    ended: bool = False
    stopped: str = ""
    runs: dict[str, RunView] = field(default_factory=dict)
    pool: RunView = field(default_factory=RunView)

    @classmethod
    def replay(cls, events: Iterable[Event]) -> "CampaignView":
        """The view after all of ``events``, oldest first."""
        view = cls()
        for event in events:
            view.apply(event)
        return view

    def apply(self, event: Event) -> None:
        """Apply one event."""
        if isinstance(event, CampaignStarted):
            self.name, self.num_runs, self.ended, self.stopped = event.run, event.runs, False, ""
        if event.run == self.name:
            self.pool.apply(event)
            self.ended = self.ended or isinstance(event, CampaignFinished)
            if isinstance(event, RunStopped):
                self.stopped = event.problem
        else:
            self.runs.setdefault(event.run, RunView()).apply(event)

    def state(self, run: str, *, is_held: bool) -> str:
        """The state of a run; ``is_held``: a driver is at work."""
        return self.runs[run].ended or ("running" if is_held and not self.ended else "interrupted")

    def counts(self, *, is_held: bool) -> str:
        """How many runs are in which state: ``12 runs: 5 finished, 3 running, 4 not begun``."""
        states = Counter(self.state(run, is_held=is_held) for run in self.runs)
        states["not begun"] = self.num_runs - len(self.runs)
        return f"{self.num_runs} runs: {', '.join(f'{num} {state}' for state, num in states.items() if num > 0)}"


def is_campaign(store: RunStore) -> bool:
    """Whether a folder is a campaign's."""
    return isinstance(next(read_events(store), None), CampaignStarted | CampaignFinished | AnswersDealt)


def campaign_status(store: RunStore, now: float) -> RenderableType:
    """The state of a campaign at ``now`` (unix seconds), from its folder alone."""
    view = CampaignView.replay(read_events(store))
    _look_into_runs(view, store)
    is_held = driver_is_there(store) is not False
    parts: list[RenderableType] = [_head(view, now, is_held=is_held), runs_table(view, list(view.runs), is_held)]
    if view.ended and store.has("compare.html"):
        parts.append(Text(f"Look at it: {store.url('compare.html')}", overflow="fold"))
    elif not view.ended:
        again = "Nothing to do. Should it be killed," if is_held else "Go on:"
        parts.append(Text(f"{again} the same `s3ray compare` command goes on from what is on disk."))
    return Group(*parts)


def _look_into_runs(view: CampaignView, store: RunStore) -> None:
    """Read unfinished runs from their own folders: they may have gone on alone, or been copied here finished."""
    for name in sorted(store.entries()):
        if name in view.runs and view.runs[name].ended == "finished":
            continue
        with contextlib.suppress(InputError):
            own = RunStore.existing(join(store.root, name))
            view.runs[name] = RunView.replay(read_events(own))
            if not view.runs[name].attempt and own.has(METRICS):  # a light copy has no events
                view.runs[name].ended = "finished"


def live_campaign(view: CampaignView, now: float) -> RenderableType:
    """A running campaign on one screen: its state and the runs in progress."""
    under_way = [name for name, run in view.runs.items() if not run.ended]
    return Group(Text(), _head(view, now, is_held=True), runs_table(view, under_way[:_MOST_LINES], is_held=True))


def milestone_of_run(event: Event) -> str | None:
    """The line that stays in the log for this event, with the name of its run; None if it is not worth one."""
    line = milestone(event)
    return None if line is None else f"[{event.run}] {line}"


def runs_table(view: CampaignView, names: Iterable[str], is_held: bool) -> Table:
    """A line for each of these runs; narrow enough for 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    columns: dict[str, Callable[[RunView], str]] = {
        "round": lambda run: f"{run.round}/{run.last_round}",
        "doing": lambda run: "" if run.ended else run.phase,
        "selection": _last_score,
        "test": lambda run: scores(dict(list((run.test or {}).items())[:1])),
        "work": lambda run: duration(run.total_s),
    }
    for column in ("run", "state", *columns):
        table.add_column(column, no_wrap=column != "run", overflow="fold")
    for name in names:
        run, state = view.runs[name], view.state(name, is_held=is_held)
        table.add_row(name, Text(state, style=_STYLES.get(state, "")), *(cell(run) for cell in columns.values()))
    return table


def _last_score(run: RunView) -> str:
    if not run.students:
        return ""
    name, value = next(iter(run.students[max(run.students)].select.items()))
    return f"{name} {value:.3f}"


def _head(view: CampaignView, now: float, *, is_held: bool) -> RenderableType:
    return facts_table(
        ("campaign", view.name),
        ("state", _state(view, now, is_held=is_held)),
        ("runs", view.counts(is_held=is_held)),
        ("engines", engines_text(view.pool) if view.pool.engines and is_held and not view.ended else None),
    )


def _state(view: CampaignView, now: float, *, is_held: bool) -> Text:
    if view.ended:
        failed = any(run.ended == "failed" for run in view.runs.values())
        return Text("ended, with failed runs", style="red") if failed else Text("finished", style="green")
    latest = max((each.updated or 0.0 for each in (view.pool, *view.runs.values())), default=0.0)
    age = f"last event {duration(max(0.0, now - latest))} ago"
    if is_held:
        return Text(f"running, {age}", style="cyan")
    if view.stopped:
        return Text(f"{view.stopped}, {age}", style="yellow")
    return Text(f"not finished, and no driver is at work, {age}: probably killed", style="yellow")


LOOK_EVERY_S = 2.0
GONE_S = 60.0
"""Seconds without an event or a driver before a run counts as dead: a driver that restarts needs a moment."""
_PATIENCE_S = {True: math.inf, False: GONE_S, None: SILENT_S}
"""How long to wait for an event, by whether a driver is at work (None: unknown)."""


def watch_run(store: RunStore, console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Show the past and new events of a run or a campaign until it ends.

    Raises:
        InputError: the folder is neither a run's nor a campaign's.
        RunError: it failed, or no driver is at work any more.
    """
    if is_campaign(store):
        _watch_campaign(store, console, pause)
        return
    store = RunStore.existing(store.root)
    view = RunView()
    with contextlib.closing(make_progress(console, view)) as progress:
        for event in follow(store, lambda: view.ended is not None, pause):
            progress(event)
    if view.ended == "failed":
        raise RunError(f"the run failed: {view.problem}", _ask_status(store))
    if view.ended == "stopped":
        raise RunError(f"the run was {view.problem}", "The same `s3ray run` command goes on from what is on disk.")


def _watch_campaign(store: RunStore, console: Console, pause: Callable[[float], None]) -> None:
    view = CampaignView()
    with contextlib.closing(Progress(console, view.apply, partial(live_campaign, view), milestone_of_run)) as progress:
        for event in follow(store, lambda: view.ended or bool(view.stopped), pause):
            progress(event)
    if view.stopped:
        hint = "The same `s3ray compare` command goes on from what is on disk."
        raise RunError(f"the campaign was {view.stopped}", hint)
    failed = [name for name, run in view.runs.items() if run.ended == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {view.num_runs} runs failed: {', '.join(failed)}")


def follow(store: RunStore, has_ended: Callable[[], bool], pause: Callable[[float], None]) -> Iterator[Event]:
    """Yield the events of a folder, then new ones as they come, until all are read and ``has_ended()`` is true.

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
            raise RunError("no driver is at work", _ask_status(store))
        pause(LOOK_EVERY_S)


def _ask_status(store: RunStore) -> str:
    return f"`{shlex.join(['s3ray', 'status', store.root])}` says what is safe on disk."
