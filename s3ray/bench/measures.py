"""One cell's figures, from what its phase left behind: plain values, and ``Missing`` where there is none. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from s3ray.bench.peaks import model_flops_use, peak_flops
from s3ray.bench.record import Life, PhaseRecord
from s3ray.bench.schema import Missing
from s3ray.bench.sweep import Cell
from s3ray.bench.windows import Window, growth, increase, level, shares_of, steady_window, whole_phase
from s3ray.books import Tally
from s3ray.types import EngineLimits, GenerationRequest

MAX_ERROR_RATE = 0.01
"""Share of failed requests from which a cell is flagged."""
TOLERANCE = 0.02
"""Relative difference between the pool's tokens and the engines' counters from which a cell is flagged."""

_NEVER_FULL = "the engines never had their fill; ask for more --requests, or fewer sequences"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one cell left behind.

    ``limits`` are those of each engine, ``starts_s`` how long each took until it was ready, ``restarts`` how many
    engines were lost from the first start on, ``e2e_s`` the seconds of each request that was answered.
    """

    cell: Cell
    engine: str
    record: PhaseRecord
    tally: Tally
    e2e_s: Sequence[float]
    limits: Sequence[EngineLimits]
    starts_s: Sequence[float]
    restarts: int
    work: str
    parameters: int | Missing
    devices_per_engine: float | Missing
    min_seconds: float

    @property
    def num_devices(self) -> float | Missing:
        """Devices of all engines."""
        each = self.devices_per_engine
        return each if isinstance(each, Missing) else each * self.cell.engines


def work_of(requests: Sequence[GenerationRequest]) -> str:
    """A short name (16 hex digits) for what is asked: equal requests in equal order, equal names."""
    return hashlib.sha256("\n".join(request.id for request in requests).encode()).hexdigest()[:16]


def cell_tree(measured: Measured) -> dict[str, Any]:
    """The fields of ``schema.CellProfile``.

    Raises:
        ValueError: no request of the phase was answered.
    """
    cell, record, tally = measured.cell, measured.record, measured.tally
    whole, steady = whole_phase(record), steady_window(record)
    has_steady = steady.seconds > 0
    fast = steady if has_steady else whole
    running = level(record.lives, lambda stats: stats.num_running, fast)
    return {
        **asdict(cell),
        "work": measured.work,
        "start_s": max(measured.starts_s),
        "limits": _limits(measured.limits),
        "volumes": {
            "warm_up_requests": cell.num_warm_up,
            "accepted": tally.accepted,
            "rejected": dict(tally.rejected),
            "failed": dict(tally.failed),
            "prompt_tokens": tally.prompt_tokens,
            "cached_tokens": tally.cached_tokens,
            "output_tokens": tally.output_tokens,
        },
        "steady": _steady_rates(measured, steady) if has_steady else Missing(_NEVER_FULL),
        "whole": _rates(
            measured, whole.seconds, tally.output_tokens, max(0, tally.prompt_tokens - tally.cached_tokens)
        ),
        "tail_s": whole.end - steady.end,
        "running": _level(running),
        "latency": _latency(measured),
        "cache": _cache(measured, fast),
        "shares": asdict(shares_of(record, cell.engines)),
        "mfu": _mfu(measured, fast),
        "yield": _yield(measured, whole.seconds),
        "counters": (counters := _counters(measured)),
        "validity": _validity(measured, steady, counters),
    }


def _limits(limits: Sequence[EngineLimits]) -> dict[str, int] | Missing:
    names = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_kv_tokens")
    each = [{name: getattr(one, name) for name in names} for one in limits]
    different = [name for name in names if len({one[name] for one in each}) > 1]
    if different:
        told = "; ".join(f"{name} {', '.join(str(one[name]) for one in each)}" for name in different)
        return Missing(f"the engines resolved different ones: {told}")
    return each[0]


def _steady_rates(measured: Measured, steady: Window) -> dict[str, Any]:
    lives = measured.record.lives
    output = increase(lives, lambda stats: stats.num_output_tokens, steady)
    prefill = increase(lives, lambda stats: stats.num_prompt_tokens - stats.num_cached_tokens, steady)
    return _rates(measured, steady.seconds, output, prefill)


def _rates(measured: Measured, seconds: float, output: float, prefill: float) -> dict[str, Any]:
    devices = measured.num_devices
    rates: dict[str, Any] = {"seconds": seconds}
    for name, tokens in (("output", output), ("prefill", prefill)):
        rate = tokens / seconds if seconds else 0.0
        rates[f"{name}_tokens_per_s"] = rate
        rates[f"{name}_tokens_per_s_per_device"] = devices if isinstance(devices, Missing) else rate / devices
    return rates


