"""The audit of a run (``audit.json``) as a table: for the terminal and for the report."""

from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    NotRequired,  # see ``storage.contents``
)

import pydantic
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3ray.storage.contents import Record
from s3ray.storage.run_folder import RunStore

AUDIT = "audit.json"
MAX_GROUPS = 4
"""Groups that the terminal has room for."""

Figures = Mapping[str, Any]
_Spread = Annotated[list[float], pydantic.Field(min_length=3)]


class _Part(Record):
    """What the table reads of gold and of each group of synthetic rows; a measure may be missing, or unknown."""

    labels: dict[str, float]
    words: _Spread
    label_drift: NotRequired[float | None]
    coverage: NotRequired[float | None]
    precision: NotRequired[float | None]
    told_apart: NotRequired[float | None]
    self_bleu: NotRequired[float | None]
    distinct_2: NotRequired[float | None]


class _GoldPart(_Part):
    rows: dict[str, int]


class _Agreement(Record):
    value: float | None
    by_label: NotRequired[dict[str, float | None]]


class _Accuracy(Record):
    value: float
    low: float
    high: float
    by_label: NotRequired[dict[str, float | None]]


class _Parents(Record):
    similarity: _Spread | None


class _Group(_Part):
    name: str
    rows: int
    exact_copies: NotRequired[int | None]
    near_copies: NotRequired[int | None]
    copies_of_gold: NotRequired[dict[str, int] | None]
    parents: NotRequired[_Parents | None]
    agreement: NotRequired[_Agreement | None]
    label_accuracy: NotRequired[_Accuracy | None]
    answered: NotRequired[dict[str, float] | None]


class _HeldOut(Record):
    by: str
    rows: int
    scores: Annotated[dict[str, float], pydantic.Field(min_length=1)]


class _Checker(Record):
    trained_on: int
    held_out: _HeldOut


class AuditRecord(Record):
    """What is read of ``audit.json``."""

    run: str
    rounds: list[int]
    looked_at: dict[str, int]
    checker: _Checker
    gold: _GoldPart
    groups: Annotated[list[_Group], pydantic.Field(min_length=1)]
    findings: list[str]


def read_audit(store: RunStore) -> AuditRecord | None:
    """The audit of a run; None if it was not audited.

    Raises:
        StoreError: audit.json cannot be read.
    """
    return store.read_record(AUDIT, AuditRecord) if store.has(AUDIT) else None


def percent(share: float | None) -> str:
    """A share as a percentage; empty where it is unknown."""
    return "" if share is None else f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def columns(audit: Figures) -> list[str]:
    """The columns: gold, all synthetic rows, and those of each round and source."""
    return ["gold", *(group["name"] for group in audit["groups"])]


def rows(audit: Figures) -> list[tuple[str, list[str]]]:
    """Each measure with its cells by column; measures without any cell are left out."""
    parts = [_as_group(audit), *audit["groups"]]
    made = [(name, [cell(part) for part in parts]) for name, cell in _MEASURES]
    for label in audit["gold"]["labels"]:
        made += [
            (f"share of {label}", [percent(part["labels"].get(label, 0.0)) for part in parts]),
            (f"checker agrees, {label}", [percent(_deep(part, "agreement", "by_label", label)) for part in parts]),
            (f"labels right, {label}", [percent(_deep(part, "label_accuracy", "by_label", label)) for part in parts]),
        ]
    return [(name, cells) for name, cells in made if any(cells)]


def basis(audit: Figures) -> str:
    """What the figures rest on, in two sentences."""
    looked, checker = audit["looked_at"], audit["checker"]
    held, scores = checker["held_out"], checker["held_out"]["scores"]
    name = next(iter(scores))
    how = "the test part" if held["by"] == "test" else "the test part and, by cross-validation, on the rest of gold"
    all_rows, all_test = audit["groups"][0]["rows"], audit["gold"]["rows"]["test"]
    return (
        f"Looked at {looked['synthetic']:,} of {all_rows:,} synthetic rows and {looked['test']:,} of {all_test:,} test "
        f"rows. The checker learned from {checker['trained_on']:,} gold rows and reaches {name.replace('_', ' ')} "
        f"{scores[name]:.3f} on {held['rows']:,} that it did not see (on {how})."
    )


