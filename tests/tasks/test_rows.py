import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3ray.config.job import GoldConfig, RunConfig
from s3ray.errors import InputError
from s3ray.launch.fingerprint import shaping_settings
from s3ray.tasks import Task
from s3ray.tasks.faults import Faults
from s3ray.tasks.gold import GoldSplit, load_gold

Make = Callable[[dict[str, Any]], Task]
Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def news(num: int) -> Rows:
    return [{"title": f"Title {n}", "text": f"Story number {n}.", "label": "m" if n % 2 else "1"} for n in range(num)]


def load(task: Task, folder: Path, rows: Rows) -> GoldSplit:
    path = folder / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_gold(task, GoldConfig(extrapolate=4, select=4), str(path))


def refusal(task: Task, folder: Path, rows: Rows) -> str:
    with pytest.raises(InputError) as caught:
        load(task, folder, rows)
    return str(caught.value)


def size(gold: GoldSplit) -> int:
    return len(gold.test) + len(gold.select) + len(gold.contexts)


def test_all_wrong_rows_are_counted_by_kind_with_the_first_of_each_in_the_order_of_the_file(
    make_task: Make, topics: Spec, tmp_path: Path
) -> None:
    rows = news(60)
    for n in range(7, 59, 8):
        rows[n]["label"] = "sprot"
    rows[30]["text"], rows[5]["title"] = "", None
    problem = refusal(make_task(topics | {"columns": {}}), tmp_path, rows).replace(f"{tmp_path}/", "")
    head, hint, *lines = problem.splitlines()
    assert head == "all.jsonl, row 6: title: no text (got None)"
    assert hint == "  Fill the field or remove the row."
    assert lines == [
        "  9 rows are wrong:",
        "    1 x title: no text: row 6 (None)",
        "    7 x label: unknown label: row 8 ('sprot'), row 16 ('sprot'), row 24 ('sprot'), "
        "row 32 ('sprot'), row 40 ('sprot') and 2 more",
        "    1 x text: no text: row 31 ('')",
    ]


def test_no_more_than_eight_kinds_are_listed_and_no_value_is_told_at_length() -> None:
    faults = Faults()
    for n in range(10):
        with faults.gathered("a.csv", f"row {n + 1}"):
            raise InputError("no text", field=f"field {n}", value="x" * 100, hint="Fill it.")
    with pytest.raises(InputError) as refused:
        faults.refuse()
    *_, eighth, last = str(refused.value).splitlines()
    assert eighth == f"    1 x field 7: no text: row 8 ({'x' * 40}...)"
    assert last == "    and 2 more kinds"


