"""Profiles for the terminal, at most 100 columns wide, and two of them side by side.

Two profiles: which cells can be compared, and by how much they differ beside their own spread. Pure.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3ray.bench.profile import CellProfile, Key, Profile, Spread
from s3ray.errors import InputError

_COLUMNS = (
    "eng",
    "seqs",
    "prompts",
    "req",
    "steady",
    "whole",
    "prefill",
    "ttft",
    "tpot",
    "e2e",
    "hit",
    "busy",
    "acc/s",
)
_SAME = (
    *("task", "strategy", "engine", "model", "dtype", "prompt_form", "sampling"),
    *("tensor_parallel", "pipeline_parallel", "device", "device_name", "devices_per_engine"),
)
"""Fields of the identity that must be equal, or else ratios do not compare the code."""


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
        InputError: they measured different things, or have no cell in common.
    """
    if different := _differences(old, new):
        hint = "Ratios would say nothing about the code. Measure both with the same job on the same kind of machine."
        raise InputError(f"cannot be compared: {'; '.join(different)}", hint=hint)
    before, after = _by_key(old), _by_key(new)
    if not before.keys() & after.keys():
        hint = "Sweep the same engines, limits, prompts and requests in both."
        raise InputError("have no cell in common", hint=hint)
    return [_compare(key, before[key], after[key]) for key in after if key in before]


def _differences(old: Profile, new: Profile) -> list[str]:
    """What makes two profiles measurements of different things, in words."""
    # The device of an engine on a CPU is a part of the machine's cores.
    same = (*_SAME, "cpus") if old.identity.device == "cpu" else _SAME
    pairs = {name: (getattr(old.identity, name), getattr(new.identity, name)) for name in same}
    return [f"{name} {first!r}, {second!r}" for name, (first, second) in pairs.items() if first != second]


def _by_key(profile: Profile) -> dict[Key, list[CellProfile]]:
    cells: dict[Key, list[CellProfile]] = {}
    for cell in profile.cells:
        cells.setdefault(cell.key, []).append(cell)
    return cells


def _compare(key: Key, old: list[CellProfile], new: list[CellProfile]) -> CellComparison:
    if told := list(dict.fromkeys(str(cell.limits) for cell in (*old, *new)))[1:]:
        problem = f"engines resolved different limits: {', '.join([str(old[0].limits), *told])}"
        return CellComparison(key=key, problem=problem)
    before, after = ([_figures(cell) for cell in cells] for cells in (old, new))
    ratios = (_ratio(name, [each[name] for each in before], [each[name] for each in after]) for name in before[0])
    return CellComparison(key=key, ratios=tuple(ratio for ratio in ratios if ratio), notes=tuple(_notes(old, new)))


def _figures(cell: CellProfile) -> dict[str, float | None]:
    """What is compared, by its path in a cell."""
    latency = cell.latency
    return {
        "steady.output_tokens_per_s": None if cell.steady is None else cell.steady.output_tokens_per_s,
        "whole.output_tokens_per_s": cell.whole.output_tokens_per_s,
        "whole.prefill_tokens_per_s": cell.whole.prefill_tokens_per_s,
        "accepted_per_s": cell.accepted_per_s,
        "device_s_per_accepted": cell.device_s_per_accepted,
        "latency.ttft_s.p50": _median(latency.ttft_s),
        "latency.tpot_s.p50": _median(latency.tpot_s),
        "latency.e2e_s.p50": _median(latency.e2e_s),
        "start_s": cell.start_s,
    }


def _median(spread: Spread | None) -> float | None:
    return None if spread is None else spread.p50


def _ratio(figure: str, old: list[float | None], new: list[float | None]) -> Ratio | None:
    """None where a repeat of either has no such figure, or where it is zero."""
    before, after = ([value for value in values if value] for values in (old, new))
    if len(before) < len(old) or len(after) < len(new):
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


