"""Progress for people who watch a run: a live table on a terminal, plain lines in a log.

Invariant: shows only what the events say, so that a resumed run shows the same as an undisturbed one.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from s3ray.methods import STAGES_ASIDE
from s3ray.monitor.events import (
    CheckerFinished,
    CheckerStarted,
    ChunkWritten,
    EngineEvent,
    EngineGivenUp,
    EngineLost,
    EngineReady,
    EngineWaiting,
    Event,
    RoundLinked,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StudentFinished,
    StudentLinked,
    TestScored,
    TrainingFinished,
    TrainingStarted,
)
from s3ray.monitor.run_view import RunView, StageView

PLAIN_EVERY_S = 5.0
_STATES = ("ready", "starting", "waiting", "lost", "given up", "stopped")


class Foldable(Protocol):
    """A view that events are folded into."""

    def apply(self, event: Event) -> None:
        """Fold one event in."""
        ...


View = TypeVar("View", bound=Foldable)


def make_progress(console: Console, view: RunView | None = None) -> "LiveProgress[RunView] | PlainProgress":
    """A listener on an ``EventLog``: live progress where ``console`` is a terminal, else plain lines. To be closed.

    ``view`` is what earlier attempts of the run came to (``RunView.replay``), so that a resumed run shows it.
    """
    view = view or RunView()
    if console.is_terminal:
        return LiveProgress(console, view, live_table, milestone)
    return PlainProgress(console, view)


class PlainProgress:
    """One line per milestone, and one at most every ``PLAIN_EVERY_S`` while a stage is being written."""

    def __init__(self, console: Console, view: RunView) -> None:
        self._console = console
        self._view = view
        self._said = 0.0

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        self._view.apply(event)
        line = milestone(event)
        if line is None and isinstance(event, ChunkWritten) and event.time - self._said >= PLAIN_EVERY_S:
            line = stage_line(self._view)
        if line is not None:
            self._said = event.time
            say(self._console, line)

    def close(self) -> None:
        """Nothing is held."""


class LiveProgress(Generic[View]):
    """A table that is redrawn in place, under the milestones, which stay on the screen."""

    def __init__(
        self,
        console: Console,
        view: View,
        draw: Callable[[View, float], RenderableType],
        tell: Callable[[Event], str | None],
    ) -> None:
        self._view = view
        self._picture = draw
        self._tell = tell
        # Rich redraws from a thread of its own while the driver's thread folds events in.
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=2, transient=True)
        self._live.start()

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        with self._lock:
            self._view.apply(event)
            line = self._tell(event)
        if line is not None:
            say(self._live.console, line)

    def close(self) -> None:
        """Take the table off the screen; the milestones stay."""
        self._live.stop()

    def _draw(self) -> RenderableType:
        with self._lock:
            return self._picture(self._view, time.time())


def say(console: Console, line: str) -> None:
    """Print one line as it is: no markup, no colours, no wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


# -- what is said ------------------------------------------------------------------------------------------------------


def stage_line(view: RunView) -> str:
    """How far the stage in work is: ``[round 1 extrapolate] 120/200 accepted, 143 tok/s, ETA 35 s``; who starves."""
    stage = view.stage
    if stage is None:
        return f"[round {view.round}] {view.phase}"
    parts = [f"{stage.accepted}{f'/{stage.target}' if stage.target is not None else ''} accepted"]
    if view.tokens_per_s is not None:
        parts.append(f"{view.tokens_per_s:.0f} tok/s")
    if view.eta_s is not None:
        parts.append(f"ETA {duration(view.eta_s)}")
    starving = f"; {starving_text(stage)}" if stage.starving else ""
    return f"[round {stage.round} {stage.name}] {', '.join(parts)}{starving}"


def starving_text(stage: StageView) -> str:
    """Which labels will miss their quota: ``label positive starves: too few of its requests become examples``."""
    match stage.starving:
        case ("",):  # one quota for all labels
            who = "the stage starves: too few of its"
        case (label,):
            who = f"label {label} starves: too few of its"
        case labels:
            more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
            who = f"labels {', '.join(labels[:5])}{more} starve: too few of their"
    return f"{who} requests become examples"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``35 s``, ``4 min 10 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counts(by_reason: Mapping[str, int], at_most: int = 20) -> str:
    """Counts, largest first: ``duplicate 20, truncated 3``; what is beyond ``at_most`` is summed up."""
    ordered = sorted(((n, reason) for reason, n in by_reason.items() if n), key=lambda item: (-item[0], item[1]))
    parts = [f"{reason or 'rows'} {n}" for n, reason in ordered[:at_most]]
    rest = sum(n for n, _ in ordered[at_most:])
    return ", ".join([*parts, f"other {rest}"] if rest else parts)


