"""The sentences beside the plots say what the numbers say, and nothing that these do not carry."""

from collections.abc import Mapping

import pytest

from s3ray.monitor.accounting import account
from s3ray.monitor.metrics import Metrics, RoundMetrics, shares
from s3ray.monitor.run_view import EngineMetrics
from s3ray.report.captions import (
    WAYS_OUT,
    data_caption,
    score_caption,
    speed_caption,
    starts_caption,
    time_caption,
    use_caption,
    yield_caption,
)
from s3ray.report.examples import DataFigures
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import Event, event_from_dict, read_events
from s3ray.telemetry.records import to_plain
from s3ray.types import EngineLimits, FailureReason, RejectionReason
from tests.monitor.run_folder import some_metrics


def _scored(*scores: float, metric: str = "accuracy") -> Metrics:
    rounds = [RoundMetrics(round=num, select={metric: score}) for num, score in enumerate(scores)]
    return some_metrics(metric=metric, rounds=(*rounds, RoundMetrics(round=len(scores))))


@pytest.mark.parametrize(
    ("scores", "begins"),
    [
        ((0.5, 0.8), "Better: +0.300 from round 0 to round 1."),
        ((0.8, 0.5), "Worse: -0.300 from round 0 to round 1. Round 0 was the best, 0.300 above the last"),
        ((0.80, 0.82), "No clear change: +0.020"),
        ((0.70, 0.95, 0.9), "Better: +0.200 from round 0 to round 2. Round 1 was the best, 0.050 above the last"),
        ((1.0, 1.0), "No clear change: +0.000 from round 0 to round 1."),
        ((0.8,), "There is one student so far"),
    ],
)
def test_a_change_is_called_one_only_beyond_what_so_few_rows_tell(scores: tuple[float, ...], begins: str) -> None:
    assert score_caption(_scored(*scores), 100).startswith(begins)


def test_how_sure_a_score_is_follows_from_the_rows_behind_it() -> None:
    assert "On 100 rows a score is sure to about ±0.098." in score_caption(_scored(0.2, 0.5), 100)
    assert "Better" in score_caption(_scored(0.80, 0.82), 10_000)
    assert "sure" not in score_caption(_scored(0.2, 0.5, metric="macro_f1"), 100)  # it is no mean over rows
    assert score_caption(some_metrics(), 100) == ""


def _round(num: int, accepted: int, failed: int = 0, **rejected: int) -> RoundMetrics:
    requested, by_reason = accepted + failed + sum(rejected.values()), {"timeout": failed} if failed else {}
    return RoundMetrics(round=num, requested=requested, accepted=accepted, rejected=rejected, failed=by_reason)


def test_the_commonest_reasons_are_named_and_the_first_with_its_way_out() -> None:
    told = yield_caption([_round(0, 60, truncated=30, refusal=8, empty=2), _round(1, 55, failed=5, truncated=40)])
    assert told.startswith("57% of 200 requests became rows. Lost most often as truncated (35%), refusal (4%) and")
    assert WAYS_OUT["truncated"] in told
    assert WAYS_OUT["refusal"] not in told
    assert "the share fell from 90% in round 0 to 30% in the last" in yield_caption(
        [_round(0, 90, empty=10), _round(1, 30, empty=70)]
    )
    assert yield_caption([_round(0, 10)]) == "100% of 10 requests became rows."
    assert yield_caption([]) == ""


def test_every_reason_has_a_way_out() -> None:
    assert set(WAYS_OUT) == {*RejectionReason, *FailureReason}


def _engine(state: str | None = "ready", restarts: int = 0) -> EngineMetrics:
    return EngineMetrics(state=state, restarts=restarts)


def test_a_slow_engine_is_named_also_among_many() -> None:
    engines = {f"engine-{num}": _engine() for num in range(40)}
    rates = dict.fromkeys(engines, 100.0) | {"engine-17": 60.0, "engine-3": 20.0}
    assert speed_caption(rates, engines) == (
        "Slow: engine-3 (20 tokens/s) and engine-17 (60 tokens/s), where the median engine wrote 100 tokens/s."
    )
    assert speed_caption({"a": 90.0, "b": 100.0}, {}) == "No engine was slow: 90 tokens/s to 100 tokens/s each."
    assert speed_caption({"a": 90.0}, {}) == "One engine wrote 90 tokens/s while it was writing."
    assert speed_caption({}, {}) == ""


