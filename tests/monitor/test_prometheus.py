"""What the events of a run do to its metrics."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from s3ray.monitor.prometheus import COUNTERS, METRICS, MetricUpdates, Sample
from s3ray.monitor.run_view import RunView
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import ChunkWritten, Event, EventLog, read_events
from tests.events import an_event
from tests.monitor.run_folder import Clock, new_store, start_engines, start_run, write_chunk

Key = tuple[str, tuple[tuple[str, str], ...]]


def collect(samples: list[Sample]) -> dict[Key, float]:
    """What Prometheus would show after these samples: counters summed up, gauges as they were set last."""
    shown: Counter[Key] = Counter()
    for name, value, tags in samples:
        key = name, tuple(sorted((tag, text) for tag, text in tags.items() if tag != "run"))
        before = shown[key] if name in COUNTERS else 0
        shown[key] = before + value  # type: ignore[assignment]
    return dict(shown)


def of_run(store: RunStore, run: str = "quickstart") -> list[Sample]:
    meter = MetricUpdates(run, RunView())
    return [sample for event in read_events(store) for sample in meter.samples(event)]


def _hear(samples: list[Sample], meter: MetricUpdates, event: Event) -> None:
    samples += meter.samples(event)


def test_samples_have_the_tags_of_their_metrics(finished: RunStore) -> None:
    samples = of_run(finished)
    assert {sample.metric for sample in samples} == set(METRICS)
    for name, value, tags in samples:
        assert tuple(tags) == ("run", *METRICS[name].tags)
        assert tags["run"] == "quickstart"
        assert value >= 0


def test_counters_count_chunks_and_gauges_say_where_the_run_is(finished: RunStore) -> None:
    shown = collect(of_run(finished))
    chunks = [event for event in read_events(finished) if isinstance(event, ChunkWritten)]
    seed = [event for event in chunks if event.stage == "seed"]
    stage = ("stage", "seed")
    assert shown["s3ray_requests_total", (stage, ("status", "ok"))] == sum(event.ok for event in seed)
    assert shown["s3ray_output_tokens_total", (stage,)] == sum(event.output_tokens for event in seed)
    assert shown["s3ray_rows_wanted", (("stage", "extrapolate"),)] == 60
    assert shown["s3ray_round", ()] == 2
    load = RunView.replay(event for event in read_events(finished) if event.kind != "engine_stopped").pool.load
    assert shown["s3ray_sequences", (("state", "running"),)] == load.running > 0
    assert shown["s3ray_kv_cache_use_ratio", ()] == pytest.approx(0.31)
    assert shown["s3ray_engine_losses_total", ()] == 1
    assert shown["s3ray_student_score", (("metric", "accuracy"), ("part", "select"))] == pytest.approx(0.8375)
    assert shown["s3ray_student_score", (("metric", "accuracy"), ("part", "test"))] == pytest.approx(0.8267)
    view = RunView.replay(read_events(finished))
    for phase, seconds in view.seconds().items():
        assert shown["s3ray_phase_seconds", (("phase", phase),)] == pytest.approx(seconds)
    assert shown["s3ray_last_event_timestamp_seconds", ()] == view.updated


def test_a_state_that_no_engine_is_in_any_more_goes_to_zero(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(store := new_store(tmp_path / "run"), "quickstart", 1, clock)
    start_run(log)
    start_engines(log, clock)
    shown = collect(of_run(store))
    assert shown["s3ray_engines", (("state", "ready"),)] == 2
    assert shown["s3ray_engines", (("state", "starting"),)] == 0


def test_a_start_that_goes_on_counts_afresh_and_knows_the_time_before(tmp_path: Path, clock: Clock) -> None:
    store, samples = new_store(tmp_path / "run"), list[Sample]()
    for attempt in (1, 2):
        samples.clear()
        log = EventLog(store, "quickstart", attempt, clock)
        log.listen(partial(_hear, samples, MetricUpdates("quickstart", RunView.replay(read_events(store)))))
        start_run(log, resumed=attempt > 1)
        start_engines(log, clock)
        log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
        write_chunk(log, clock, 0, "seed", attempt, 12 * attempt, 200)
    shown = collect(samples)
    (chunk,) = [event for event in read_events(store) if isinstance(event, ChunkWritten) and event.attempt == 2]
    assert shown["s3ray_output_tokens_total", (("stage", "seed"),)] == chunk.output_tokens
    seconds = RunView.replay(read_events(store)).seconds()
    assert shown["s3ray_phase_seconds", (("phase", "generate"),)] == pytest.approx(seconds["generate"])


def test_events_of_others_are_passed_over(finished: RunStore) -> None:
    assert of_run(finished, "another") == []
