"""Compares two profiles, and writes profiles and comparisons for the terminal, at most 100 columns wide. Pure."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3ray.bench.profile import CellProfile, Key, Profile
from s3ray.errors import InputError

_SAME = (
    *("task", "strategy", "engine", "model", "adapter", "dtype", "prompt_form", "sampling"),
    *("tensor_parallel", "pipeline_parallel", "device", "device_name", "devices_per_engine"),
)
"""Fields of the identity that must be equal; otherwise ratios compare something else than the code."""
_FIGURES = (
    *("steady.output_tokens_per_s", "whole.output_tokens_per_s", "whole.prefill_tokens_per_s"),
    *("accepted_per_s", "device_s_per_accepted"),
    *("latency.ttft_s.p50", "latency.tpot_s.p50", "latency.e2e_s.p50", "start_s"),
)
"""What is compared, by its path in a cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Medians, new over old; ``low`` to ``high`` over all pairs of repeats, None where a side was measured once."""

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
    """One cell in both profiles. ``problem`` says why it cannot be compared, ``notes`` what to know of the ratios."""

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
    limits = dict.fromkeys(str(cell.limits) for cell in (*old, *new))
    if len(limits) > 1:
        return CellComparison(key=key, problem=f"engines resolved different limits: {', '.join(limits)}")
    ratios = (_ratio(path, *([_value(cell, path) for cell in cells] for cells in (old, new))) for path in _FIGURES)
    return CellComparison(key=key, ratios=tuple(ratio for ratio in ratios if ratio), notes=tuple(_notes(old, new)))


def _value(cell: CellProfile, path: str) -> Any:
    """The value at a path such as ``latency.ttft_s.p50``; None where it, or what holds it, is not known."""
    value: Any = cell
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


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


def _rate(value: float) -> str:
    """Per second, with a decimal where that matters."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


_seconds, _percent = "{:.3g}".format, "{:.0%}".format
_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("eng", "engines", str),
    ("seqs", "max_num_seqs", str),
    ("prompts", "prompts", str),
    ("req", "requests", str),
    ("steady", "steady.output_tokens_per_s", _rate),
    ("whole", "whole.output_tokens_per_s", _rate),
    ("prefill", "whole.prefill_tokens_per_s", _rate),
    ("ttft", "latency.ttft_s.p50", _seconds),
    ("tpot", "latency.tpot_s.p50", _seconds),
    ("e2e", "latency.e2e_s.p50", _seconds),
    ("hit", "cache.prefix_hit_rate", _percent),
    ("busy", "shares.busy", _percent),
    ("acc/s", "accepted_per_s", _rate),
)
"""Columns of a profile: head, path of the value in a cell, and how it is written."""


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


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)


def profile_table(profile: Profile) -> RenderableType:
    """A line for each cell, flags and scaling below; steady, whole, prefill in tokens/s, latencies as medians in s."""
    identity = profile.identity
    title = f"{identity.job}: {identity.model or identity.engine} on {identity.cluster}"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in (*(name for name, _, _ in _COLUMNS), ""):
        table.add_column(name, justify="left" if name == "prompts" else "right", no_wrap=True)
    for cell in profile.cells:
        values = (_shown(_value(cell, path), show) for _, path, show in _COLUMNS)
        table.add_row(*values, "!" if cell.validity.false else "")
    scaling = [
        Text(
            f"{row.engines} engines over {row.base_engines} ({row.max_num_seqs} sequences, {row.prompts}): "
            f"{_shown(row.strong_speedup, '{:.2f}'.format)} times as fast; efficiency "
            f"strong {_shown(row.strong_efficiency, _percent)}, weak {_shown(row.weak_efficiency, _percent)}"
        )
        for row in profile.scaling or ()
    ]
    return Group(table, *_flag_lines(profile.cells), *scaling)


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
