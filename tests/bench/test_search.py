"""The search for faster settings: cheap ones first, on top of what gained, and nothing that is known or cannot be."""

import json
import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.bench.search import GAIN, Best, Candidate, Changes, Facts, Finding, search
from s3ray.config.engine_args import shaping_arguments
from s3ray.config.job import RunConfig
from s3ray.config.load import validate

Speed = Callable[[dict[str, Any]], float | None]


def facts(
    device: str = "cpu", requests: int = 96, *, fits: Callable[[Changes], str] = lambda _: "", **more: Any
) -> Facts:
    """Two engines of 16 sequences, unless ``generator`` says something else."""
    generator = {"engine": "vllm", "model": "m", "engines": 2, "max_num_seqs": 16, "max_num_batched_tokens": 1024}
    generator |= more.pop("generator", {})
    job = {"name": "job", "task": "imdb", "generator": generator}
    return Facts(config=validate(RunConfig, job), device=device, requests=requests, fits=fits, **more)


def follow(known: Facts, speed: Speed, kv_peak: float = 0.3) -> tuple[list[Candidate], Best]:
    """Search to the end among engines with these speeds (1: the job's own)."""
    generator = known.config.generator
    tried: list[Candidate] = []
    searching = search(known)
    candidate = next(searching)
    while True:
        tried.append(candidate)
        changes: dict[str, Any] = dict(candidate.changes)
        ratio = None if candidate.problem else speed(changes)
        finding = Finding(
            ratio=ratio,
            max_num_seqs=changes.get("generator.max_num_seqs", generator.max_num_seqs),
            max_num_batched_tokens=changes.get("generator.max_num_batched_tokens", generator.max_num_batched_tokens),
            kv_peak=kv_peak,
        )
        try:
            candidate = searching.send(finding)
        except StopIteration as ended:
            best: Best = ended.value
            return tried, best


def told(tried: list[Candidate], *, problem: bool) -> list[str]:
    return [candidate.setting for candidate in tried if bool(candidate.problem) == problem]


def test_where_nothing_gains_every_axis_is_tried_once_and_the_job_stays_as_it_is() -> None:
    tried, best = follow(facts(), lambda _: 1.0)
    assert best == Best(changes={}, ratio=1.0)
    assert told(tried, problem=False) == [
        "the job's own",
        "engines 1, max_num_seqs 32",
        "engines 4, max_num_seqs 8",
        "max_num_seqs 32",
        "max_num_batched_tokens 2048",
        "n-gram speculation, 3 ahead",
        "compiled",
    ]


def test_what_gains_is_kept_and_the_rest_is_tried_on_top_of_it() -> None:
    def speed(changes: dict[str, Any]) -> float:
        ratio = 1.2 if changes.get("generator.engines") == 1 else 1.0
        return ratio * (1.1 if "generator.engine_args.speculative_config" in changes else 1.0)

    tried, best = follow(facts(requests=10_000), speed)
    assert best.ratio == pytest.approx(1.32)
    assert best.changes["generator.engines"] == 1
    assert best.changes["generator.max_num_seqs"] == 32
    last = tried[-1]
    assert last.best == pytest.approx(1.32)
    assert last.on_top == ("engines 1, max_num_seqs 32", "n-gram speculation, 3 ahead")
    assert all(tried[place].key != tried[other].key for place in range(len(tried)) for other in range(place))


def test_a_ladder_is_climbed_while_each_step_gains() -> None:
    sequences = {16: 1.0, 32: 1.5, 64: 1.6, 128: 1.62}
    tried, best = follow(
        facts(requests=10_000, generator={"engine": "openai"}),
        lambda changes: sequences[changes.get("generator.max_num_seqs", 16)],
    )
    assert told(tried, problem=False) == ["the job's own", "max_num_seqs 32", "max_num_seqs 64", "max_num_seqs 128"]
    assert best == Best(changes={"generator.max_num_seqs": 64}, ratio=1.6)


def test_a_gain_within_the_spread_is_none() -> None:
    _, best = follow(facts(), lambda changes: 1.049 if changes else 1.0)
    assert best.changes == {}