def spread(seconds: Sequence[float], otherwise: str) -> dict[str, Any] | Missing:
    """The fields of ``schema.Spread``; percentiles between two values are interpolated."""
    if not seconds:
        return Missing(otherwise)
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
    return {
        "num": len(seconds),
        "mean": float(np.mean(seconds)),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": float(max(seconds)),
    }


def _latency(measured: Measured) -> dict[str, Any]:
    timings = measured.record.timings
    untold = f"engine {measured.engine} does not tell it"
    later = [timing.per_token_s for timing in timings if timing.per_token_s is not None]
    return {
        "queue_s": spread([timing.queue_s for timing in timings], untold),
        "ttft_s": spread([timing.first_token_s for timing in timings], untold),
        "tpot_s": spread(later, "no answer had a second token" if timings else untold),
        "e2e_s": spread(measured.e2e_s, "no request was answered"),
    }


def _cache(measured: Measured, window: Window) -> dict[str, Any]:
    tally, lives = measured.tally, measured.record.lives
    if measured.engine != "vllm":
        untold = Missing(f"engine {measured.engine} does not tell it")
        return {"prefix_hit_rate": untold, "kv_use": untold, "preemptions": untold}
    hit_rate = tally.cached_tokens / tally.prompt_tokens if tally.prompt_tokens else Missing("no prompt was read")
    return {
        "prefix_hit_rate": hit_rate,
        "kv_use": _level(level(lives, lambda stats: stats.kv_use, window)),
        "preemptions": int(growth(lives, lambda stats: stats.num_preemptions)),
    }


def _level(found: tuple[float, float] | None) -> dict[str, float] | Missing:
    if found is None:
        return Missing("the phase was over before an engine told of itself")
    mean, peak = found
    return {"mean": mean, "peak": peak}


def _mfu(measured: Measured, window: Window) -> float | Missing:
    lives: Sequence[Life] = measured.record.lives
    first = measured.limits[0]
    peak = peak_flops(first.device, first.device_name, first.dtype)
    tokens = increase(
        lives, lambda stats: stats.num_output_tokens + stats.num_prompt_tokens - stats.num_cached_tokens, window
    )
    rate = tokens / window.seconds if window.seconds else 0.0
    return model_flops_use(measured.parameters, rate, measured.num_devices, peak)


def _yield(measured: Measured, seconds: float) -> dict[str, Any]:
    tally, devices = measured.tally, measured.num_devices
    device_s: float | Missing = Missing("no example was accepted")
    if isinstance(devices, Missing):
        device_s = devices
    elif tally.accepted:
        device_s = devices * seconds / tally.accepted
    return {
        "accept_rate": tally.accepted / tally.requested,
        "accepted_per_s": tally.accepted / seconds if seconds else 0.0,
        "device_s_per_accepted": device_s,
    }


def _counters(measured: Measured) -> dict[str, Any]:
    tally, record = measured.tally, measured.record
    told = {
        "output": (tally.output_tokens, growth(record.lives, lambda stats: stats.num_output_tokens)),
        "prompt": (tally.prompt_tokens, growth(record.lives, lambda stats: stats.num_prompt_tokens)),
    }
    again = {"output": record.again_output_tokens, "prompt": record.again_prompt_tokens}
    counters: dict[str, Any] = {}
    for name, (pool, engine) in told.items():
        counters[f"pool_{name}_tokens"] = pool
        counters[f"engine_{name}_tokens"] = int(engine)
        counters[f"again_{name}_tokens"] = again[name]
        counters[f"{name}_difference"] = difference(pool, engine, again[name])
    return counters


def difference(pool: float, engine: float, again: float) -> float:
    """By how much the two disagree, relative to the pool's count: above 0 the engines computed more than was answered.

    Requests that were handed over more than once may have been computed once more than they were answered: up to
    ``again`` tokens more are no disagreement.
    """
    if engine > pool:
        return max(0.0, engine - pool - again) / max(1.0, pool)
    return (engine - pool) / max(1.0, pool)


def _validity(measured: Measured, steady: Window, counters: dict[str, Any]) -> dict[str, Any]:
    tally = measured.tally
    error_rate = sum(tally.failed.values()) / tally.requested
    differences = (counters["output_difference"], counters["prompt_difference"])
    first_readings = [life.readings[0][1] for life in measured.record.lives if life.readings]
    return {
        "real_engine": measured.engine != "fake",
        "warmed_up": all(stats.num_output_tokens > 0 for stats in first_readings),
        "long_enough": steady.seconds >= measured.min_seconds,
        "errors_rare": error_rate <= MAX_ERROR_RATE,
        "no_restarts": not measured.restarts,
        "counters_agree": all(abs(value) <= TOLERANCE for value in differences),
        "error_rate": error_rate,
        "restarts": measured.restarts,
    }