def _notes(old: list[CellProfile], new: list[CellProfile]) -> list[str]:
    notes = [
        f"{name}: {flag} is false"
        for name, cells in (("old", old), ("new", new))
        for flag in dict.fromkeys(flag for cell in cells for flag in cell.validity.false)
    ]
    if {cell.work for cell in old} != {cell.work for cell in new}:
        notes.append("the requests are not the same ones")
    return notes


# -- for the terminal ----------------------------------------------------------------------------------------------


def comparison_table(comparisons: Sequence[CellComparison]) -> RenderableType:
    """A line for each figure below the name of its cell, and what to know of cells at the end."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("cell", no_wrap=True)
    for name in ("old", "new", "new/old", "spread", ""):
        table.add_column(name, justify="right", no_wrap=True)
    notes = []
    for comparison in comparisons:
        engines, limit, prompts, requests = comparison.key
        name = f"{engines} x {limit} {prompts} {requests}"
        table.add_row(Text(name, style="bold"))
        for ratio in comparison.ratios:
            spread = "-" if ratio.low is None else f"{ratio.low:.2f}..{ratio.high:.2f}"
            figures = (f"{ratio.old:.4g}", f"{ratio.new:.4g}", f"{ratio.ratio:.3f}", spread, ratio.verdict)
            table.add_row(f"  {ratio.figure}", *figures)
        told = [f"not comparable: {comparison.problem}"] if comparison.problem else comparison.notes
        notes += [Text(f"! {name}: {note}", style="yellow") for note in told]
    return Group(table, *notes)


def profile_table(profile: Profile) -> RenderableType:
    """A line for each cell, flags and scaling below; steady, whole, prefill in tokens/s, latencies as medians in s."""
    identity = profile.identity
    title = f"{identity.job}: {identity.model or identity.engine} on {identity.cluster}"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in (*_COLUMNS, ""):
        table.add_column(name, justify="left" if name == "prompts" else "right", no_wrap=True)
    for cell in profile.cells:
        table.add_row(*_row(cell))
    scaling = [
        Text(
            f"{row.engines} engines over {row.base_engines} ({row.max_num_seqs} sequences, {row.prompts}): "
            f"{_told(row.strong_speedup, '.2f')} times as fast; efficiency "
            f"strong {_told(row.strong_efficiency, '.0%')}, weak {_told(row.weak_efficiency, '.0%')}"
        )
        for row in profile.scaling or ()
    ]
    return Group(table, *_flag_lines(profile.cells), *scaling)


def _row(cell: CellProfile) -> list[str]:
    latency = cell.latency
    return [
        str(cell.engines),
        str(cell.max_num_seqs),
        cell.prompts,
        str(cell.requests),
        "-" if cell.steady is None else _short(cell.steady.output_tokens_per_s),
        _short(cell.whole.output_tokens_per_s),
        _short(cell.whole.prefill_tokens_per_s),
        *(_told(_median(each), ".3g") for each in (latency.ttft_s, latency.tpot_s, latency.e2e_s)),
        _told(None if cell.cache is None else cell.cache.prefix_hit_rate, ".0%"),
        _told(cell.shares.busy, ".0%"),
        _short(cell.accepted_per_s),
        "!" if cell.validity.false else "",
    ]


def _flag_lines(cells: Sequence[CellProfile]) -> list[Text]:
    lines = []
    for cell in cells:
        false = [flag for flag in cell.validity.false if flag != "real_engine"]  # which is said once, for all
        if false:
            name = f"{cell.engines} x {cell.max_num_seqs} {cell.prompts} {cell.requests}, repeat {cell.repeat}"
            lines.append(Text(f"! {name}: not {', not '.join(false)}", style="yellow"))
    if any(not cell.validity.real_engine for cell in cells):
        lines.append(Text("The fake engine computes nothing: its speeds mean nothing.", style="yellow"))
    return lines


def _short(value: float) -> str:
    """With a decimal where that matters."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
