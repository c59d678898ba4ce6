"""Profiles and comparisons for the terminal, at most 100 columns wide."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3ray.bench.compare import CellComparison
from s3ray.bench.schema import CellProfile, Profile, Rates, Spread

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


def profile_table(profile: Profile) -> RenderableType:
    """A line for each cell, flags and scaling below; steady, whole, prefill in tokens/s, latencies as medians in s."""
    identity = profile.identity
    title = f"{identity.job}: {identity.model.name or identity.engine} on {identity.machine.summary}"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in (*_COLUMNS, ""):
        table.add_column(name, justify="left" if name == "prompts" else "right", no_wrap=True)
    for cell in profile.cells:
        table.add_row(*_row(cell))
    return Group(table, *_flag_lines(profile.cells), *_scaling_lines(profile))


def _row(cell: CellProfile) -> list[str]:
    latency = cell.latency
    return [
        str(cell.engines),
        str(cell.max_num_seqs),
        cell.prompts,
        str(cell.requests),
        _rate(cell.steady),
        _rate(cell.whole),
        _short(cell.whole.prefill_tokens_per_s),
        *(_median(each) for each in (latency.ttft_s, latency.tpot_s, latency.e2e_s)),
        _percent(cell.cache.prefix_hit_rate),
        _percent(cell.shares.busy),
        _short(cell.yields.accepted_per_s),
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


def _scaling_lines(profile: Profile) -> list[Text]:
    return [
        Text(
            f"{row.engines} engines over {row.base_engines} ({row.max_num_seqs} sequences, {row.prompts}): "
            f"{_factor(row.strong_speedup)} times as fast; efficiency "
            f"strong {_percent(row.strong_efficiency)}, weak {_percent(row.weak_efficiency)}"
        )
        for row in profile.scaling or ()
    ]


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
            known = ratio.low is not None and ratio.high is not None
            spread = f"{ratio.low:.2f}..{ratio.high:.2f}" if known else "-"
            figures = (f"{ratio.old:.4g}", f"{ratio.new:.4g}", f"{ratio.ratio:.3f}", spread, ratio.verdict)
            table.add_row(f"  {ratio.figure}", *figures)
        told = [f"not comparable: {comparison.problem}"] if comparison.problem else comparison.notes
        notes += [Text(f"! {name}: {note}", style="yellow") for note in told]
    return Group(table, *notes)


def _rate(rates: Rates | None) -> str:
    return "-" if rates is None else _short(rates.output_tokens_per_s)


def _short(value: float) -> str:
    """With a decimal where it says anything."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _median(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.p50:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
