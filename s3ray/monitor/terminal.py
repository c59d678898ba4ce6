"""What people see of a run on a terminal: live progress, plain lines in a log, status, and the table at the end.

Shows what the events say and no more, so a resumed run shows the same as an undisturbed one. Texts that come from a
run, a model or a foreign folder cannot control the terminal.
"""

import re
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from s3ray.config.job import STAGES_ASIDE
from s3ray.monitor.metrics import Metrics
from s3ray.monitor.run_view import MAX_ENGINES_NAMED, EngineView, PoolView, RunView, StageView
from s3ray.storage.run_folder import METRICS, RunStore
from s3ray.telemetry import events
from s3ray.telemetry.events import Event, read_events
from s3ray.text import counts, duration, scores, short_count

# Escape sequences begin with a control character (C0, DEL or C1): they clear screens, rename windows, and make some
# terminals type. The others turn the direction of text around, so that it reads otherwise than it is.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHOWN = "\N{REPLACEMENT CHARACTER}"


class Terminal(Console):
    """A console without markup that shows each control character of a text, but line ends and tabs, as a sign.

    Rich's own control sequences, for colours and the cursor, are left as they are.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What a renderable, and all that is in it, looks like."""
        for segment in super().render(renderable, options):
            is_ours = segment.control is not None
            yield segment if is_ours else Segment(_COMMANDS.sub(_SHOWN, segment.text), segment.style)


PLAIN_EVERY_S = 5.0
_STATES = ("ready", "starting", "waiting", "lost", "given up", "stopped")


def make_progress(console: Console, view: RunView | None = None) -> "Progress":
    """Progress of a run, as a listener on an ``EventLog``.

    ``view`` is the state that earlier attempts left (``RunView.replay``), for a run that is resumed.
    """
    view = view or RunView()
    return Progress(console, view.apply, partial(live_table, view), milestone, partial(stage_line, view))


class Progress:
    """Prints milestones, which stay. A terminal also has a table below them, redrawn in place.

    Elsewhere a line says how far the stage is, at most every ``PLAIN_EVERY_S``. To be closed.
    """

    def __init__(
        self,
        console: Console,
        apply: Callable[[Event], None],
        draw: Callable[[float], RenderableType],
        to_line: Callable[[Event], str | None],
        so_far: Callable[[], str] | None = None,
    ) -> None:
        """``apply`` updates the state that ``draw`` (at a time) and ``so_far`` show; ``to_line`` words milestones."""
        self._console = console
        self._apply = apply
        self._picture = draw
        self._to_line = to_line
        self._so_far = so_far
        self._printed_at = 0.0
        # Rich redraws from a thread of its own while the driver's thread folds events in.
        self._lock = threading.Lock()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=2, transient=True)
            self._live.start()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            self._apply(event)
            line = self._to_line(event)
        is_due = isinstance(event, events.ChunkWritten) and event.time - self._printed_at >= PLAIN_EVERY_S
        if line is None and self._live is None and self._so_far is not None and is_due:
            line = self._so_far()
        if line is not None:
            self._printed_at = event.time
            say(self._console, line)

    def close(self) -> None:
        """Take the table off the screen; the milestones stay."""
        if self._live is not None:
            self._live.stop()

    def _draw(self) -> RenderableType:
        with self._lock:
            return self._picture(time.time())


