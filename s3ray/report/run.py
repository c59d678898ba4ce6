"""report.html: one self-contained page about a run, made from the files of its folder alone.

Invariant: nothing on the page comes from the network, and every text that a model wrote is escaped.
"""

import functools
import time
from collections.abc import Sequence
from typing import Literal

import jinja2

from s3ray.monitor.accounting import Account, account
from s3ray.monitor.metrics import (
    CheckerMetrics,
    Metrics,
    PoolMetrics,
    RoundMetrics,
    build_metrics,
    count_reasons,
)
from s3ray.monitor.run_view import MAX_ENGINES_NAMED, EngineMetrics, RunView
from s3ray.monitor.timeline import Timeline, rows, timeline, trace
from s3ray.report import audit, captions, examples, plots
from s3ray.report.examples import DataFigures
from s3ray.report.plots import Bar, Part
from s3ray.storage.contents import Notes
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import Event, read_events
from s3ray.text import counts, duration, scores, short_count

_PHASES = (("start", "c7"), ("generate", "c1"), ("train", "c2"), ("score", "c5"))
_REASON_COLOURS = ("c2", "c4", "c5", "c6", "c3")


def write_report(store: RunStore) -> str:
    """Write the report of a run, finished or not, from its folder; see ``write_pages``.

    Raises:
        StoreError: a file of the run cannot be read, or a round does not balance.
        InputError: config.yaml of the run cannot be read.
    """
    events = list(read_events(store))
    return write_pages(store, events, build_metrics(store, events))


def write_pages(store: RunStore, events: Sequence[Event], metrics: Metrics) -> str:
    """Write report.html, and ``timeline.json`` beside it; returns where the report lies.

    ``metrics`` are the results of the run, ``events`` all of its events.

    Raises:
        StoreError: a file of the run cannot be read.
    """
    view, time_account = RunView.replay(events), account(events)
    rounds, line, data = metrics.rounds, timeline(time_account), examples.data_figures(store)
    page = page_template("report.html.j2").render(
        m=metrics,
        result=result_sentence(metrics),
        view=view,
        figures=_key_figures(metrics),
        facts=_facts(store, metrics, view),
        score_plot=plots.score_plot(str(metrics.metric), dict(metrics.scored), metrics.score)
        if metrics.scored
        else None,
        yields=_yields(rounds),
        reasons=_reason_rows(rounds),
        spent=_spent(rounds),
        phases=_PHASES,
        line=line,
        answers=_answers(store, metrics, line, time_account, data),
        lanes=rows(time_account),
        plots=plots,
        round_rows=_round_rows(rounds, metrics.metric),
        engines=_engine_rows(metrics.pool) if view.pool.has_reported else [],
        data=data,
        stories=examples.stories(store),
        seeds=examples.seeds(store),
        given_reasons=_given_reasons(store),
        audit=audit.read_audit(store),
        audits=audit,
        made=time.strftime("%Y-%m-%d %H:%M", time.localtime(view.updated)),
    )
    store.write_json("timeline.json", trace(time_account))
    return store.write_text("report.html", page)


def page_template(name: str) -> jinja2.Template:
    """A page of this package; in HTML, every text in it is escaped."""
    return _pages().get_template(name)


