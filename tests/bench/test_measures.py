"""A cell's figures: what they are made from, what is not known where, and each flag that says a figure means nothing.

Also: how cells scale against the smallest engine count, and the peaks of devices.
"""

from typing import Any

import pytest

from s3ray.bench.measures import TOLERANCE, cell_profile, difference, peak_flops, scaling_of, spread, work_of
from s3ray.bench.profile import Cell, CellProfile, Rates, Sweep, UnknownError
from s3ray.bench.record import PhaseRecord
from tests.bench.phases import limits, measured, profile, tally, two_engines
from tests.sources import make_request


def figures(**changes: Any) -> CellProfile:
    return cell_profile(measured(**changes), [])


def notes(**changes: Any) -> list[str]:
    told: list[str] = []
    cell_profile(measured(**changes), told)
    return told


def false_flags(**changes: Any) -> list[str]:
    return figures(**changes).validity.false


def test_rates_are_of_all_engines_and_of_each_device() -> None:
    cell = figures(devices_per_engine=2.0)
    steady, whole = cell.steady, cell.whole
    assert whole.seconds == 24
    assert whole.output_tokens_per_s == pytest.approx(2250 / 24)
    assert whole.output_tokens_per_s_per_device == pytest.approx(2250 / 24 / 4)
    assert whole.prefill_tokens_per_s == pytest.approx((8000 - 4000) / 24), "cached tokens are not computed"
    assert steady is not None
    assert steady.seconds == 20
    assert steady.output_tokens_per_s == pytest.approx(2 * (500 * 10 / 11 + 500) / 20)
    assert steady.prefill_tokens_per_s == pytest.approx(2 * (1000 * 10 / 11 + 1000) / 20)
    assert cell.tail_s == 4


def test_the_yield_counts_what_a_run_would_keep() -> None:
    cell = figures(devices_per_engine=2.0)
    assert cell.accept_rate == 0.75
    assert cell.accepted_per_s == pytest.approx(150 / 24)
    assert cell.device_s_per_accepted == pytest.approx(4 * 24 / 150), "devices are paid for while they idle too"
    assert figures(tally=tally(accepted=0)).device_s_per_accepted is None
    assert notes(tally=tally(accepted=0)) == ["device_s_per_accepted: no example was accepted"]


def test_use_of_the_device_is_two_flops_per_parameter_and_token() -> None:
    tokens_per_s = 2 * (1500 * 10 / 11 + 1500) / 20
    assert figures().mfu == pytest.approx(2e9 * tokens_per_s / (2 * 989.5e12))
    half = round(0.5 * (2 * 989.5e12) / (2 * tokens_per_s))
    assert figures(parameters=half).mfu == pytest.approx(0.5)


def test_of_an_endpoint_nobody_knows_what_a_device_does() -> None:
    told = notes(engine="openai", devices_per_engine=None)
    for path in ("steady.output_tokens_per_s_per_device", "whole.output_tokens_per_s_per_device", "mfu"):
        assert f"{path}: nobody knows an endpoint's devices" in told
    assert "device_s_per_accepted: nobody knows an endpoint's devices" in told


def test_the_first_thing_that_is_not_known_is_why_its_use_is_not() -> None:
    unknown = {"parameters": None, "devices_per_engine": None}
    said = [note for note in notes(limits=[limits(device="cpu")], **unknown) if note.startswith("mfu")]
    said += [note for note in notes(**unknown) if note.startswith("mfu")]
    assert said == [
        "mfu: the device is no GPU, and its peak is not known",
        "mfu: the number of the model's parameters is not known",
    ]


def test_latencies_are_percentiles_of_single_requests() -> None:
    latency = figures().latency
    assert latency.queue_s is not None
    assert latency.queue_s.p50 == pytest.approx(0.2)
    assert latency.ttft_s is not None
    assert latency.ttft_s.max == pytest.approx(0.8)
    assert latency.tpot_s is not None
    assert latency.tpot_s.num == 4, "an answer of one token has no later one"
    assert latency.e2e_s == spread([1.0, 2.0, 3.0])


def test_percentiles_are_those_of_numpy() -> None:
    told = spread([float(value) for value in range(1, 102)])
    assert (told.p50, told.p90, told.p99, told.mean, told.max) == (51, 91, 100, 51, 101)
    with pytest.raises(UnknownError, match=r"^nobody answered$"):
        spread([], "nobody answered")


def test_the_cache_and_what_waits() -> None:
    cell = figures()
    assert cell.cache is not None
    assert cell.cache.prefix_hit_rate == 0.5
    assert cell.cache.kv_use is not None
    assert cell.cache.kv_use.peak == 0.8
    assert cell.running is not None
    assert cell.running.mean == pytest.approx((8 + 4 + 8 + 8) / 4)


