"""What `s3ray init` writes can be run, whatever file it was made from; or it asks, and says for what."""

import csv
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from s3ray.config.load import load_config
from s3ray.errors import InputError
from s3ray.launch.preflight import check_job
from s3ray.tasks.draft import draft

Row = dict[str, Any]

WORDS = {
    "latin": [
        "the",
        "kettle",
        "lamp",
        "sofa",
        "broke",
        "early",
        "and",
        "nobody",
        "cared",
        "über",
        "façade",
        "it's",
        "12%",
        "don't",
    ],
    "cyrillic": ["чайник", "лампа", "диван", "сломался", "рано", "и", "никто", "не", "пришёл", "ещё"],
    "devanagari": ["यह", "केतली", "बहुत", "अच्छी", "है", "और", "जल्दी", "टूट", "गई", "नहीं"],
    "arabic": ["وصلت", "الغلاية", "بسرعة", "وكانت", "مغلفة", "جيدا", "جدا", "لا"],
    "thai": ["กาน้ำนี้ดีมากส่งเร็ว", "บรรจุภัณฑ์ดี", "ฉันไม่ชอบเลย"],
    "chinese": ["第0次买这家的水壶。", "用了两天就坏了。", "客服一直不回消息。", "非常失望。"],
    "signs": [
        *("👍🏽", "{{ x }}", "{% if %}", "\u202eabc", "a\u0301", "#", "---", '"'),
        *("'quoted'", "<b>", "ok"),
    ],
}
LABELS: Sequence[Sequence[object]] = (
    (-1, 0, 1),
    (0.0, 1.0),
    (True, False),
    ("good", "bad", "so-so"),
    ("ham", "Ham", "HAM ", "spam", " Spam"),
    ("C", "C++", "C#", "c"),
    ("A", "A-", "A+", "B", "a/b", "a b", "a_b"),
    ("01", "1", "1.5", "yes", "no", "null", "~", "1e5", "2024-01-01"),
    ("👍", "👎", "{{ label }}", "{% raw %}", "- dash", "a: b", "[x", "'", '"', "#"),
    ("सकारात्मक", "नकारात्मक"),
    tuple(f"intent {n}" for n in range(12)),
)
NAMES = (
    *("text", "Review Text", "評論", "समीक्षा", "äußerung", "a.b", "class", "items", "none", "1st", "source", "id"),
    *("{{ x }}", "--", "no", "a'b", 'a"b', "label:", "true", "writes", "C++", "select"),
)
EXTRA = ("none", "id", "constant", "number", "moment", "category", "passage", "leak", "holes", "nested", "copy")


def extra_value(kind: str, number: int, label: object, text: str) -> object:
    moment = datetime(2026, 1, 1) + timedelta(hours=number)
    values: Mapping[str, object] = {
        "id": f"R_{number * 7919:05x}",
        "constant": "always",
        "number": number * 0.5,
        "moment": moment.isoformat(),
        "category": ("kettle", "lamp", "sofa")[number * number % 3],
        "passage": f"{number} comes before what is said here",
        "leak": f"it is {label}",
        "holes": "here" if number % 4 else None,
        "nested": [number],
        "copy": f"[{text}]",
    }
    return values[kind]


@st.composite
def files(draw: st.DrawFn) -> tuple[list[Row], str, str, str]:
    """Rows, the names of the columns of label and text, and the ending of the file."""
    words = WORDS[draw(st.sampled_from(sorted(WORDS)))]
    labels = draw(st.sampled_from(LABELS))
    label_name, text_name, *others = draw(st.permutations(NAMES))
    label_name = draw(st.sampled_from(("label", label_name)))
    extra = draw(st.lists(st.sampled_from(EXTRA[1:]), max_size=3, unique=True))
    num_rows, num_words, every = draw(st.integers(20, 45)), draw(st.integers(0, 70)), draw(st.integers(1, 3))
    defect = draw(st.sampled_from(("none", "none", "repeated", "contradictory", "unlabelled", "empty text")))
    cycle = itertools.cycle(words)
    rows: list[Row] = []
    for number in range(num_rows):
        text = " ".join([f"n{number}", *(next(cycle) for _ in range(num_words * (number % every + 1)))])
        label = labels[number % len(labels)]
        if defect in ("repeated", "contradictory") and number % 3 == 2:
            text = str(rows[-1][text_name])
            label = rows[-1][label_name] if defect == "repeated" else label
        if defect == "unlabelled" and number % 9 == 4:
            label = None
        if defect == "empty text" and number == 7:
            text = " "
        row = {name: extra_value(kind, number, label, text) for name, kind in zip(others, extra, strict=False)}
        rows.append(row | {text_name: text, label_name: label})
    return rows, label_name, text_name, draw(st.sampled_from((".csv", ".jsonl", ".parquet")))


def save(rows: Sequence[Row], name: str) -> Path:
    path = Path(name)
    if path.suffix == ".jsonl":
        lines = [json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        names = list(rows[0])
        columns = {key: [row[key] for row in rows] for key in names}
        parquet.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            sheet = csv.DictWriter(file, list(rows[0]))
            sheet.writeheader()
            sheet.writerows(rows)
    return path


def check(data: Path, **named: Any) -> None:
    """Draft, write and check as `s3ray init` and `s3ray plan` do."""
    made = draft(data, **named)
    made.write()
    _, job = made.files
    checked = check_job(load_config(job))
    assert len(checked.gold.extrapolate) >= 2
    assert len({label.words.casefold() for label in checked.task.spec.labels}) == len(checked.task.labels)


def refusal(data: Path, **named: Any) -> InputError | None:
    try:
        check(data, **named)
    except InputError as refused:
        return refused
    return None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=files(), is_named=st.booleans(), leave_out=st.sampled_from(((), ("unlabelled", "contradictory"))))
def test_a_draft_can_be_run_whatever_the_file_or_init_asks(
    made: tuple[list[Row], str, str, str], leave_out: tuple[str, ...], *, is_named: bool
) -> None:
    rows, label, text, suffix = made
    named = {"label": label, "writes": text} if is_named else {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        refused = refusal(save(rows, f"my data{suffix}"), **named, leave_out=leave_out)
    assert refused is None or refused.hint
    is_whole = all((row[label] is not None or leave_out) and str(row[text]).strip() for row in rows)
    assert refused is None or not is_named or not is_whole or "different texts" in refused.problem, refused