def say(console: Console, line: str) -> None:
    """Print one line as it is: no markup, no colours, no wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


# -- milestones ------------------------------------------------------------------------------------------------------


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


def milestone(event: Event) -> str | None:
    """The line that stays in the log for this event, or None if it is not worth one."""
    match event:
        case events.RunStarted():
            verb = "goes on" if event.resumed else "starts"
            return f"[run] {event.run} {verb}: {event.strategy} on {event.task}, {event.rounds + 1} round(s)"
        case events.EngineEvent():
            said = _say_engine(event)
            return said and f"[engines] {event.engine} {said}"
        case events.StageStarted():
            return _say_stage(event)
        case events.StageFinished():
            return _say_stage_end(event)
        case events.RoundLinked():
            return f"[round {event.round}] is that of {event.from_run}, and was copied"
        case events.StudentLinked():
            return f"[{event.student}] is that of {event.from_run}, and was copied"
        case events.TrainingStarted() | events.TrainingFinished():
            return _say_training(event)
        case events.TestScored():
            return f"[test] {scores(event.test)} on {event.num_examples} examples"
        case events.RunFinished():
            return f"[run] finished in {duration(event.seconds)}"
        case events.RunFailed():
            return f"[run] failed: {event.problem}"
        case events.RunStopped():
            return f"[run] {event.problem}; the same command goes on from what is on disk"
    return None


def _say_engine(event: events.EngineEvent) -> str | None:
    match event:
        case events.EngineReady(limits=limits):
            return (
                f"ready in {duration(event.seconds)} ({limits.device}, {limits.dtype}, "
                f"{limits.max_num_seqs} sequences, {limits.max_num_batched_tokens} tokens a step)"
                + "".join(f"; {note}" for note in (_parts(limits.start_s), *limits.notes) if note)
            )
        case events.EngineLost():
            return f"lost with {event.in_flight} request(s) in flight: {event.problem}"
        case events.EngineWaiting():
            return f"waits: {event.problem}; {_strength(event)}"
        case events.EngineGivenUp():
            return f"given up: {event.problem}; {_strength(event)}"
        case events.EngineStopped() if event.reason:
            return f"ends: {event.reason}"
    return None


def _parts(start_s: Mapping[str, float]) -> str:
    """Where the seconds of a start went, the parts of a second or more."""
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in start_s.items() if seconds >= 1)


def _strength(event: events.EngineWaiting | events.EngineGivenUp) -> str:
    if not event.running:
        return f"none of {event.wanted} engine(s) runs"
    return f"the run goes on with {event.running} of {event.wanted} engine(s)"


def _say_stage(event: events.StageStarted) -> str:
    known = f", {event.known} outcome(s) already on disk" if event.known else ""
    wanted = f"{event.stage} wanted" if event.stage in STAGES_ASIDE else "one example per request wanted"
    target = wanted if event.target is None else f"{event.target} example(s) wanted"
    return f"[round {event.round} {event.stage}] starts: {target}{known}"


def _say_stage_end(event: events.StageFinished) -> str:
    short = f"; SHORT of {counts(event.short)}" if any(event.short.values()) else ""
    rejected = f"; rejected {counts(event.rejected, 4)}" if any(event.rejected.values()) else ""
    failed = f"; failed {counts(event.failed)}" if any(event.failed.values()) else ""
    head = f"[round {event.round} {event.stage}] done: {event.accepted} of {event.requested} accepted"
    unneeded = f"; {event.given_up} under way not needed" if event.given_up else ""
    thinking = ""
    if event.thinking and event.thinking >= event.requested / 10:
        thinking = f"; the model thinks aloud, and {event.thinking} answer(s) were cut before they began: "
        thinking += "set generator.thinking: off, or a larger generator.sampling.max_tokens"
    causes = "".join(f"\n  {cause}" for cause in event.causes or ())
    return f"{head} in {duration(event.seconds)}{rejected}{failed}{short}{unneeded}{thinking}{causes}"


def _say_training(event: events.TrainingStarted | events.TrainingFinished) -> str:
    is_checker = isinstance(event, events.CheckerStarted | events.CheckerFinished)
    head = "[checker]" if is_checker else f"[round {event.round} student]"
    if isinstance(event, events.TrainingStarted):
        of_gold = " of gold" if is_checker else ""
        return f"{head} trains on {event.rows} row(s){of_gold}, {event.workers} worker(s)"
    mistakes = ""
    if isinstance(event, events.StudentFinished) and event.mined is not None:
        mistakes = f", {event.mistakes} mistake(s) on {event.mined} gold rows"
        if not event.mistakes:
            mistakes += ": nothing is left to extrapolate from"
    return f"{head} selection {scores(event.select)}{mistakes} ({duration(sum(event.seconds.values()))})"


# -- tables ----------------------------------------------------------------------------------------------------------


def facts_table(*facts: tuple[str, RenderableType | None]) -> Table:
    """A line for each name and its fact; names without a fact are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts:
        if fact:
            table.add_row(name, fact)
    return table


def live_table(view: RunView, now: float) -> RenderableType:
    """The state of a run at ``now`` (unix seconds) in a few lines, for live progress."""
    doing = view.phase if view.stage is None else f"{view.phase}: {view.stage.name}"
    stage = None if view.stage is None or view.stage.finished else view.stage
    table = facts_table(
        ("phase", Text.assemble((f"round {view.round} of {view.last_round}", "bold"), f"  {doing}")),
        ("accepted", _stage_bar(stage) if stage else None),
        ("speed", _speed(view) if stage else None),
        ("quota", Text(starving_text(stage), style="yellow") if stage and stage.starving else None),
        ("engines", engines_text(view) if view.engines else None),
        ("rejected", counts(view.rejected(view.round), 5)),
        ("selection", scores_by_round(view)),
        ("running", duration(max(0.0, now - view.attempt_started))),
    )
    return Group(Text(), table)


def engines_text(view: RunView) -> str:
    """How many engines are in which state, and their requests: ``2 ready, 1 lost; requests: 24 running``."""
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