def test_what_an_engine_does_not_tell_is_not_known_and_it_is_named() -> None:
    record = two_engines()
    record.timings.clear()
    told = notes(engine="fake", record=record, limits=[limits(device="fake", device_name="")] * 2)
    for path in ("cache", "latency.queue_s", "latency.ttft_s", "latency.tpot_s"):
        assert f"{path}: engine fake does not tell it" in told
    assert "mfu: the device is no GPU, and its peak is not known" in told


def test_engines_that_resolved_different_limits_have_none_in_common() -> None:
    different = [limits(), limits(num_kv_tokens=1)]
    assert figures(limits=different).limits is None
    assert notes(limits=different) == ["limits: the engines resolved different ones: num_kv_tokens 40000, 1"]


def test_too_few_requests_have_no_steady_window() -> None:
    record = two_engines()
    record.dry_at = record.started_at
    assert figures(record=record).steady is None
    (told,) = notes(record=record)
    assert told.startswith("steady: ")
    assert "--requests" in told
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


SWEEP = Sweep(engines=(1, 2, 4), max_num_seqs=(8,), prompts=("seed",), requests=100, repeats=1, min_seconds=10.0)


def cell(engines: int, requests: int, seconds: float, tokens: float = 10000.0) -> CellProfile:
    rate = tokens / seconds
    whole = Rates(
        seconds=seconds, output_tokens_per_s=rate, output_tokens_per_s_per_device=rate, prefill_tokens_per_s=rate
    )
    return figures().model_copy(update={"engines": engines, "requests": requests, "whole": whole})


def test_efficiencies() -> None:
    cells = [
        cell(1, 100, 40.0),
        cell(2, 100, 25.0),
        cell(2, 200, 44.0, 20000.0),
        cell(4, 100, 16.0),
        cell(4, 400, 50.0, 40000.0),
    ]
    told = scaling_of(SWEEP, cells, [])
    assert told is not None
    two, four = told
    assert (two.engines, two.base_engines) == (2, 1)
    assert two.strong_speedup == pytest.approx(40 / 25)
    assert two.strong_efficiency == pytest.approx(0.8)
    assert two.weak_efficiency == pytest.approx(40 / 44)
    assert four.strong_efficiency == pytest.approx(40 / 16 / 4)
    assert four.weak_efficiency == pytest.approx(0.8)


def test_repeats_count_by_their_median() -> None:
    cells = [cell(1, 100, seconds) for seconds in (38.0, 40.0, 90.0)] + [cell(2, 100, 20.0)]
    told = scaling_of(SWEEP, cells, [])
    assert told is not None
    assert told[0].strong_efficiency == pytest.approx(1.0)


def test_what_is_not_measured_yet_is_not_known() -> None:
    why: list[str] = []
    told = scaling_of(SWEEP, [cell(1, 100, 40.0), cell(2, 100, 25.0)], why)
    assert told is not None
    assert told[0].weak_efficiency is None
    assert told[1].strong_speedup is None
    assert why == [
        f"scaling.{path}: its cells were not measured"
        for path in ("0.weak_efficiency", "1.strong_speedup", "1.strong_efficiency", "1.weak_efficiency")
    ]


def test_one_engine_count_scales_nothing() -> None:
    why: list[str] = []
    assert scaling_of(SWEEP.model_copy(update={"engines": (2,)}), [cell(2, 100, 25.0)], why) is None
    (told,) = why
    assert "--engines" in told


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
    ],
)
def test_known_devices(name: str, tera: float) -> None:
    assert peak_flops("gpu", name, "bfloat16") == tera * 1e12


@pytest.mark.parametrize(
    ("device", "name", "dtype", "says"),
    [
        ("cpu", "AMD EPYC", "float32", "no GPU"),
        ("gpu", "NVIDIA GeForce RTX 4090", "bfloat16", "RTX 4090 is not known"),
        ("gpu", "NVIDIA GH200 480GB", "bfloat16", "is not known"),
        ("gpu", "", "bfloat16", "without a name"),
        ("gpu", "NVIDIA H100 80GB HBM3", "float32", "not in float32"),
        ("gpu", "Tesla T4", "bfloat16", "float16, not in bfloat16"),
        ("gpu", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", "part of a GPU"),
    ],
)
def test_unknown_peaks_have_a_reason(device: str, name: str, dtype: str, says: str) -> None:
    with pytest.raises(UnknownError, match=says):
        peak_flops(device, name, dtype)