def test_what_does_not_fit_or_cannot_help_is_named_and_not_measured() -> None:
    def fits(changes: Changes) -> str:
        return "4 engines do not fit" if changes.get("generator.engines") == 4 else ""

    tried, _ = follow(facts(requests=50, fits=fits), lambda _: 1.0)
    problems = {candidate.setting: candidate.problem for candidate in tried if candidate.problem}
    assert problems == {
        "engines 4, max_num_seqs 8": "4 engines do not fit",
        "max_num_seqs 32": "50 requests fill 2 x 32 sequences less than 1.5 times (--requests)",
        "kv_cache_gib 2": "the KV cache is never full (30% at most)",
        "suffix speculation": "arctic-inference is not installed",
        "KV cache in fp8": "it changes what is written; --lossy tries it",
    }


def test_a_full_kv_cache_asks_for_memory_and_fewer_sequences() -> None:
    tried, _ = follow(facts(), lambda _: 1.0, kv_peak=0.97)
    assert "max_num_seqs 8" in told(tried, problem=False)
    assert "kv_cache_gib 2" in told(tried, problem=False)
    assert "max_num_seqs 32" in told(tried, problem=True)


def test_what_failed_is_not_tried_again_on_top_of_something_else() -> None:
    def speed(changes: dict[str, Any]) -> float | None:
        if "generator.engine_args.enforce_eager" in changes:
            return None
        return 1.3 if changes.get("generator.max_num_batched_tokens") == 2048 else 1.0

    tried, best = follow(facts(), speed)
    assert best.changes == {"generator.max_num_batched_tokens": 2048}
    assert told(tried, problem=False).count("compiled") == 1


def test_gpus_are_grouped_anew_after_all_that_is_cheaper() -> None:
    generator = {"tensor_parallel": 2, "engines": 4, "max_num_seqs": 256, "max_num_batched_tokens": 8192}
    tried, _ = follow(facts("gpu", requests=100_000, generator=generator), lambda _: 1.0)
    names = told(tried, problem=False)
    assert names[-3:] == [
        "engines 8, tensor_parallel 1",
        "tensor_parallel 1, pipeline_parallel 2",
        "engines 2, tensor_parallel 4",
    ]
    assert names.index("n-gram speculation, 3 ahead") < names.index("engines 8, tensor_parallel 1")
    assert not any("compiled" in name or "kv_cache_gib" in name for name in names)


def test_formats_that_change_the_texts_are_tried_where_asked_for_and_marked() -> None:
    tried, _ = follow(facts("gpu", lossy=True), lambda _: 1.0)
    assert [candidate.setting for candidate in tried if candidate.lossy and not candidate.problem] == [
        "KV cache in fp8",
        "weights in fp8",
    ]
    assert not any(candidate.lossy for candidate in tried if "fp8" not in candidate.setting)


def test_formats_that_change_the_texts_are_those_that_shape_the_data() -> None:
    tried, _ = follow(facts("gpu", lossy=True, has_suffix=True), lambda _: 1.0)
    prefix = "generator.engine_args."
    for candidate in tried:
        given = {name.removeprefix(prefix): value for name, value in candidate.changes.items() if prefix in name}
        assert candidate.lossy == bool(shaping_arguments(given)), candidate


def test_a_job_that_speculates_is_tried_without() -> None:
    own = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}}
    tried, best = follow(
        facts(generator={"engine_args": own}),
        lambda changes: 1.25 if "generator.engine_args.speculative_config" in changes else 1.0,
    )
    assert "no speculation" in told(tried, problem=False)
    assert "n-gram speculation, 3 ahead" not in told(tried, problem=False)
    assert best.changes == {"generator.engine_args.speculative_config": None}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), device=st.sampled_from(["cpu", "gpu"]), engines=st.integers(1, 8))
def test_every_search_ends_measures_nothing_twice_and_repeats_itself(seed: int, device: str, engines: int) -> None:
    def speed(changes: dict[str, Any]) -> float | None:
        if not changes:
            return 1.0
        noise = zlib.crc32(f"{seed} {json.dumps(changes, sort_keys=True)}".encode()) % 1000 / 1000
        return None if noise > 0.9 else math.exp(noise - 0.5)

    known = facts(device, requests=100_000, lossy=True, has_suffix=True, generator={"engines": engines})
    tried, best = follow(known, speed)
    measured = [candidate.key for candidate in tried if not candidate.problem]
    assert len(measured) == len(set(measured)) < 100
    assert best.ratio >= 1.0
    assert best.changes == {} or speed(dict(best.changes)) == best.ratio > GAIN
    assert follow(known, speed) == (tried, best)