@functools.cache
def _pages() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("s3ray.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, counts=counts, score="{:.3f}".format)
    return environment


def result_sentence(metrics: Metrics) -> str:
    """What came out, in one sentence."""
    scored, name = metrics.scored, metrics.metric
    if not scored:
        return "No student has been trained yet."
    (_, first), (last_round, last) = scored[0], scored[-1]
    if len(scored) == 1:
        text = f"The student reaches {name} {last:.3f} on the selection part of gold"
    else:
        verb = "rose" if last > first else "fell" if last < first else "stayed"
        text = f"Selection {name} {verb} from {first:.3f} on seed data to {last:.3f} after round {last_round}"
    if metrics.score is None:
        return f"{text}."
    return f"{text}; on the test part, read once, the final student scores {metrics.score:.3f}."


def _key_figures(metrics: Metrics) -> list[tuple[str, str, str]]:
    """(value, name, explanation) of the few numbers that matter most."""
    rounds, name = metrics.rounds, metrics.metric
    figures = []
    if metrics.score is not None:
        figures.append((f"{metrics.score:.3f}", f"test {name}", f"{metrics.num_test} gold rows"))
    scored = [score for _, score in metrics.scored]
    if scored:
        gain = scored[-1] - scored[0]
        note = f"{gain:+.3f} since the seed set" if len(scored) > 1 else "one student"
        figures.append((f"{scored[-1]:.3f}", f"selection {name}", note))
    requested = sum(entry.requested for entry in rounds)
    if requested:
        accepted = sum(entry.accepted for entry in rounds)
        figures.append((f"{accepted:,}", "synthetic rows", f"{accepted / requested:.0%} of {requested:,} requests"))
        tokens = sum(entry.output_tokens for entry in rounds)
        all_tokens = sum((entry.output_tokens_per_s or 0) * entry.seconds["generate"] for entry in rounds)
        rate = all_tokens / max(metrics.seconds["generate"], 1e-3)
        figures.append((f"{tokens:,}", "output tokens", f"{rate:,.0f} tokens/s while generating"))
    note = f"{metrics.attempts} starts" if metrics.attempts > 1 else "in one go"
    figures.append((duration(metrics.seconds["total"]), "working time", note))
    return figures


def _facts(store: RunStore, metrics: Metrics, view: RunView) -> list[tuple[str, str]]:
    gold = {
        part: store.read_table(store.gold(part)).num_rows
        for part in ("extrapolate", "select", "test")
        if store.has(store.gold(part))
    }
    lost = f", {metrics.engines_lost} lost on the way" if metrics.engines_lost else ""
    facts = [
        ("Task", f"{metrics.task} ({metrics.kind})"),
        ("Strategy", f"{metrics.strategy}, {len(metrics.rounds)} of {view.last_round + 1} rounds"),
        ("Generator", metrics.generator and f"{metrics.generator} on {metrics.engines} engine(s){lost}"),
        ("Student", f"{metrics.student} on {metrics.workers} worker(s)"),
        ("Checker", metrics.checker and _checker(metrics.checker)),
        ("Gold", ", ".join(f"{rows} {part}" for part, rows in gold.items()) or "none on disk"),
        ("Seed", str(metrics.seed)),
        ("Fingerprint", metrics.fingerprint),
    ]
    return [(name, fact) for name, fact in facts if fact]


def _checker(checker: CheckerMetrics) -> str:
    took, select = duration(sum(checker.seconds.values())), scores(checker.select)
    return f"weighs written rows; trained on {checker.rows} rows of gold in {took}, selection {select}"


def _answers(
    store: RunStore, metrics: Metrics, line: Timeline, time_account: Account, data: Sequence[DataFigures]
) -> dict[str, str]:
    """The caption of each plot; empty where there is no data yet."""
    num_select = store.read_table(store.gold("select")).num_rows if store.has(store.gold("select")) else 0
    rates = {engine: plots.mean_busy(rates) for engine, rates in line.rates.items()}
    return {
        "score": captions.score_caption(metrics, num_select),
        "yields": captions.yield_caption(metrics.rounds),
        "speed": captions.speed_caption(rates, metrics.pool.engines),
        "time": captions.time_caption(metrics.rounds),
        "use": captions.devices_caption(time_account),
        "data": captions.data_caption(data) if data else "",
    }


def _yields(rounds: Sequence[RoundMetrics]) -> tuple[list[Bar], list[Part]]:
    """Bars of what became of the requests by round, and their legend with totals."""
    written = [entry for entry in rounds if entry.requested]
    named = [reason for reason, _ in count_reasons(written, "rejected").most_common(len(_REASON_COLOURS))]
    bars = []
    for entry in written:
        other = sum(n for reason, n in entry.rejected.items() if reason not in named)
        parts = [Part(name="accepted", value=entry.accepted, colour="c1")]
        parts += [
            Part(name=reason, value=entry.rejected.get(reason, 0), colour=colour)
            for reason, colour in zip(named, _REASON_COLOURS, strict=False)
        ]
        parts += [Part(name="other reasons", value=other, colour="c7")]
        parts += [Part(name="failed", value=sum(entry.failed.values()), colour="c8")]
        note = f"{entry.accepted:,} of {entry.requested:,} kept ({entry.accepted / entry.requested:.0%})"
        bars.append(Bar(label=f"round {entry.round}", note=note, parts=tuple(parts)))
    return bars, _legend(bars)


def _spent(rounds: Sequence[RoundMetrics]) -> list[Bar]:
    """Bars of the seconds by phase and round."""
    bars = []
    for entry in rounds:
        parts = tuple(Part(name=phase, value=entry.seconds[phase], colour=colour) for phase, colour in _PHASES)
        note = duration(sum(part.value for part in parts))
        bars.append(Bar(label=f"round {entry.round}", note=note, parts=parts))
    return bars


def _legend(bars: Sequence[Bar]) -> list[Part]:
    totals: dict[tuple[str, str], float] = {}
    for bar in bars:
        for part in bar.parts:
            totals[part.name, part.colour] = totals.get((part.name, part.colour), 0) + part.value
    return [Part(name=name, value=value, colour=colour) for (name, colour), value in totals.items() if value]


def _reason_rows(rounds: Sequence[RoundMetrics]) -> list[tuple[str, list[int], int]]:
    """(what became of a request, by round, in all): the rows of the table that must balance."""
    rows = [("accepted", [entry.accepted for entry in rounds])]
    kinds: tuple[Literal["rejected", "failed"], ...] = ("rejected", "failed")
    for kind in kinds:
        for reason, _ in count_reasons(rounds, kind).most_common():
            rows.append((reason.replace("_", " "), [getattr(entry, kind).get(reason, 0) for entry in rounds]))
    rows.append(("requested", [entry.requested for entry in rounds]))
    return [(name, by_round, sum(by_round)) for name, by_round in rows]


def _round_rows(rounds: Sequence[RoundMetrics], metric: str | None) -> list[tuple[str, dict[str, str]]]:
    """The cells of each round; rows written ahead have a column where there are any."""
    rows = [(str(entry.round), _round_cells(entry, metric)) for entry in rounds]
    if any(entry.off_policy for entry in rounds):
        for entry, (_, cells) in zip(rounds, rows, strict=True):
            cells["Kept, off-policy"] = f"{entry.off_policy:,}"
    return rows


def _round_cells(entry: RoundMetrics, metric: str | None) -> dict[str, str]:
    """The cells of a round by column; those of a student are empty while it is not trained."""
    rate, best, select = entry.output_tokens_per_s, entry.best_epoch, entry.select
    return {
        "Trained on": f"{entry.rows:,}",
        "Requested": f"{entry.requested:,}",
        "Kept": f"{entry.accepted:,}",
        "Mistakes on gold": "" if entry.mistakes is None else f"{entry.mistakes} of {entry.mined}",
        **({f"Selection {metric}": f"{select[metric]:.3f}" if select else ""} if metric else {}),
        "Best epoch": "" if best is None else str(best),
        "Output tokens": f"{entry.output_tokens:,}",
        "Tokens/s": "" if rate is None else f"{rate:.0f}",
    }


def _engine_rows(pool: PoolMetrics) -> list[tuple[str, dict[str, str]]]:
    """The cells of each engine by name where they are few, and of all together."""
    engines = pool.engines
    few = engines if len(engines) <= MAX_ENGINES_NAMED else {}
    rows = [(_engine_name(name, row), _engine_cells(row)) for name, row in few.items()]
    if len(engines) > 1:
        total = _engine_cells(pool.total)
        if not pool.total.peak_running:  # engines of a campaign: a run does not know what they did at one moment
            total |= dict.fromkeys(("Most running", "Most waiting", "Most KV cache"), "")
        rows.append((f"all {len(engines)}", total))
    return rows


def _engine_name(name: str, row: EngineMetrics) -> str:
    return f"{name} ({row.state})" if row.state in ("lost", "waiting", "given up") else name


def _engine_cells(row: EngineMetrics) -> dict[str, str]:
    return {
        "Output tokens": short_count(row.output_tokens),
        "Prompt tokens": short_count(row.prompt_tokens),
        "Prompt cached": _share(row.prefix_hit_rate),
        "Most running": short_count(row.peak_running),
        "Most waiting": short_count(row.peak_waiting),
        "Most KV cache": f"{row.peak_kv_use:.0%}",
        "Preemptions": short_count(row.preemptions),
        "Restarts": str(row.restarts),
        "Busy": _share(row.busy_share),
    }


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _given_reasons(store: RunStore) -> dict[str, list[str]]:
    name = store.notes(0, "reasons")
    notes = store.read_record(name, Notes) if store.has(name) else {}
    return {label: reasons[:4] for label, reasons in notes.items()}
