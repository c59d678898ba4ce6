from pathlib import Path

import pytest

from s3ray.errors import StoreError
from s3ray.monitor.metrics import read_metrics
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import ChunkWritten, read_events
from tests.monitor.run_folder import metrics_of, new_store, write_run


def test_metrics_of_a_finished_run(finished: RunStore) -> None:
    metrics = metrics_of(finished)
    assert metrics.as_dict()["schema"] == 1
    assert (metrics.run, metrics.kind, metrics.metric) == ("quickstart", "classification", "accuracy")
    assert [entry.rows for entry in metrics.rounds] == [200, 260, 320]
    assert [entry.mistakes for entry in metrics.rounds] == [24, 18, None]
    assert metrics.as_dict()["test"] == {"accuracy": 0.8267, "macro_f1": 0.8251, "num_examples": 150}
    assert (metrics.test, metrics.num_test) == ({"accuracy": 0.8267, "macro_f1": 0.8251}, 150)
    assert (metrics.attempts, metrics.engines_lost) == (2, 1)


def test_every_round_balances(finished: RunStore) -> None:
    for entry in metrics_of(finished).rounds:
        ended = entry.accepted + sum(entry.rejected.values()) + sum(entry.failed.values())
        assert ended == entry.requested


def test_a_round_that_does_not_balance_is_refused(finished: RunStore) -> None:
    name = finished.round_report(1)
    finished.write_json(name, finished.read_json(name) | {"requested": 101})
    with pytest.raises(StoreError, match="round 1 does not balance"):
        metrics_of(finished)


def test_seconds_count_all_attempts_and_keep_waiting_for_engines_apart(finished: RunStore) -> None:
    metrics = metrics_of(finished)
    first = metrics.rounds[0]
    assert first.seconds["start"] == pytest.approx(2 * 9 + 6)
    assert first.output_tokens_per_s == pytest.approx(15600 / first.seconds["generate"])
    phases = ("start", "generate", "train", "score")
    assert sum(metrics.seconds[phase] for phase in phases) <= metrics.seconds["total"]


def test_the_pool_adds_up_over_restarts_and_attempts(finished: RunStore) -> None:
    pool = metrics_of(finished).pool
    written = [event for event in read_events(finished) if isinstance(event, ChunkWritten)]
    total, engines = pool.total, pool.engines
    assert list(engines) == ["engine-0", "engine-1"]
    assert total.output_tokens == sum(event.output_tokens for event in written)
    for name in ("rows", "output_tokens", "prompt_tokens", "cached_tokens", "preemptions", "restarts"):
        assert getattr(total, name) == sum(getattr(engine, name) for engine in engines.values())
    # engine-1 started three times: once an attempt, and once more after its death.
    assert (engines["engine-1"].restarts, engines["engine-1"].preemptions) == (1, 3)
    last = {event.attempt: event.engines["engine-0"].prompt_tokens for event in written}
    assert engines["engine-0"].prompt_tokens == sum(last.values())
    assert total.prefix_hit_rate == pytest.approx(0.75)
    assert (total.peak_running, engines["engine-0"].state) == (40, "stopped")
    # Neither the pauses for training nor the ten minutes without a driver make an engine idle.
    shares = [total.busy_share, *(engine.busy_share for engine in engines.values())]
    assert shares == pytest.approx([0.9, 1.0, 0.8], abs=0.01)


def test_every_second_of_engines_and_train_workers_has_one_use(finished: RunStore) -> None:
    metrics = metrics_of(finished)
    time = metrics.time
    assert time is not None
    assert (set(time.engines), time.trainers["train workers"].workers) == ({"engine-0", "engine-1"}, 2)
    each = [*time.engines.values(), *time.trainers.values()]
    assert time.total.seconds == pytest.approx(sum(one.seconds for one in each))
    for one in [time.total, *each]:
        assert sum(one.by_state.values()) == pytest.approx(1)
    assert 0 < (metrics.engine_busy_share or 0) < 1
    assert metrics.engine_start_s == pytest.approx((2 * (9 + 19) + 0) / 5)


def test_docs_name_every_use_of_time(finished: RunStore) -> None:
    page = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    time = metrics_of(finished).as_dict()["time"]
    for key in {
        *time,
        *time["total"],
        *time["trainers"]["train workers"],
        "engine_busy_share",
        "engine_start_s",
        "timeline.json",
    }:
        assert f"`{key}`" in page


def test_docs_name_every_key_of_the_pool(finished: RunStore) -> None:
    page = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    pool = metrics_of(finished).as_dict()["pool"]
    for key in {**pool["total"], **pool["engines"]["engine-0"]}:
        assert f"`{key}`" in page


def test_strategy_gold_has_one_round_that_wrote_nothing(tmp_path: Path) -> None:
    metrics = metrics_of(write_run(tmp_path / "gold", "gold"))
    assert [(entry.round, entry.requested, entry.rows) for entry in metrics.rounds] == [(0, 0, 120)]
    assert metrics.generator is None
    assert metrics.pool.engines == {}
    assert (metrics.pool.total.rows, metrics.pool.total.prefix_hit_rate) == (0, None)


def test_a_run_that_has_nothing_yet(tmp_path: Path) -> None:
    metrics = metrics_of(new_store(tmp_path / "run"))
    assert (metrics.rounds, metrics.metric, metrics.test, metrics.attempts) == ((), None, None, 0)


def test_the_checker_is_named_with_its_score_and_counts_as_training(finished: RunStore) -> None:
    before = metrics_of(finished)
    assert before.checker is None
    seconds = {"start": 2.0, "train": 11.0, "score": 1.0}
    score = {"rows": 120, "best_epoch": 2, "epochs": [], "select": {"accuracy": 0.75}, "seconds": seconds}
    finished.write_json("checker/score.json", score | {"main": "accuracy"})
    metrics = metrics_of(finished)
    assert metrics.checker is not None
    assert metrics.checker.select == {"accuracy": 0.75}
    assert metrics.seconds["train"] == before.seconds["train"] + 11.0
    assert "trained on 120 rows of gold in 14 s, selection accuracy 0.750" in finished_report(finished)


def finished_report(store: RunStore) -> str:
    write_report(store)
    return store.path("report.html").read_text(encoding="utf-8")


def test_metrics_come_back_from_disk_as_they_were(finished: RunStore) -> None:
    assert read_metrics(finished) == metrics_of(finished)
    assert finished.read_json("metrics.json") == metrics_of(finished).as_dict()


def test_what_older_commits_did_not_measure_is_unknown(finished: RunStore) -> None:
    plain = finished.read_json("metrics.json")
    for name in ("checker", "time", "engine_busy_share", "engine_start_s", "pool"):
        del plain[name]
    for entry in plain["rounds"]:
        del entry["device_s"]
    finished.write_json("metrics.json", plain)
    metrics = read_metrics(finished)
    assert (metrics.time, metrics.engine_start_s, metrics.pool.engines) == (None, None, {})
    assert metrics.rounds[0].device_s.generate is None
    assert metrics.score == 0.8267


def test_metrics_of_another_form_are_told_by_file_and_field(finished: RunStore) -> None:
    finished.write_json("metrics.json", finished.read_json("metrics.json") | {"seed": "many"})
    with pytest.raises(StoreError, match=r"metrics\.json: seed: "):
        read_metrics(finished)