def short_count(num: int) -> str:
    """A count in at most five letters: ``950``, ``12.3k``, ``4.6M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if num >= size:
            return f"{num / size:.1f}{unit}" if num < 100 * size else f"{num // size}{unit}"
    return str(num)


def scores(values: Mapping[str, float]) -> str:
    """Metrics as text: ``accuracy 0.812, macro_f1 0.811``."""
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def milestone(event: Event) -> str | None:
    """The line that stays in the log for this event, or None if it is not worth one."""
    match event:
        case RunStarted():
            verb = "goes on" if event.resumed else "starts"
            return f"[run] {event.run} {verb}: {event.strategy} on {event.task}, {event.rounds + 1} round(s)"
        case EngineEvent():
            said = _say_engine(event)
            return said and f"[engines] {event.engine} {said}"
        case StageStarted():
            return _say_stage(event)
        case StageFinished():
            return _say_stage_end(event)
        case RoundLinked():
            return f"[round {event.round}] is that of {event.from_run}, and was copied"
        case StudentLinked():
            return f"[{event.student}] is that of {event.from_run}, and was copied"
        case TrainingStarted() | TrainingFinished():
            return _say_training(event)
        case TestScored():
            return f"[test] {scores(event.test)} on {event.num_examples} examples"
        case RunFinished():
            return f"[run] finished in {duration(event.seconds)}"
        case RunFailed():
            return f"[run] failed: {event.problem}"
    return None


def _say_engine(event: EngineEvent) -> str | None:
    match event:
        case EngineReady(limits=limits):
            return (
                f"ready in {duration(event.seconds)} ({limits.device}, {limits.dtype}, "
                f"{limits.max_num_seqs} sequences, {limits.max_num_batched_tokens} tokens a step)"
            )
        case EngineLost():
            return f"lost with {event.in_flight} request(s) in flight: {event.problem}"
        case EngineWaiting():
            return f"waits: {event.problem}; {_strength(event)}"
        case EngineGivenUp():
            return f"given up: {event.problem}; {_strength(event)}"
    return None


def _strength(event: EngineWaiting | EngineGivenUp) -> str:
    if not event.running:
        return f"none of {event.wanted} engine(s) runs"
    return f"the run goes on with {event.running} of {event.wanted} engine(s)"


def _say_stage(event: StageStarted) -> str:
    known = f", {event.known} outcome(s) already on disk" if event.known else ""
    wanted = f"{event.stage} wanted" if event.stage in STAGES_ASIDE else "one example per request wanted"
    target = wanted if event.target is None else f"{event.target} example(s) wanted"
    return f"[round {event.round} {event.stage}] starts: {target}{known}"


def _say_stage_end(event: StageFinished) -> str:
    short = f"; SHORT of {counts(event.short)}" if any(event.short.values()) else ""
    rejected = f"; rejected {counts(event.rejected, 4)}" if any(event.rejected.values()) else ""
    failed = f"; failed {counts(event.failed)}" if any(event.failed.values()) else ""
    head = f"[round {event.round} {event.stage}] done: {event.accepted} of {event.requested} accepted"
    unneeded = f"; {event.given_up} under way not needed" if event.given_up else ""
    return f"{head} in {duration(event.seconds)}{rejected}{failed}{short}{unneeded}"


def _say_training(event: TrainingStarted | TrainingFinished) -> str:
    is_checker = isinstance(event, CheckerStarted | CheckerFinished)
    head = "[checker]" if is_checker else f"[round {event.round} student]"
    if isinstance(event, TrainingStarted):
        of_gold = " of gold" if is_checker else ""
        return f"{head} trains on {event.rows} row(s){of_gold}, {event.workers} worker(s)"
    mistakes = ""
    if isinstance(event, StudentFinished) and event.mined is not None:
        mistakes = f", {event.mistakes} mistake(s) on {event.mined} gold rows"
    return f"{head} selection {scores(event.select)}{mistakes} ({duration(sum(event.seconds.values()))})"


# -- what is drawn -----------------------------------------------------------------------------------------------------


def live_table(view: RunView, now: float) -> RenderableType:
    """What a watcher wants to know at ``now`` (unix seconds), in a few lines."""
    doing = view.phase if view.stage is None else f"{view.phase}: {view.stage.name}"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("phase", Text.assemble((f"round {view.round} of {view.last_round}", "bold"), f"  {doing}"))
    if view.stage is not None and not view.stage.finished:
        table.add_row("accepted", _stage_bar(view.stage))
        table.add_row("speed", _speed(view))
        if view.stage.starving:
            table.add_row("quota", Text(starving_text(view.stage), style="yellow"))
    if view.engines:
        table.add_row("engines", engines_text(view))
    if view.rejected(view.round):
        table.add_row("rejected", counts(view.rejected(view.round), 5))
    if view.students:
        table.add_row("selection", scores_by_round(view))
    table.add_row("running", duration(max(0.0, now - view.attempt_started)))
    return Group(Text(), table)


def engines_text(view: RunView) -> str:
    """How many engines are in which state, and what they have in work: ``2 ready, 1 lost; requests: 24 running``."""
    by_state = Counter(view.engines.values())
    states = ", ".join(f"{by_state[state]} {state}" for state in _STATES if by_state[state])
    load = view.pool.load
    work = [f"{num} {name}" for name, num in (("running", load.running), ("waiting", load.waiting)) if num]
    return f"{states}; requests: {', '.join(work)}" if work else states


def scores_by_round(view: RunView) -> str:
    """The first metric of each student on the selection part: ``round 0 accuracy 0.780, round 1 accuracy 0.812``."""
    firsts = {num: next(iter(event.select.items())) for num, event in sorted(view.students.items())}
    return ", ".join(f"round {num} {name} {value:.3f}" for num, (name, value) in firsts.items())


def _stage_bar(stage: StageView) -> RenderableType:
    if stage.target is None:
        return Text(f"{stage.accepted} of {stage.outcomes} written")
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(stage.target, 1), completed=stage.accepted, width=30)
    row.add_row(bar, f"{stage.accepted} / {stage.target}  ({stage.outcomes} written)")
    return row


def _speed(view: RunView) -> str:
    speed = "waiting for the first chunk" if view.tokens_per_s is None else f"{view.tokens_per_s:.0f} output tokens/s"
    return speed if view.eta_s is None else f"{speed}, ETA {duration(view.eta_s)}"