def test_of_rows_that_are_left_out_the_first_five_are_named(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    rows = [row | {"label": None} if n < 7 else row for n, row in enumerate(news(40))]
    notes = load(make_task(topics | {"leave_out": ["unlabelled"]}), tmp_path, rows).notes
    assert notes[-1].endswith("7 x unlabelled, left out: row 1, row 2, row 3, row 4, row 5, ...")


def test_wrong_rows_of_several_files_are_listed_with_the_file(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = news(20)
        rows[3]["label"] = "sprot"
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as refused:
        load_gold(make_task(topics | {"columns": {}}), GoldConfig(extrapolate=4, select=4), str(tmp_path))
    for split in ("train", "test"):
        assert f"1 x {tmp_path}/{split}.jsonl: label: unknown label: row 4 ('sprot')" in str(refused.value)


@pytest.mark.parametrize("label", [None, "", " ", float("nan"), "NaN", "N/A", -1, "missing key"])
def test_a_row_without_a_label_is_refused_or_left_out_as_the_task_says(
    make_task: Make, topics: Spec, tmp_path: Path, label: object
) -> None:
    rows = news(40)
    for n in (4, 20):
        rows[n]["label"] = label
        if label == "missing key":
            del rows[n]["label"]
    problem = refusal(make_task(topics), tmp_path, rows)
    assert "row 5: label: no label" in problem
    assert "leave_out: [unlabelled]" in problem
    gold = load(make_task(topics | {"leave_out": ["unlabelled"]}), tmp_path, rows)
    assert size(gold) == 38
    assert f"{tmp_path}/all.jsonl: 2 x unlabelled, left out: row 5, row 21" in gold.notes


def test_a_label_that_looks_like_none_is_one_where_the_task_has_it(
    make_task: Make, topics: Spec, tmp_path: Path
) -> None:
    rows = [row | {"label": "none" if row["label"] == "m" else "1"} for row in news(40)]
    labels = [label | {"value": "none"} if label["value"] == "m" else label for label in topics["labels"]]
    spec = topics | {"labels": labels, "leave_out": ["unlabelled"]}
    assert size(load(make_task(spec), tmp_path, rows)) == 40


def test_contradictory_rows_are_told_and_left_out_on_the_tasks_word(
    make_task: Make, topics: Spec, tmp_path: Path
) -> None:
    rows = news(40)
    rows[9] = rows[8] | {"label": "m", "text": "STORY number 8"}
    gold = load(make_task(topics), tmp_path, rows)
    assert size(gold) == 39
    told = "2 x contradictory (the same text with another label)"
    assert any(told in note and "of each text one is kept" in note for note in gold.notes)
    gold = load(make_task(topics | {"leave_out": ["contradictory"]}), tmp_path, rows)
    assert size(gold) == 38
    assert any(note.endswith(f"{told}, left out: row 9, row 10") for note in gold.notes)


def test_leave_out_is_part_of_what_identifies_a_run_only_where_it_is_set(
    make_task: Make, topics: Spec, tmp_path: Path
) -> None:
    def content(spec: Spec) -> str:
        task = make_task(spec)
        config = RunConfig.model_validate({"name": "a", "task": "b"})
        return str(shaping_settings(config, task, load(task, tmp_path, news(40)))["task_content"])

    assert content(topics) == content(topics | {"leave_out": []})
    assert content(topics) != content(topics | {"leave_out": ["unlabelled"]})


def questions(num: int) -> Rows:
    answers = {"text": ["Anna"], "answer_start": [18]}
    text = "😀 The cup went to Anna, not to Bert or to Anna."
    return [
        {"question": f"Question {n}?", "context": text[:12] + f"{n:02}" + text[12:], "answers": answers}
        for n in range(num)
    ]


def test_moved_answers_are_counted_by_what_their_offsets_counted(
    make_task: Make, answers: Spec, tmp_path: Path
) -> None:
    rows = questions(20)
    where = rows[0]["context"].index("Anna")
    for row in rows:
        row["answers"] = {"text": ["Anna"], "answer_start": [where]}
    rows[3]["answers"] = [{"text": "Anna", "answer_start": where + 1}]
    rows[5]["answers"] = {"text": "Anna", "answer_start": where + 1}
    gold = load(make_task(answers), tmp_path, rows)
    assert {span.start for example in (*gold.test, *gold.select) for span in example.answers} == {where}
    moved = "2 x answer moved, the offset counts UTF-16 code units: row 4, row 6"
    assert f"{tmp_path}/all.jsonl: {moved}" in gold.notes


@pytest.mark.parametrize("none", [None, [], "", {"text": [], "answer_start": []}, {"text": [""], "answer_start": [-1]}])
def test_an_unanswerable_question_is_refused_or_left_out_as_the_task_says(
    make_task: Make, answers: Spec, tmp_path: Path, none: object
) -> None:
    rows = questions(20)
    for row in rows:
        row["answers"] = {"text": ["Bert"], "answer_start": [row["context"].index("Bert")]}
    rows[6]["answers"] = none
    assert "leave_out: [unanswerable]" in refusal(make_task(answers), tmp_path, rows)
    gold = load(make_task(answers | {"leave_out": ["unanswerable"]}), tmp_path, rows)
    assert f"{tmp_path}/all.jsonl: 1 x unanswerable, left out: row 7" in gold.notes


def test_texts_are_made_valid_and_counted(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    rows = news(40)
    rows[2]["text"], rows[3]["text"], rows[4]["text"] = "half \ud83d", "a\0b", "cafe\u0301"
    gold = load(make_task(topics | {"columns": {}}), tmp_path, rows)
    texts = {example.fields["text"] for example in (*gold.test, *gold.select, *gold.extrapolate)}
    assert not texts & {"half \ud83d", "a\0b", "cafe\u0301"}
    notes = "\n".join(gold.notes)
    for says in ("half an emoji", "NUL characters", "was composed"):
        assert f"1 x text {'was' if 'was' in says else 'held'} {says.removeprefix('was ')}" in notes
    rows[5]["text"] = "\0"
    assert "row 6: text: no text" in refusal(make_task(topics | {"columns": {}}), tmp_path, rows)


def test_texts_that_another_program_spoilt_are_told(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    spoilt = ["Caf\u00c3\u00a9", "it\u00e2\u20ac\u2122s", "\u00f0\u0178\u02dc\u20ac", "lost \ufffd"]
    sound = ["Café", "S\u00c3O PAULO", "it\u2019s", "\u00c3", "na\u00efve", "\U0001f600", "\u0926\u0947"]
    rows = news(40)
    for row, text in zip(rows, [*spoilt, *sound], strict=False):
        row["text"] = text
    notes = "\n".join(load(make_task(topics | {"columns": {}}), tmp_path, rows).notes)
    assert "3 x text looks wrongly decoded" in notes
    assert "1 x text holds U+FFFD" in notes
    assert notes.count(" x text ") == 2


def test_a_label_in_a_list_of_its_own_is_a_label(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    rows = [row | {"label": [row["label"]]} for row in news(40)]
    assert size(load(make_task(topics | {"columns": {}}), tmp_path, rows)) == 40
    rows[6]["label"] = []
    assert "row 7: label: no label" in refusal(make_task(topics | {"columns": {}}), tmp_path, rows)


def test_files_of_a_folder_that_belong_to_no_split_are_told(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    for name, rows in (("train", news(20)), ("TEST", news(40)[20:]), ("dev", news(3))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gold = load_gold(make_task(topics), GoldConfig(extrapolate=4, select=4), str(tmp_path))
    assert len(gold.test) == 20
    assert gold.notes[-1] == f"{tmp_path}: not read: dev.jsonl (files are called train, validation, test)"


def test_column_names_are_the_same_composed_or_not(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    rows = [{"title": row["title"], "a\u0308u": row["text"], "e\u0301": row["label"]} for row in news(40)]
    for text, label in (("a\u0308u", "e\u0301"), ("\u00e4u", "\u00e9")):
        task = make_task(topics | {"columns": {"text": text}, "label_column": label})
        assert size(load(task, tmp_path, rows)) == 40
        sheet = tmp_path / "all.csv"
        sheet.write_text("\n".join(map(",".join, [list(rows[0]), *(row.values() for row in rows)])), encoding="utf-8")
        gold = load_gold(task, GoldConfig(extrapolate=4, select=4), str(sheet))
        assert size(gold) == 40
        assert gold.notes[0] == f"{sheet}: 40 rows of 41 lines (1 with the names)"
