"""Strong scaling by seconds, weak scaling by tokens, both against the smallest engine count."""

import pytest

from s3ray.bench.scaling import scaling_tree
from s3ray.bench.schema import Missing
from s3ray.bench.sweep import Sweep

SWEEP = Sweep(engines=(1, 2, 4), max_num_seqs=(8,), prompts=("seed",), requests=100, repeats=1)


def cell(engines: int, requests: int, seconds: float, tokens: float = 10000.0) -> dict[str, object]:
    whole = {"seconds": seconds, "output_tokens_per_s": tokens / seconds}
    return {"engines": engines, "max_num_seqs": 8, "prompts": "seed", "requests": requests, "whole": whole}


def test_efficiencies() -> None:
    cells = [
        cell(1, 100, 40.0),
        cell(2, 100, 25.0),
        cell(2, 200, 44.0, 20000.0),
        cell(4, 100, 16.0),
        cell(4, 400, 50.0, 40000.0),
    ]
    told = scaling_tree(SWEEP, cells)
    assert isinstance(told, list)
    two, four = told
    assert (two["engines"], two["base_engines"]) == (2, 1)
    assert two["strong_speedup"] == pytest.approx(40 / 25)
    assert two["strong_efficiency"] == pytest.approx(0.8)
    assert two["weak_efficiency"] == pytest.approx(40 / 44)
    assert four["strong_efficiency"] == pytest.approx(40 / 16 / 4)
    assert four["weak_efficiency"] == pytest.approx(0.8)


def test_repeats_count_by_their_median() -> None:
    cells = [cell(1, 100, seconds) for seconds in (38.0, 40.0, 90.0)] + [cell(2, 100, 20.0)]
    told = scaling_tree(SWEEP, cells)
    assert isinstance(told, list)
    assert told[0]["strong_efficiency"] == pytest.approx(1.0)


def test_what_is_not_measured_yet_is_missing() -> None:
    told = scaling_tree(SWEEP, [cell(1, 100, 40.0), cell(2, 100, 25.0)])
    assert isinstance(told, list)
    assert isinstance(told[0]["weak_efficiency"], Missing)
    assert isinstance(told[1]["strong_speedup"], Missing)


def test_one_engine_count_scales_nothing() -> None:
    one = Sweep(engines=(2,), max_num_seqs=(8,), prompts=("seed",), requests=100, repeats=1)
    told = scaling_tree(one, [cell(2, 100, 25.0)])
    assert isinstance(told, Missing)
    assert "--engines" in told.reason
