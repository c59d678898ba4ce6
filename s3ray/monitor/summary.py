"""What a run came to, for the terminal: the table at its end, and the state of a run folder at any moment."""

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3ray.monitor.events import read_events
from s3ray.monitor.metrics import Metrics
from s3ray.monitor.progress import counts, duration, engines_text, scores, scores_by_round, short_count, stage_line
from s3ray.monitor.run_view import MAX_ENGINES_NAMED, EngineView, PoolView, RunView
from s3ray.store import METRICS, RunStore


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
    """How a run stands by its folder alone, at ``now`` (unix seconds): running, finished, failed or killed."""
    view = RunView.replay(read_events(store))
    state = view.state(now)
    held = driver_is_there(store)
    if held is not None and not view.ended:
        state = "running" if held else "unknown"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", view.about.run if view.about else store.name)
    table.add_row("state", _state_text(view, state, now))
    if state == "running":
        table.add_row("doing", Text(stage_line(view)))
    if view.engines and state == "running":
        table.add_row("engines", engines_text(view))
    if view.students:
        table.add_row("selection", scores_by_round(view))
    if view.test is not None:
        table.add_row("test", scores(view.test))
    if view.rejected():
        table.add_row("rejected", counts(view.rejected()))
    spent = {phase: seconds for phase, seconds in view.seconds().items() if seconds}
    if spent:
        table.add_row("seconds", ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in spent.items()))
    table.add_row("on disk", _on_disk(store))
    parts: list[RenderableType] = [table]
    if view.pool.has_reported:
        parts += [Text(), _engines_table(view, is_running=state == "running"), Text()]
    return Group(*parts, Text(_what_next(store, state), overflow="fold"))


def _engines_table(view: RunView, *, is_running: bool) -> Table:
    """What the engines did so far, and while the run goes on, how they are; narrow enough for 80 columns."""
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
        case "reparsed":
            return Text("read again from kept generations; its students are not trained yet", style="yellow")
        case "running":
            return Text(f"running{attempt}{age}", style="cyan")
        case _:
            return Text(f"not finished{attempt}, and no driver is at work{age}: probably killed", style="yellow")


def driver_is_there(store: RunStore) -> bool | None:
    """Whether a driver holds the folder; None where that cannot be tried (somebody else's folder, NFS from afar)."""
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
            data = f"\nTake the data: s3ray export {store.root} --out DIR" if store.has("dataset") else ""
            return f"Look at it: s3ray report {store.root}{data}"
        case "running":
            return "Nothing to do. Should it be killed, the same `s3ray run` command goes on from what is on disk."
    return "Go on with the same `s3ray run` command: what is on disk is kept and not done again."