def audit_text(audit: Figures) -> RenderableType:
    """The audit for the terminal."""
    names = columns(audit)
    shown = names if len(names) <= MAX_GROUPS + 1 else [*names[:3], *names[2 - MAX_GROUPS :]]
    table = Table(title=f"{audit['run']}: audit", title_justify="left", title_style="bold", box=box.SIMPLE)
    table.add_column("")
    for name in shown:
        table.add_column(name, justify="right")
    for measure, cells in rows(audit):
        by_name = dict(zip(names, cells, strict=True))
        table.add_row(measure, *(by_name[name] or "-" for name in shown))
    parts: list[RenderableType] = [table, Text(basis(audit))]
    if len(shown) < len(names):
        parts.append(Text(f"{len(names) - len(shown)} more groups are in {AUDIT}."))
    found: Sequence[str] = audit["findings"] or ["Nothing stands out."]
    return Group(*parts, *(Text(f"* {sentence}") for sentence in found))


def _as_group(audit: Figures) -> Figures:
    """Gold as a column: it has no copies and no verdict but the checker's score on rows that it did not see."""
    gold, scores = audit["gold"], audit["checker"]["held_out"]["scores"]
    labelled = "accuracy" in scores
    return {
        **gold,
        "rows": sum(gold["rows"].values()),
        "label_drift": None,
        "agreement": {"value": scores["accuracy"]} if labelled else None,
        "answered": None if labelled else scores,
    }


def _deep(part: Figures, *names: str) -> Any:
    found: Any = part
    for name in names:
        found = found.get(name) if found else None
    return found


def _cell(to_text: Callable[[Any], str], *names: str) -> Callable[[Figures], str]:
    """Reads the figure at a path of names and words it; empty where it is unknown."""

    def cell(part: Figures) -> str:
        value = _deep(part, *names)
        return "" if value is None else to_text(value)

    return cell


def _words(part: Figures) -> str:
    return "{:.0f} ({:.0f}-{:.0f})".format(part["words"][2], part["words"][0], part["words"][-1])


def _accuracy(part: Figures) -> str:
    found = part.get("label_accuracy")
    if found is None:
        return ""
    return f"{100 * found['value']:.0f} % ({100 * found['low']:.0f}-{100 * found['high']:.0f})"


def _parents(part: Figures) -> str:
    similarity = _deep(part, "parents", "similarity")
    return "" if similarity is None else f"{similarity[2]:.2f} ({similarity[0]:.2f}-{similarity[-1]:.2f})"


_MEASURES: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("rows", _cell("{:,}".format, "rows")),
    ("checker agrees", _cell(percent, "agreement", "value")),
    ("labels right (95 %)", _accuracy),
    ("checker's exact match", _cell(percent, "answered", "exact_match")),
    ("checker's F1", _cell(percent, "answered", "f1")),
    ("exact copies", _cell("{:,}".format, "exact_copies")),
    ("exact or near copies", _cell("{:,}".format, "near_copies")),
    ("copies of test", _cell("{:,}".format, "copies_of_gold", "test")),
    ("copies of extrapolation", _cell("{:,}".format, "copies_of_gold", "extrapolate")),
    ("copies of selection", _cell("{:,}".format, "copies_of_gold", "select")),
    ("like its parent (5-95 %)", _parents),
    ("more than 0.8 like it", _cell("{:,}".format, "parents", "above_0.8")),
    ("more than 0.9 like it", _cell("{:,}".format, "parents", "above_0.9")),
    ("words (5-95 %)", _words),
    ("label drift", _cell(percent, "label_drift")),
    ("covers of test rows", _cell(percent, "coverage")),
    ("near a test row", _cell(percent, "precision")),
    ("told from test rows", _cell("{:.2f}".format, "told_apart")),
    ("self-BLEU", _cell("{:.2f}".format, "self_bleu")),
    ("distinct-2", _cell("{:.2f}".format, "distinct_2")),
)
