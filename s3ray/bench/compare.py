"""Two profiles side by side: which cells can be compared, and by how much they differ beside their own spread. Pure."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s3ray.bench.files import value_in
from s3ray.bench.schema import Profile
from s3ray.errors import InputError

Key = tuple[int, int, str, int]
"""Engines, sequences, prompts and requests: what makes a cell of one profile that of another."""

FIGURES = (
    "steady.output_tokens_per_s",
    "whole.output_tokens_per_s",
    "whole.prefill_tokens_per_s",
    "yield.accepted_per_s",
    "yield.device_s_per_accepted",
    "latency.ttft_s.p50",
    "latency.tpot_s.p50",
    "latency.e2e_s.p50",
    "start_s",
)
"""What is compared, as paths in a cell."""

_SAME = (
    "task",
    "strategy",
    "engine",
    "model.name",
    "model.dtype",
    "prompt_form",
    "sampling",
    "tensor_parallel",
    "pipeline_parallel",
    "machine.device",
    "machine.device_name",
    "machine.devices_per_engine",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """New over old, of the medians; ``low`` to ``high`` over all pairs of repeats, None where each has but one."""

    figure: str
    old: float
    new: float
    ratio: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Whether the two differ by more than their repeats do."""
        if self.low is None or self.high is None:
            return "one repeat"
        return "higher" if self.low > 1 else "lower" if self.high < 1 else "within spread"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellComparison:
    """One cell in both profiles. ``problem``: why it cannot be compared; ``notes``: what to know beside the ratios."""

    key: Key
    ratios: tuple[Ratio, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()


def compare_profiles(old: Profile, new: Profile) -> list[CellComparison]:
    """Every cell that both have, in the order of the new one.

    Raises:
        InputError: they measured different things, or have no cell in common; says what differs.
    """
    if different := differences(old, new):
        hint = "Ratios would say nothing about the code. Measure both with the same job on the same kind of machine."
        raise InputError(f"cannot be compared: {'; '.join(different)}", hint=hint)
    before, after = _by_key(old), _by_key(new)
    if not before.keys() & after.keys():
        hint = "Sweep the same engines, limits, prompts and requests in both."
        raise InputError("have no cell in common", hint=hint)
    return [_compare(key, before[key], after[key]) for key in after if key in before]


def differences(old: Profile, new: Profile) -> list[str]:
    """What makes two profiles measurements of different things, in words."""
    before, after = old.plain()["identity"], new.plain()["identity"]
    # The device of an engine on a CPU is a part of the machine's cores.
    same = (*_SAME, "machine.cpus") if before["machine"]["device"] == "cpu" else _SAME
    pairs = {path: (value_in(before, path), value_in(after, path)) for path in same}
    return [f"{path} {first!r}, {second!r}" for path, (first, second) in pairs.items() if first != second]


def _by_key(profile: Profile) -> dict[Key, list[dict[str, Any]]]:
    cells: dict[Key, list[dict[str, Any]]] = {}
    for cell in profile.plain()["cells"]:
        key = (cell["engines"], cell["max_num_seqs"], cell["prompts"], cell["requests"])
        cells.setdefault(key, []).append(cell)
    return cells


def _compare(key: Key, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> CellComparison:
    limits = {repr(cell["limits"]): cell["limits"] for cell in (*old, *new)}
    if len(limits) > 1:
        told = ", ".join(str(each) for each in limits.values())
        return CellComparison(key=key, problem=f"engines resolved different limits: {told}")
    ratios = (_ratio(figure, old, new) for figure in FIGURES)
    return CellComparison(key=key, ratios=tuple(ratio for ratio in ratios if ratio), notes=tuple(_notes(old, new)))


def _ratio(figure: str, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Ratio | None:
    """None where a repeat of either has no such figure, or where it is zero."""
    before, after = ([value_in(cell, figure) for cell in cells] for cells in (old, new))
    if not all((*before, *after)):
        return None
    first, second = statistics.median(before), statistics.median(after)
    has_spread = len(before) > 1 and len(after) > 1
    return Ratio(
        figure=figure,
        old=first,
        new=second,
        ratio=second / first,
        low=min(after) / max(before) if has_spread else None,
        high=max(after) / min(before) if has_spread else None,
    )


def _notes(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    notes = [
        f"{name}: {flag} is false"
        for name, cells in (("old", old), ("new", new))
        for flag in dict.fromkeys(flag for cell in cells for flag in _false(cell["validity"]))
    ]
    if {cell["work"] for cell in old} != {cell["work"] for cell in new}:
        notes.append("the requests are not the same ones")
    return notes


def _false(validity: Mapping[str, Any]) -> list[str]:
    return [name for name, value in validity.items() if value is False]