def summary_table(metrics: Metrics) -> Table:
    """The rounds of a run as a table of at most 100 columns, readable in a plain log."""
    title = f"{metrics.run}: {metrics.strategy} on {metrics.task} ({metrics.metric})"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, width=98, pad_edge=False)
    for name in ("round", "rows", "mistakes", "select", "test", "generate", "train", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rejected by reason", ratio=1, overflow="fold")
    for entry in metrics.rounds:
        test = metrics.test if entry is metrics.rounds[-1] else None
        table.add_row(
            str(entry.round),
            str(entry.rows),
            "-" if entry.mistakes is None else f"{entry.mistakes}/{entry.mined}",
            _score(entry.select, metrics.metric),
            _score(test, metrics.metric),
            *(f"{entry.seconds[phase]:.0f} s" for phase in ("generate", "train", "score")),
            counts({**entry.rejected, **entry.failed}, 3) or "-",
        )
    return table


def status_text(store: RunStore, now: float) -> RenderableType:
    """The state of a run at ``now`` (unix seconds), from its folder alone: running, finished, failed or killed."""
    view = RunView.replay(read_events(store))
    state = view.state(now)
    held = driver_is_there(store)
    if held is not None and not view.ended:
        state = "running" if held else "unknown"
    is_running = state == "running"
    spent = {phase: seconds for phase, seconds in view.seconds().items() if seconds}
    table = facts_table(
        ("run", view.about.run if view.about else store.name),
        ("state", _state_text(view, state, now)),
        ("doing", Text(stage_line(view)) if is_running else None),
        ("engines", engines_text(view) if view.engines and is_running else None),
        ("selection", scores_by_round(view)),
        ("test", scores(view.test or {})),
        ("rejected", counts(view.rejected())),
        ("seconds", ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in spent.items())),
        ("on disk", _on_disk(store)),
    )
    parts: list[RenderableType] = [table]
    if view.pool.has_reported:
        parts += [Text(), _engines_table(view, is_running=is_running), Text()]
    return Group(*parts, Text(_what_next(store, state), overflow="fold"))


def _engines_table(view: RunView, *, is_running: bool) -> Table:
    """The engines' work so far and, while the run goes on, their state and load; at most 80 columns wide."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("engine", no_wrap=True)
    if is_running:
        table.add_column("state", no_wrap=True)
    now = ("run", "wait", "KV") if is_running else ()
    for name in (*now, "output", "prompt", "cached", "preempt", "restarts", "busy"):
        table.add_column(name, justify="right", no_wrap=True)
    engines = view.pool.by_name
    rows: dict[str, EngineView | PoolView] = {**engines} if len(engines) <= MAX_ENGINES_NAMED else {}
    if len(engines) > 1:
        rows[f"all {len(engines)}"] = view.pool
    for name, row in rows.items():
        usage, load = row.usage, row.load
        moment = (view.engines.get(name, ""), str(load.running), str(load.waiting), f"{load.kv_use:.0%}")
        table.add_row(
            name,
            *(moment if is_running else ()),
            short_count(usage.output_tokens),
            short_count(usage.prompt_tokens),
            _share(usage.prefix_hit_rate),
            short_count(usage.preemptions),
            str(usage.restarts),
            _share(usage.busy_share),
        )
    return table


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _score(values: Mapping[str, float] | None, main: str | None) -> str:
    return "-" if values is None or main is None else f"{values[main]:.3f}"


def _state_text(view: RunView, state: str, now: float) -> Text:
    age = "" if view.updated is None else f", last event {duration(max(0.0, now - view.updated))} ago"
    attempt = f" (start {view.attempt})" if view.attempt > 1 else ""
    match state:
        case "finished":
            return Text(f"finished{attempt}, after {duration(view.total_s)} of work", style="green")
        case "failed":
            return Text(f"failed{attempt}: {view.problem}", style="red")
        case "stopped":
            return Text(f"stopped{attempt}{age}: {view.problem}", style="yellow")
        case "reparsed":
            return Text("read again from kept generations; its students are not trained yet", style="yellow")
        case "running":
            return Text(f"running{attempt}{age}", style="cyan")
        case _:
            return Text(f"not finished{attempt}, and no driver is at work{age}: probably killed", style="yellow")


def driver_is_there(store: RunStore) -> bool | None:
    """Whether a driver holds the folder; None where that cannot be tried (another user's folder, a remote NFS)."""
    try:
        return store.is_held()
    except OSError:
        return None


def _on_disk(store: RunStore) -> str:
    rounds, students = store.rounds(), store.students()
    parts = [f"{len(rounds)} finished round(s)", f"{len(students)} student(s)"]
    chunks = store.num_chunks_in_work()
    if chunks:
        parts.append(f"{chunks} chunk(s) of the round in work")
    parts += [name for name in ("dataset", METRICS, "report.html") if store.has(name)]
    return f"{', '.join(parts)}, in {store.root}"


def _what_next(store: RunStore, state: str) -> str:
    match state:
        case "finished":
            root = shlex.quote(store.root)
            data = f"\nTake the data: s3ray export {root} --out DIR" if store.has("dataset") else ""
            return f"Look at it: s3ray report {root}{data}"
        case "running":
            return "Nothing to do. Should it be killed, the same `s3ray run` command goes on from what is on disk."
    return "Go on with the same `s3ray run` command: what is on disk is kept and not done again."
