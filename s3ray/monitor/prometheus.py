"""A run's Prometheus metrics, and how each event changes them (docs/metrics.md).

Counters count what this start of the driver did; gauges say how the run stands, all starts included.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ray.util.metrics import Counter, Gauge

from s3ray.monitor.run_view import RunView
from s3ray.telemetry import events
from s3ray.telemetry.events import Event


class Metric(NamedTuple):
    """What a metric says, and its tags besides ``run``, which each of them has."""

    description: str
    tags: tuple[str, ...] = ()


COUNTERS: Mapping[str, Metric] = {
    "s3ray_requests_total": Metric("Requests that ended, by status: ok, rejected, failed.", ("stage", "status")),
    "s3ray_prompt_tokens_total": Metric("Tokens of their prompts.", ("stage",)),
    "s3ray_cached_tokens_total": Metric("Those from the prefix cache.", ("stage",)),
    "s3ray_output_tokens_total": Metric("Tokens that engines wrote for them.", ("stage",)),
    "s3ray_engine_losses_total": Metric("Engines that died."),
}
GAUGES: Mapping[str, Metric] = {
    "s3ray_engines": Metric("Engines by state.", ("state",)),
    "s3ray_sequences": Metric("Sequences in engines: running, waiting.", ("state",)),
    "s3ray_kv_cache_use_ratio": Metric("Share of the KV cache in use, in the fullest engine."),
    "s3ray_round": Metric("The round in work."),
    "s3ray_rows_accepted": Metric("Rows that the stage of this round has.", ("stage",)),
    "s3ray_rows_wanted": Metric("Rows that it needs.", ("stage",)),
    "s3ray_student_score": Metric("Score of the last student.", ("part", "metric")),
    "s3ray_phase_seconds": Metric("Seconds of the run by phase.", ("phase",)),
    "s3ray_last_event_timestamp_seconds": Metric("When the last event came, in unix seconds."),
}
METRICS: Mapping[str, Metric] = {**COUNTERS, **GAUGES}


class Sample(NamedTuple):
    """A counter goes up by ``value``, a gauge is set to it."""

    metric: str
    value: float
    tags: Mapping[str, str]


class MetricUpdates:
    """How the events of one run change the metrics; events of other runs are ignored."""

    def __init__(self, run: str, view: RunView) -> None:
        """``view`` is the state that earlier starts of the run left."""
        self._run = run
        self._view = view
        self._states: set[str] = set()

    def samples(self, event: Event) -> list[Sample]:
        """Apply one event; returns what it changes."""
        if event.run != self._run:
            return []
        self._view.apply(event)
        return [Sample(name, value, {"run": self._run, **tags}) for name, value, tags in self._changes(event)]

    def _changes(self, event: Event) -> Iterator[tuple[str, float, dict[str, str]]]:
        view = self._view
        yield "s3ray_last_event_timestamp_seconds", event.time, {}
        for phase, seconds in view.seconds().items():
            yield "s3ray_phase_seconds", seconds, {"phase": phase}
        match event:
            case events.ChunkWritten():
                yield from _chunk(event)
                yield from self._stage()
                yield from self._load()
            case events.StageStarted() | events.StageFinished():
                yield "s3ray_round", view.round, {}
                yield from self._stage()
            case events.StudentFinished():
                yield from _scores("select", event.select)
            case events.TestScored():
                yield from _scores("test", event.test)
            case events.EngineLost():
                yield "s3ray_engine_losses_total", 1, {}
        if isinstance(event, events.EngineEvent):
            yield from self._engines()

    def _stage(self) -> Iterator[tuple[str, float, dict[str, str]]]:
        stage = self._view.stage
        if stage is not None:
            yield "s3ray_rows_accepted", stage.accepted, {"stage": stage.name}
            if stage.target is not None:
                yield "s3ray_rows_wanted", stage.target, {"stage": stage.name}

    def _load(self) -> Iterator[tuple[str, float, dict[str, str]]]:
        load = self._view.pool.load
        yield "s3ray_sequences", load.running, {"state": "running"}
        yield "s3ray_sequences", load.waiting, {"state": "waiting"}
        yield "s3ray_kv_cache_use_ratio", load.kv_use, {}

    def _engines(self) -> Iterator[tuple[str, float, dict[str, str]]]:
        """A state that no engine is in any more is set to zero."""
        states = list(self._view.engines.values())
        self._states.update(states)
        for state in sorted(self._states):
            yield "s3ray_engines", states.count(state), {"state": state}


def _chunk(event: events.ChunkWritten) -> Iterator[tuple[str, float, dict[str, str]]]:
    stage = event.stage
    ended = {"ok": event.ok, "rejected": sum(event.rejected.values()), "failed": sum(event.failed.values())}
    for status, num in ended.items():
        yield "s3ray_requests_total", num, {"stage": stage, "status": status}
    tokens = {"prompt": event.prompt_tokens, "cached": event.cached_tokens, "output": event.output_tokens}
    for kind, num in tokens.items():
        yield f"s3ray_{kind}_tokens_total", num, {"stage": stage}


def _scores(part: str, values: Mapping[str, float]) -> Iterator[tuple[str, float, dict[str, str]]]:
    for metric, value in values.items():
        yield "s3ray_student_score", value, {"part": part, "metric": metric}


class RayMetrics:
    """The metrics of this process; many runs may share them."""

    def __init__(self) -> None:
        self._by_name: dict[str, Counter | Gauge] = {}
        for kind, metrics in ((Counter, COUNTERS), (Gauge, GAUGES)):
            for name, metric in metrics.items():
                self._by_name[name] = kind(name, metric.description, ("run", *metric.tags))

    def of(self, run: str, view: RunView) -> Callable[[Event], None]:
        """A listener on the ``EventLog`` of a run; ``view`` is the state that earlier starts left."""
        meter = MetricUpdates(run, view)

        def hear(event: Event) -> None:
            for name, value, tags in meter.samples(event):
                metric = self._by_name[name]
                if isinstance(metric, Gauge):
                    metric.set(value, tags=tags)
                elif value:  # Ray refuses to count nothing
                    metric.inc(value, tags=tags)

        return hear
