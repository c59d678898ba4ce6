"""The audit as a table, in the terminal and in the report."""

import io

from rich.console import Console

from s3ray.report.audit import audit_text, basis, columns, percent, rows
from tests.audit.defects import figures


def printed(audit: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(audit_text(audit))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_gold_stands_beside_the_groups() -> None:
    audit = figures(3)
    assert columns(audit) == ["gold", "all", "round 0 seed", "round 1 seed"]
    by_name = dict(rows(audit))
    assert by_name["rows"] == ["400", "1,000", "1,000", "1,000"]
    assert by_name["checker agrees"] == ["90 %", "88 %", "88 %", "88 %"]
    assert by_name["labels right (95 %)"][:2] == ["", "97 % (90-100)"]
    assert by_name["labels right, yes"][:2] == ["", "94 %"]
    assert by_name["like its parent (5-95 %)"][:2] == ["", "0.30 (0.10-0.50)"]
    assert by_name["words (5-95 %)"][0] == "10 (4-30)"


def test_what_nobody_knows_has_no_row() -> None:
    audit = figures(answered=None, label_accuracy=None)
    names = dict(rows(audit))
    assert "labels right (95 %)" not in names
    assert "checker's F1" not in names


def test_a_span_task_shows_answers_instead_of_labels() -> None:
    scores = {"exact_match": 0.4, "f1": 0.5}
    audit = figures(answered=scores, agreement=None, label_accuracy=None, labels={})
    audit["checker"]["held_out"]["scores"] = {"exact_match": 0.6, "f1": 0.7}
    audit["gold"]["labels"] = {}
    by_name = dict(rows(audit))
    assert by_name["checker's exact match"] == ["60 %", "40 %"]
    assert "checker agrees" not in by_name
    assert "exact match 0.600" in basis(audit)


def test_the_terminal_shows_the_first_and_the_last_groups() -> None:
    text = printed(figures(9))
    assert "round 0 seed" in text
    assert "round 7 seed" in text
    assert "round 3 seed" not in text
    assert "5 more groups are in audit.json." in text
    assert "Nothing stands out." in text


def test_small_shares_keep_a_digit() -> None:
    assert [percent(share) for share in (None, 0.0, 0.0333, 0.5, 1.0)] == ["", "0.0 %", "3.3 %", "50 %", "100 %"]
