"""The figures of a profile's cells, from the records of each phase, and how they scale. Pure.

A figure that is not available raises ``UnknownError`` where it is computed; ``known`` turns that into None and a note.
"""

import hashlib
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s3ray.bench.profile import (
    BatchLimit,
    Cache,
    Cell,
    CellProfile,
    Count,
    Counters,
    Key,
    Latency,
    Rates,
    Scaling,
    Spread,
    Sweep,
    UnknownError,
    Validity,
    Volumes,
    known,
)
from s3ray.bench.record import (
    Counted,
    PhaseRecord,
    Window,
    growth,
    increase,
    level,
    shares_of,
    steady_window,
    whole_phase,
)
from s3ray.rounds.journal import Tally
from s3ray.types import EngineLimits, GenerationRequest

MAX_ERROR_RATE = 0.01
"""Share of failed requests from which a cell is flagged."""
TOLERANCE = 0.02
"""Relative difference between the pool's tokens and the engines' counters from which a cell is flagged."""

_NEVER_FULL = "no engine ever had as many requests as it decodes at once; ask for more --requests, or fewer sequences"

# Dense FLOP/s (without structured sparsity, with which datasheets like to print the double) of the tensor cores in 16
# bit, from NVIDIA's datasheets: "A100 Tensor Core GPU", "H100 Tensor Core GPU" and "H200 Tensor Core GPU" (columns SXM
# and NVL), "H100 PCIe GPU", "HGX B200", "L4", "L40S", "A10", "T4", "V100"; of the A10G from the datasheet "NVIDIA A10G"
# that AWS publishes with its G5 instances. T4 and V100 have no bfloat16.
# Part of the device name that the driver reports, most specific first; peak in TFLOP/s; formats that it holds for.
_TERA = 1e12
_BOTH = ("bfloat16", "float16")
_HALF = ("float16",)
_PEAKS: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("B200", 2250.0, _BOTH),
    ("H200 NVL", 835.5, _BOTH),
    ("H200", 989.5, _BOTH),
    ("H100 PCIe", 756.0, _BOTH),
    ("H100 80GB HBM2e", 756.0, _BOTH),  # what older drivers call the PCIe card
    ("H100 NVL", 835.5, _BOTH),
    ("H100", 989.5, _BOTH),
    ("A100", 312.0, _BOTH),
    ("L40S", 362.0, _BOTH),
    ("L4", 121.0, _BOTH),
    ("A10G", 70.0, _BOTH),
    ("A10", 125.0, _BOTH),
    ("Tesla T4", 65.0, _HALF),
    ("V100 PCIE", 112.0, _HALF),
    ("V100", 125.0, _HALF),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The raw measurements of one cell.

    ``limits`` are those of each engine, ``starts_s`` the seconds that each took to start, ``restarts`` the number of
    engines lost since the first start, ``e2e_s`` the seconds of each answered request, ``work`` a digest of the
    requests (``work_of``). ``parameters`` of the model and ``devices_per_engine`` are None where unknown.
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
    parameters: int | None
    devices_per_engine: float | None
    min_seconds: float

    def num_devices(self) -> float:
        """Devices of all engines.

        Raises:
            UnknownError: the engines are an endpoint's.
        """
        if self.devices_per_engine is None:
            raise UnknownError("nobody knows an endpoint's devices")
        return self.devices_per_engine * self.cell.engines


def work_of(requests: Sequence[GenerationRequest]) -> str:
    """A digest (16 hex digits) of the requests and their order."""
    return hashlib.sha256("\n".join(request.id for request in requests).encode()).hexdigest()[:16]


# -- one cell ------------------------------------------------------------------------------------------------------


def cell_profile(measured: Measured, notes: list[str]) -> CellProfile:
    """All figures of a cell. For each that is not known a note says why, by its path in the cell.

    Raises:
        ValueError: no request of the phase was answered.
    """
    cell, record, tally = measured.cell, measured.record, measured.tally
    whole, steady = whole_phase(record), steady_window(record)
    fast = steady if steady.seconds > 0 else whole
    computed = max(0, tally.prompt_tokens - tally.cached_tokens)
    counters = _counters(measured)
    return CellProfile(
        **cell.model_dump(),
        work=measured.work,
        start_s=max(measured.starts_s),
        limits=known(notes, "limits", lambda: _limits(measured.limits)),
        volumes=Volumes(
            warm_up_requests=cell.num_warm_up,
            accepted=tally.accepted,
            rejected=dict(tally.rejected),
            failed=dict(tally.failed),
            prompt_tokens=tally.prompt_tokens,
            cached_tokens=tally.cached_tokens,
            output_tokens=tally.output_tokens,
        ),
        steady=known(notes, "steady", lambda: _steady_rates(measured, steady, notes)),
        whole=_rates(measured, "whole", whole.seconds, tally.output_tokens, computed, notes),
        tail_s=whole.end - steady.end,
        running=known(notes, "running", lambda: level(record.lives, lambda stats: stats.num_running, fast)),
        latency=_latency(measured, notes),
        cache=known(notes, "cache", lambda: _cache(measured, fast, notes)),
        shares=shares_of(record, cell.engines),
        mfu=known(notes, "mfu", lambda: _mfu(measured, fast)),
        accept_rate=tally.accepted / tally.requested,
        accepted_per_s=tally.accepted / whole.seconds if whole.seconds else 0.0,
        device_s_per_accepted=known(
            notes, "device_s_per_accepted", lambda: _device_s_per_accepted(measured, whole.seconds)
        ),
        counters=counters,
        validity=_validity(measured, steady, counters),
    )