def test_engines_that_other_runs_share_are_not_called_slow() -> None:
    shared = {"a": _engine(None), "b": _engine(None)}
    assert "Slow" not in speed_caption({"a": 1.0, "b": 20.0}, shared)
    assert "compare.html" in speed_caption({"a": 1.0, "b": 20.0}, shared)


def test_engines_that_were_lost_are_named() -> None:
    engines = {"a": _engine(restarts=2), "b": _engine("given up"), "c": _engine("lost")}
    told = speed_caption(dict.fromkeys(engines, 1.0), engines)
    assert told.endswith(" Started again after a loss: a. Given up: b. Lost at the end: c.")


def test_the_longest_phase_and_round_are_named() -> None:
    nothing = {"start": 0.0, "score": 0.0}
    seconds: list[Mapping[str, float]] = [
        {**nothing, "generate": 10.0, "train": 60.0},
        {**nothing, "generate": 10.0, "train": 20.0},
    ]
    rounds = [RoundMetrics(round=num, seconds=each) for num, each in enumerate(seconds)]
    assert time_caption(rounds) == "Most of it went into training: 1 min 20 s, 80%. Round 0 took longest, 1 min 10 s."
    assert time_caption([]) == ""


def test_engines_and_train_workers_are_said_to_wait_for_each_other(finished: RunStore) -> None:
    booked = account(read_events(finished))
    told = use_caption(shares(booked.engines), shares(booked.trainers))
    assert told.startswith("Engines were busy for ")
    assert "waiting for training" in told
    assert "Train workers were busy for " in told
    assert "waiting for generation" in told
    assert use_caption(shares([]), shares([])) == ""


def test_what_starts_have_cost_is_said() -> None:
    def event(time: float, kind: str, **fields: object) -> Event:
        return event_from_dict({"time": time, "run": "a", "attempt": 1, "event": kind, "engine": "engine-0", **fields})

    limits = EngineLimits(
        max_num_seqs=1, max_num_batched_tokens=1, max_model_len=1, num_kv_tokens=1, dtype="float32", device="gpu"
    )
    known = {"limits": to_plain(limits), "running": 1, "wanted": 1}
    happened = [
        event(0, "engine_starting"),
        event(60, "engine_ready", seconds=60, **known),
        event(100, "engine_asleep", level=1),
        event(190, "engine_awake", seconds=10, **known),
        event(200, "engine_stopped"),
        event(200, "engine_starting"),
        event(280, "engine_ready", seconds=80, **known),
        event(300, "engine_stopped"),
    ]
    assert starts_caption(account(happened[:2]).engines) == "Engines started once, in 1 min 00 s: 100% of their time."
    told = starts_caption(account(happened).engines)
    assert told == "Engines started 2 times, in 1 min 10 s each and woke from sleep once, in 10 s: 50% of their time."
    assert starts_caption([]) == ""


def _figures(name: str, words: float, **labels: int) -> DataFigures:
    return DataFigures(name=name, num_rows=sum(labels.values()) or 10, labels=labels, words=(1, words, 99))


def test_rows_that_differ_from_gold_are_said_to() -> None:
    gold = _figures("gold", 10, no=50, yes=50)
    like = data_caption([gold, _figures("round 0", 11, no=48, yes=52)])
    assert like == "Much like gold in shares of labels and length: about 11 words a text where gold has 10."
    told = data_caption([gold, _figures("round 0", 30, no=100)])
    assert told == (
        "Unlike gold: labels are out of balance: no 100% (gold 50%) and yes 0% (gold 50%); "
        "texts are longer, about 30 words where gold has 10."
    )
    assert "length" in data_caption([_figures("gold", 10), _figures("round 0", 10)])
    assert data_caption([gold]) == ""
