"""A cell's figures: what they are made from, what is missing where, and each flag that says a figure means nothing."""

from typing import Any

import pytest

from s3ray.bench.measures import TOLERANCE, cell_tree, difference, spread, work_of
from s3ray.bench.record import PhaseRecord
from s3ray.bench.schema import Missing, Validity
from s3ray.bench.sweep import Cell
from tests.bench.phases import limits, measured, profile, tally, two_engines
from tests.sources import make_request


def figures(**changes: Any) -> dict[str, Any]:
    return cell_tree(measured(**changes))


def false_flags(**changes: Any) -> list[str]:
    return Validity.model_validate(figures(**changes)["validity"]).false


def test_rates_are_of_all_engines_and_of_each_device() -> None:
    tree = figures(devices_per_engine=2.0)
    steady, whole = tree["steady"], tree["whole"]
    assert whole["seconds"] == 24
    assert whole["output_tokens_per_s"] == pytest.approx(2250 / 24)
    assert whole["output_tokens_per_s_per_device"] == pytest.approx(2250 / 24 / 4)
    assert whole["prefill_tokens_per_s"] == pytest.approx((8000 - 4000) / 24), "cached tokens are not computed"
    assert steady["seconds"] == 20
    assert steady["output_tokens_per_s"] == pytest.approx(2 * (500 * 10 / 11 + 500) / 20)
    assert steady["prefill_tokens_per_s"] == pytest.approx(2 * (1000 * 10 / 11 + 1000) / 20)
    assert tree["tail_s"] == 4


def test_yield_counts_what_a_run_would_keep() -> None:
    told = figures(devices_per_engine=2.0)["yield"]
    assert told["accept_rate"] == 0.75
    assert told["accepted_per_s"] == pytest.approx(150 / 24)
    assert told["device_s_per_accepted"] == pytest.approx(4 * 24 / 150), "devices are paid for while they idle too"
    assert isinstance(figures(tally=tally(accepted=0))["yield"]["device_s_per_accepted"], Missing)


def test_use_of_the_device_is_two_flops_per_parameter_and_token() -> None:
    tokens_per_s = 2 * (1500 * 10 / 11 + 1500) / 20
    assert figures()["mfu"] == pytest.approx(2e9 * tokens_per_s / (2 * 989.5e12))


def test_latencies_are_percentiles_of_single_requests() -> None:
    latency = figures()["latency"]
    assert latency["queue_s"]["p50"] == pytest.approx(0.2)
    assert latency["ttft_s"]["max"] == pytest.approx(0.8)
    assert latency["tpot_s"]["num"] == 4, "an answer of one token has no later one"
    assert latency["e2e_s"] == spread([1.0, 2.0, 3.0], "")


def test_percentiles_are_those_of_numpy() -> None:
    told = spread([float(value) for value in range(1, 102)], "")
    assert isinstance(told, dict)
    assert (told["p50"], told["p90"], told["p99"], told["mean"], told["max"]) == (51, 91, 100, 51, 101)
    assert spread([], "nobody answered") == Missing("nobody answered")


def test_the_cache_and_what_waits() -> None:
    tree = figures()
    assert tree["cache"]["prefix_hit_rate"] == 0.5
    assert tree["cache"]["kv_use"]["peak"] == 0.8
    assert tree["running"]["mean"] == pytest.approx((8 + 4 + 8 + 8) / 4)


def test_what_an_engine_does_not_tell_is_missing_with_its_name() -> None:
    record = two_engines()
    record.timings.clear()
    tree = figures(engine="fake", record=record, limits=[limits(device="fake", device_name="")] * 2)
    for part, name in (("cache", "kv_use"), ("cache", "prefix_hit_rate"), ("latency", "ttft_s"), ("latency", "tpot_s")):
        assert tree[part][name] == Missing("engine fake does not tell it")
    assert isinstance(tree["mfu"], Missing)


def test_engines_that_resolved_different_limits_have_none_in_common() -> None:
    told = figures(limits=[limits(), limits(num_kv_tokens=1)])["limits"]
    assert told == Missing("the engines resolved different ones: num_kv_tokens 40000, 1")


def test_too_few_requests_have_no_steady_window() -> None:
    record = two_engines()
    record.dry_at = record.started_at
    tree = figures(record=record)
    assert isinstance(tree["steady"], Missing)
    assert "--requests" in tree["steady"].reason
    assert false_flags(record=record) == ["long_enough"]
    profile(measured(record=record))  # and the profile stands


def test_a_phase_without_answers_has_no_figures() -> None:
    with pytest.raises(ValueError, match="answered"):
        figures(record=PhaseRecord())


def test_a_good_cell_has_no_false_flag() -> None:
    assert false_flags() == []


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"engine": "fake"}, "real_engine"),
        ({"min_seconds": 21.0}, "long_enough"),
        ({"tally": tally(accepted=147, failed={"timeout": 3})}, "errors_rare"),
        ({"restarts": 1}, "no_restarts"),
        ({"tally": tally(output_tokens=2250 * 97 // 100)}, "counters_agree"),
        ({"tally": tally(prompt_tokens=8000 * 103 // 100)}, "counters_agree"),
    ],
)
def test_each_flag_can_be_false_alone(changes: dict[str, Any], flag: str) -> None:
    assert false_flags(**changes) == [flag]


def test_an_engine_that_wrote_nothing_before_is_not_warm() -> None:
    record = two_engines()
    at, stats = record.lives[1].readings[0]
    assert stats.num_output_tokens
    record.lives[1].readings[0] = (at, type(stats)())
    assert "warmed_up" in false_flags(record=record)


@pytest.mark.parametrize(
    ("pool", "engine", "again", "expected"),
    [
        (1000, 1000, 0, 0.0),
        (1000, 1030, 0, 0.03),
        (1000, 1030, 30, 0.0),
        (1000, 1030, 20, 0.01),
        (1000, 1010, 500, 0.0),
        (1000, 960, 500, -0.04),
        (0, 0, 0, 0.0),
    ],
)
def test_what_was_computed_twice_explains_more_tokens_but_not_fewer(
    pool: int, engine: int, again: int, expected: float
) -> None:
    assert difference(pool, engine, again) == pytest.approx(expected)


def test_the_limit_is_two_percent() -> None:
    assert TOLERANCE == 0.02


def test_work_is_named_by_its_requests_in_their_order() -> None:
    requests = [make_request(index) for index in range(3)]
    assert work_of(requests) == work_of([make_request(index) for index in range(3)])
    assert len({work_of(requests), work_of(requests[::-1]), work_of(requests[:2])}) == 3


def test_a_cell_warms_up_as_many_as_its_engines_decode() -> None:
    assert Cell(engines=3, max_num_seqs=16, prompts="seed", requests=1, repeat=0).num_warm_up == 48