def _limits(limits: Sequence[EngineLimits]) -> dict[str, int]:
    names = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_kv_tokens")
    values = {name: [getattr(one, name) for one in limits] for name in names}
    different = [f"{name} {', '.join(map(str, each))}" for name, each in values.items() if len(set(each)) > 1]
    if different:
        raise UnknownError(f"the engines resolved different ones: {'; '.join(different)}")
    return {name: each[0] for name, each in values.items()}


def _steady_rates(measured: Measured, steady: Window, notes: list[str]) -> Rates:
    if steady.seconds <= 0:
        raise UnknownError(_NEVER_FULL)
    lives = measured.record.lives
    output = increase(lives, lambda stats: stats.num_output_tokens, steady)
    prefill = increase(lives, lambda stats: stats.num_prompt_tokens - stats.num_cached_tokens, steady)
    return _rates(measured, "steady", steady.seconds, output, prefill, notes)


def _rates(measured: Measured, path: str, seconds: float, output: float, prefill: float, notes: list[str]) -> Rates:
    rate = output / seconds if seconds else 0.0
    each = known(notes, f"{path}.output_tokens_per_s_per_device", lambda: rate / measured.num_devices())
    return Rates(
        seconds=seconds,
        output_tokens_per_s=rate,
        output_tokens_per_s_per_device=each,
        prefill_tokens_per_s=prefill / seconds if seconds else 0.0,
    )


def spread(seconds: Sequence[float], otherwise: str = "") -> Spread:
    """The distribution of single values; percentiles between two of them are interpolated.

    Raises:
        UnknownError: there is no value; ``otherwise`` is its text.
    """
    if not seconds:
        raise UnknownError(otherwise)
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
    mean, most = float(np.mean(seconds)), float(max(seconds))
    return Spread(num=len(seconds), mean=mean, p50=p50, p90=p90, p99=p99, max=most)


def _latency(measured: Measured, notes: list[str]) -> Latency:
    timings = measured.record.timings
    untold = f"engine {measured.engine} does not tell it"
    later = [timing.per_token_s for timing in timings if timing.per_token_s is not None]

    def of(name: str, seconds: Sequence[float], otherwise: str) -> Spread | None:
        return known(notes, f"latency.{name}", lambda: spread(seconds, otherwise))

    return Latency(
        queue_s=of("queue_s", [timing.queue_s for timing in timings], untold),
        ttft_s=of("ttft_s", [timing.first_token_s for timing in timings], untold),
        tpot_s=of("tpot_s", later, "no answer had a second token" if timings else untold),
        e2e_s=of("e2e_s", measured.e2e_s, "no request was answered"),
    )


def _cache(measured: Measured, window: Window, notes: list[str]) -> Cache:
    if measured.engine != "vllm":
        raise UnknownError(f"engine {measured.engine} does not tell it")
    tally = measured.tally

    def hit_rate() -> float:
        if not tally.prompt_tokens:
            raise UnknownError("no prompt was read")
        return tally.cached_tokens / tally.prompt_tokens

    return Cache(
        prefix_hit_rate=known(notes, "cache.prefix_hit_rate", hit_rate),
        kv_use=known(notes, "cache.kv_use", lambda: level(measured.record.lives, lambda stats: stats.kv_use, window)),
        preemptions=int(growth(measured.record.lives, lambda stats: stats.num_preemptions)),
    )


def _mfu(measured: Measured, window: Window) -> float:
    """Model FLOP/s over what all devices could do: 2 per parameter and token that went through the model.

    Attention itself is not counted, as in the usual approximation; long contexts therefore read a little low.
    """
    first = measured.limits[0]
    peak = peak_flops(first.device, first.device_name, first.dtype)
    if measured.parameters is None:
        raise UnknownError("the number of the model's parameters is not known")
    tokens = increase(
        measured.record.lives,
        lambda stats: stats.num_output_tokens + stats.num_prompt_tokens - stats.num_cached_tokens,
        window,
    )
    rate = tokens / window.seconds if window.seconds else 0.0
    return 2.0 * measured.parameters * rate / (peak * measured.num_devices())


