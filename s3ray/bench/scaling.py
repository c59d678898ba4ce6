"""How much more engines do: strong scaling (the same requests) and weak scaling (the same for each engine). Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from s3ray.bench.schema import Missing
from s3ray.bench.sweep import Sweep

_NOT_YET = Missing("its cells were not measured")

Key = tuple[int, int, str, int]
"""Engines, sequences, prompts, requests of a cell."""


def scaling_tree(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | Missing:
    """The fields of ``schema.Scaling`` for each engine count but the smallest.

    ``cells`` are trees of ``measures.cell_tree``, of which some may still be missing. Seconds decide over strong
    scaling, and output tokens per second over weak scaling, both of the whole phase: its tail is what more engines make
    worse.
    """
    if len(sweep.engines) < 2:
        return Missing("one engine count was swept; --engines 1,2 compares two")
    base = sweep.base_engines
    rows = []
    for engines in sweep.engines:
        for limit in sweep.max_num_seqs:
            for prompts in sweep.prompts:
                if engines == base:
                    continue
                first: Key = (base, limit, prompts, sweep.requests)
                same: Key = (engines, limit, prompts, sweep.requests)
                more: Key = (engines, limit, prompts, sweep.weak_requests(engines))
                speedup = _ratio(_median(cells, first, "seconds"), _median(cells, same, "seconds"))
                rates = [_median(cells, key, "output_tokens_per_s") for key in (more, first)]
                rows.append(
                    {
                        "engines": engines,
                        "base_engines": base,
                        "max_num_seqs": limit,
                        "prompts": prompts,
                        "strong_speedup": speedup,
                        "strong_efficiency": _per_engine(speedup, engines, base),
                        "weak_efficiency": _per_engine(_ratio(*rates), engines, base),
                    }
                )
    return rows


def _median(cells: Sequence[Mapping[str, Any]], key: Key, name: str) -> float | Missing:
    names = ("engines", "max_num_seqs", "prompts", "requests")
    values = [cell["whole"][name] for cell in cells if tuple(cell[part] for part in names) == key]
    return statistics.median(values) if values else _NOT_YET


def _ratio(value: float | Missing, base: float | Missing) -> float | Missing:
    if isinstance(value, Missing) or isinstance(base, Missing):
        return _NOT_YET
    return value / base if base else Missing("nothing was measured there")


def _per_engine(ratio: float | Missing, engines: int, base: int) -> float | Missing:
    return ratio if isinstance(ratio, Missing) else ratio * base / engines