def peak_flops(device: str, device_name: str, dtype: str) -> float:
    """Peak FLOP/s of one device in a number format; its name is the driver's (``NVIDIA H100 80GB HBM3``).

    Raises:
        UnknownError: the device, or this format on it, is not in the table above.
    """
    if device != "gpu":
        raise UnknownError("the device is no GPU, and its peak is not known")
    words = f" {device_name} ".replace("-", " ")
    if " MIG " in words:
        raise UnknownError(f"{device_name} is a part of a GPU, and its peak is not known")
    for name, tera, formats in _PEAKS:
        if f" {name} " in words:
            if dtype in formats:
                return tera * _TERA
            raise UnknownError(f"the peak of {device_name} is known in {' and '.join(formats)}, not in {dtype}")
    raise UnknownError(f"the peak of {device_name or 'a device without a name'} is not known")


def _device_s_per_accepted(measured: Measured, seconds: float) -> float:
    devices = measured.num_devices()
    if not measured.tally.accepted:
        raise UnknownError("no example was accepted")
    return devices * seconds / measured.tally.accepted


def _counters(measured: Measured) -> Counters:
    tally, record = measured.tally, measured.record

    def count(pool: int, again: int, counted: Counted) -> Count:
        engine = int(growth(record.lives, counted))
        return Count(pool=pool, engine=engine, again=again, difference=difference(pool, engine, again))

    return Counters(
        output=count(tally.output_tokens, record.again_output_tokens, lambda stats: stats.num_output_tokens),
        prompt=count(tally.prompt_tokens, record.again_prompt_tokens, lambda stats: stats.num_prompt_tokens),
    )


def difference(pool: float, engine: float, again: float) -> float:
    """Relative difference to the pool's count; above 0: the engines computed more than was answered.

    Requests that were handed over more than once may have been computed more often than they were answered, so up to
    ``again`` tokens more are no disagreement.
    """
    if engine > pool:
        return max(0.0, engine - pool - again) / max(1.0, pool)
    return (engine - pool) / max(1.0, pool)


def _validity(measured: Measured, steady: Window, counters: Counters) -> Validity:
    tally = measured.tally
    error_rate = sum(tally.failed.values()) / tally.requested
    first_readings = [life.readings[0][1] for life in measured.record.lives if life.readings]
    return Validity(
        real_engine=measured.engine != "fake",
        warmed_up=all(stats.num_output_tokens > 0 for stats in first_readings),
        long_enough=steady.seconds >= measured.min_seconds,
        errors_rare=error_rate <= MAX_ERROR_RATE,
        no_restarts=not measured.restarts,
        counters_agree=max(abs(counters.output.difference), abs(counters.prompt.difference)) <= TOLERANCE,
        error_rate=error_rate,
        restarts=measured.restarts,
    )


# -- all cells together --------------------------------------------------------------------------------------------


def scaling_of(sweep: Sweep, cells: Sequence[CellProfile], notes: list[str]) -> tuple[Scaling, ...] | None:
    """Each engine count against the smallest: strong scaling (the same requests) and weak (the same for each engine).

    Some ``cells`` of the sweep may still be missing. Strong scaling compares seconds, weak scaling output tokens per
    second, both of the whole phase: more engines make its tail longer.
    """
    if len(sweep.engines) < 2:
        notes.append("scaling: one engine count was swept; --engines 1,2 compares two")
        return None
    larger = [engines for engines in sweep.engines if engines != sweep.base_engines]
    combinations = itertools.product(larger, sweep.max_num_seqs, sweep.prompts)
    return tuple(
        _scaling(sweep, cells, combination, f"scaling.{place}", notes) for place, combination in enumerate(combinations)
    )


def _scaling(
    sweep: Sweep, cells: Sequence[CellProfile], combination: tuple[int, BatchLimit, str], path: str, notes: list[str]
) -> Scaling:
    engines, limit, prompts = combination
    base = sweep.base_engines
    first: Key = (base, limit, prompts, sweep.requests)
    same: Key = (engines, limit, prompts, sweep.requests)
    more: Key = (engines, limit, prompts, sweep.weak_requests(engines))

    def strong() -> float:
        return _ratio(cells, first, same, lambda rates: rates.seconds)

    def weak() -> float:
        return _ratio(cells, more, first, lambda rates: rates.output_tokens_per_s)

    return Scaling(
        engines=engines,
        base_engines=base,
        max_num_seqs=limit,
        prompts=prompts,
        strong_speedup=known(notes, f"{path}.strong_speedup", strong),
        strong_efficiency=known(notes, f"{path}.strong_efficiency", lambda: strong() * base / engines),
        weak_efficiency=known(notes, f"{path}.weak_efficiency", lambda: weak() * base / engines),
    )


def _ratio(cells: Sequence[CellProfile], above: Key, below: Key, figure: Callable[[Rates], float]) -> float:
    """The ratio of a figure in two cells, of the medians over their repeats."""
    values = [[figure(cell.whole) for cell in cells if cell.key == key] for key in (above, below)]
    if not all(values):
        raise UnknownError("its cells were not measured")
    first, second = map(statistics.median, values)
    if not second:
        raise UnknownError("nothing was measured there")
    return first / second
