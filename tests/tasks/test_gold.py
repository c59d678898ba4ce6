import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s3ray.config.job import GoldConfig
from s3ray.errors import InputError
from s3ray.tasks import Task
from s3ray.tasks.gold import GoldSplit, load_gold
from s3ray.tasks.source import read_file
from s3ray.text import normalise
from s3ray.types import Source, Span

Make = Callable[[dict[str, Any]], Task]
Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def news(first: int, num: int) -> Rows:
    return [
        {"title": f"Title {n}", "body": f"Story number {n}.", "label": "m" if n % 2 else 1}
        for n in range(first, first + num)
    ]


def write(folder: Path, **splits: Rows) -> str:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps(row) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def texts(gold: GoldSplit) -> list[set[tuple[str, ...]]]:
    parts = (gold.extrapolate, gold.select, gold.test)
    return [{tuple(normalise(text) for text in example.fields.values()) for example in part} for part in parts]


@pytest.fixture
def task(make_task: Make, topics: Spec) -> Task:
    return make_task(topics)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write(tmp_path / "data", train=news(0, 40), test=news(100, 20))


def test_rows_become_gold_examples(task: Task, folder: str) -> None:
    gold = load_gold(task, GoldConfig(extrapolate=10, select=5), folder)
    assert [len(part) for part in (gold.extrapolate, gold.select, gold.test)] == [10, 5, 20]
    example = next(example for example in gold.test if example.fields["text"] == "Story number 101.")
    assert (example.label, example.fields["title"]) == ("money", "Title 101")
    assert (example.origin.source, example.origin.parent) == (Source.GOLD, None)
    assert len({example.id for example in gold.test}) == 20


def test_the_parts_share_no_row(task: Task, tmp_path: Path) -> None:
    again = [{**row, "body": f" {row['body'].upper()}!! "} for row in news(0, 12)]
    data = write(tmp_path / "data", train=news(0, 40), validation=news(8, 12), test=again)
    gold = load_gold(task, GoldConfig(extrapolate=20, select=8), data)
    extrapolate, select, test = texts(gold)
    assert not extrapolate & select
    assert not extrapolate & test
    assert not select & test
    assert {text for _, text in select} == {f"story number {n}" for n in range(12, 20)}
    assert gold.num_left_out == 4 + 20


def test_without_a_validation_split_both_parts_come_from_train(task: Task, folder: str) -> None:
    gold = load_gold(task, GoldConfig(extrapolate=30, select=10), folder)
    extrapolate, select, _ = texts(gold)
    assert len(extrapolate | select) == 40
    assert gold.num_left_out == 0


def test_a_row_that_comes_twice_is_used_once(task: Task, tmp_path: Path) -> None:
    data = write(tmp_path / "data", train=news(0, 10) * 2, test=news(100, 5))
    gold = load_gold(task, GoldConfig(extrapolate=6, select=4), data)
    assert len(texts(gold)[0] | texts(gold)[1]) == 10
    assert gold.num_left_out == 10


def test_the_split_depends_on_the_seed_alone(task: Task, folder: str) -> None:
    config = GoldConfig(extrapolate=10, select=5, test=7)
    assert load_gold(task, config, folder) == load_gold(task, config, folder)
    other = load_gold(task, config.model_copy(update={"seed": 1}), folder)
    own = load_gold(task, config, folder)
    assert texts(other)[:2] != texts(own)[:2]
    assert other.test == own.test, "scores of different seeds are not of the same rows"


def test_all_of_train_is_what_the_other_parts_leave(task: Task, folder: str) -> None:
    gold = load_gold(task, GoldConfig(extrapolate="all", select=5), folder)
    assert (len(gold.extrapolate), len(gold.select)) == (35, 5)


def test_a_larger_part_holds_the_smaller_one(task: Task, folder: str) -> None:
    small = load_gold(task, GoldConfig(extrapolate=5, select=5), folder)
    large = load_gold(task, GoldConfig(extrapolate=20, select=5), folder)
    assert large.extrapolate[:5] == small.extrapolate


def test_contexts_of_label_tasks_come_from_all_rows_that_no_other_part_has(task: Task, folder: str) -> None:
    gold = load_gold(task, GoldConfig(extrapolate=10, select=5), folder)
    assert len(gold.contexts) == 35
    assert set(gold.contexts[0].fields) == {"title"}
    assert not {context.id for context in gold.contexts} & {example.id for example in (*gold.select, *gold.test)}


def test_contexts_of_the_test_and_selection_parts_are_left_out_and_counted(task: Task, tmp_path: Path) -> None:
    train, validation, test = news(0, 10), news(50, 4), news(100, 4)
    validation[0]["title"] = "title 3!"
    test[0]["title"] = " TITLE 4"
    data = write(tmp_path / "data", train=train, validation=validation, test=test)
    gold = load_gold(task, GoldConfig(extrapolate=5, select=4), data)
    assert {context.fields["title"] for context in gold.contexts} == {f"Title {n}" for n in (0, 1, 2, *range(5, 10))}
    assert gold.num_left_out == 2


def test_without_any_context_the_data_is_refused(task: Task, tmp_path: Path) -> None:
    rows = [{**row, "title": "News"} for row in news(0, 20)]
    problem = refusal(task, write(tmp_path / "data", train=rows[:15], test=rows[15:]))
    assert "no context is left" in problem
    assert "categories: [title]" in problem


def test_a_category_may_stand_in_every_part(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    rows = [{**row, "title": ("News", "Sport")[n % 2]} for n, row in enumerate(news(0, 20))]
    data = write(tmp_path / "data", train=rows[:15], test=rows[15:])
    gold = load_gold(make_task(topics | {"categories": ["title"]}), GoldConfig(extrapolate=4, select=4), data)
    assert len(gold.contexts) == 11
    assert gold.num_left_out == 0


def test_of_one_file_a_fifth_is_the_test_split_whatever_the_seed(task: Task, tmp_path: Path) -> None:
    rows = news(0, 50)
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = str(tmp_path / "all.jsonl")
    gold = load_gold(task, GoldConfig(extrapolate="all", select=10), place)
    assert [len(part) for part in (gold.extrapolate, gold.select, gold.test)] == [30, 10, 10]
    assert set().union(*texts(gold)) == {
        (f"title {row['title'][6:]}", f"story number {row['title'][6:]}") for row in rows
    }
    other = load_gold(task, GoldConfig(extrapolate="all", select=10, seed=1), place)
    assert other.test == gold.test
    assert texts(other)[1] != texts(gold)[1]


def test_a_wrong_row_of_one_file_is_named_by_its_place_there(task: Task, tmp_path: Path) -> None:
    rows = news(0, 50)
    rows[36]["label"] = "sprot"
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problem = refusal(task, str(tmp_path / "all.jsonl"))
    assert "all.jsonl, row 37" in problem
    assert "sprot" in problem


@pytest.mark.parametrize(
    ("name", "says"), [("few.jsonl", "too few rows"), ("all.xlsx", "has a format that is not supported")]
)
def test_one_file_that_cannot_be_parted_is_refused(task: Task, tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in news(0, 4)))
    assert says in refusal(task, str(tmp_path / name))


def test_a_folder_may_use_the_fields_own_names(task: Task, tmp_path: Path) -> None:
    rows = [{"title": row["title"], "text": row["body"], "label": row["label"]} for row in news(0, 9)]
    data = write(tmp_path / "data", train=rows[:6], test=rows[6:])
    assert len(load_gold(task, GoldConfig(extrapolate=3, select=3), data).test) == 3


def test_csv_and_parquet_hold_the_same_rows_as_jsonl(task: Task, tmp_path: Path) -> None:
    rows = [{**row, "label": str(row["label"])} for row in news(0, 12)]
    config = GoldConfig(extrapolate=4, select=4)
    expected = load_gold(task, config, write(tmp_path / "jsonl", train=rows, test=rows[:4]))
    other = tmp_path / "other"
    write_csv(other / "test.csv", rows[:4])
    pq.write_table(pa.Table.from_pylist(rows), other / "train.parquet")
    assert load_gold(task, config, str(other)) == expected


def write_csv(path: Path, rows: Rows) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_csv_texts_may_have_several_lines_in_files_of_any_size(tmp_path: Path) -> None:
    paragraph = 'He said "no", and left.\n\nThe, end.\n'
    rows = [{"body": f"{n}\n{paragraph * 20}", "label": str(n)} for n in range(3000)]
    path = tmp_path / "train.csv"
    write_csv(path, rows)
    assert path.stat().st_size > 2 << 20
    assert read_file(path) == rows


def test_csv_values_are_read_as_they_stand(tmp_path: Path) -> None:
    rows = [{"body": "2024-05-01", "label": "01"}, {"body": "2024-05-02 10:00", "label": "02"}]
    write_csv(tmp_path / "train.csv", rows)
    assert read_file(tmp_path / "train.csv") == rows


def passages(answer: str, start: int) -> Rows:
    text = "The old silver cup went to Anna, and later to Bert."
    return [
        {"question": f"Question {n}?", "context": f"{n} {text}", "answers": {"text": [answer], "answer_start": [start]}}
        for n in range(9)
    ]


def test_span_rows_keep_their_answers_and_contexts_stay_with_them(
    make_task: Make, answers: Spec, tmp_path: Path
) -> None:
    rows = passages("Anna", 29)
    data = write(tmp_path / "data", train=rows[:6], test=rows[6:])
    gold = load_gold(make_task(answers), GoldConfig(extrapolate=3, select=2), data)
    assert gold.test[0].answers == (Span(text="Anna", start=29),)
    assert [context.id for context in gold.contexts] == [example.id for example in gold.extrapolate]
    assert gold.contexts[0].answer == Span(text="Anna", start=29)
    assert set(gold.contexts[0].fields) == {"context"}


@pytest.mark.parametrize(
    ("answers_column", "words"),
    [
        ({"text": ["er"], "answer_start": [3]}, ["not in its context", "'er' at 3", "'he'", "stands at 14, 42"]),
        ({"text": [], "answer_start": []}, ["no answer"]),
        ({"text": ["Anna"]}, ["answer_start"]),
        ("Anna", ["as in SQuAD"]),
    ],
)
def test_an_answer_must_stand_in_its_context(
    make_task: Make, answers: Spec, tmp_path: Path, answers_column: object, words: list[str]
) -> None:
    rows = passages("Anna", 29)
    rows[2]["answers"] = answers_column
    problem = refusal(make_task(answers), write(tmp_path / "data", train=rows, test=rows[:1]))
    assert "train.jsonl, row 3" in problem
    for word in words:
        assert word in problem


def refusal(task: Task, data: str | None, **gold: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_gold(task, GoldConfig(**({"extrapolate": 2, "select": 2} | gold)), data)
    return str(caught.value)


def test_a_missing_folder_or_file_is_named(task: Task, tmp_path: Path) -> None:
    assert "no such folder" in refusal(task, str(tmp_path / "nowhere"))
    problem = refusal(task, write(tmp_path / "data", train=news(0, 9)))
    assert "no test file" in problem
    assert "test.parquet" in problem


def test_two_files_of_one_split_are_refused(task: Task, folder: str) -> None:
    (Path(folder) / "train.csv").write_text("title,body,label\n", encoding="utf-8")
    assert "train.jsonl, train.csv" in refusal(task, folder)


def test_a_task_without_data_says_how_to_give_some(task: Task) -> None:
    assert "Set `data` in the job file" in refusal(task, None)


def test_a_missing_column_names_those_that_are_there(task: Task, tmp_path: Path) -> None:
    rows = [{"titel": row["title"], "body": row["body"], "label": row["label"]} for row in news(0, 9)]
    problem = refusal(task, write(tmp_path / "data", train=rows, test=rows))
    assert "row 1: title: no such column" in problem
    assert "Did you mean titel? Columns there: titel, body, label" in problem


def test_an_unknown_label_names_row_value_and_legal_values(task: Task, tmp_path: Path) -> None:
    rows = news(0, 9)
    rows[4]["label"] = 7
    problem = refusal(task, write(tmp_path / "data", train=rows, test=news(100, 5)))
    assert "train.jsonl, row 5: label: unknown label (got 7)" in problem
    assert "1 (sport), m (money)" in problem


@pytest.mark.parametrize("text", ["", "  ", None, 3])
def test_a_row_without_text_is_refused(task: Task, tmp_path: Path, text: object) -> None:
    rows = news(0, 9)
    rows[0]["body"] = text
    assert "row 1: body: no text" in refusal(task, write(tmp_path / "data", train=rows, test=news(100, 5)))


def test_more_rows_than_there_are_is_refused(task: Task, folder: str) -> None:
    problem = refusal(task, folder, extrapolate=39)
    assert "gold.extrapolate" in problem
    assert "There are 38" in problem
    assert "There are 20" in refusal(task, folder, test=21)


def test_an_empty_split_is_refused(task: Task, tmp_path: Path) -> None:
    data = write(tmp_path / "data", train=news(0, 9))
    (tmp_path / "data" / "test.jsonl").write_text("", encoding="utf-8")
    assert "no test rows" in refusal(task, data)


def test_an_empty_validation_file_is_not_taken_as_none(task: Task, folder: str) -> None:
    (Path(folder) / "validation.jsonl").write_text("", encoding="utf-8")
    problem = refusal(task, folder)
    assert "validation.jsonl: there are no validation rows" in problem


def test_an_empty_validation_split_of_the_hub_is_refused(
    make_task: Make, topics: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {"train": news(0, 12), "dev": [], "test": news(100, 3)}
    monkeypatch.setattr("s3ray.tasks.gold.read_hub", lambda source, split: splits[split])
    task = make_task(topics | {"source": {"hub": "some/news", "validation": "dev"}})
    assert "some/news, split dev: there are no validation rows" in refusal(task, None)


@pytest.mark.parametrize("line", ["{", "[1, 2]"])
def test_a_line_that_is_no_json_object_is_named(task: Task, folder: str, line: str) -> None:
    path = Path(folder) / "train.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert "train.jsonl, row 41" in refusal(task, folder)


def test_a_broken_parquet_file_is_refused(task: Task, folder: str) -> None:
    (Path(folder) / "train.jsonl").rename(Path(folder) / "train.parquet")
    assert "cannot be read" in refusal(task, folder)


def test_a_hub_dataset_is_read_split_by_split(make_task: Make, topics: Spec, tmp_path: Path) -> None:
    train = [{**row, "label": str(row["label"])} for row in news(0, 12)]
    test = [{**row, "label": "m"} for row in news(100, 3)]
    source = {"hub": write(tmp_path / "news", train=train, test=test)}
    gold = load_gold(make_task(topics | {"source": source}), GoldConfig(extrapolate=4, select=4))
    assert {example.label for example in gold.test} == {"money"}
    problem = refusal(make_task(topics | {"source": source | {"test": "tset"}}), None)
    assert "cannot load split tset" in problem
    assert "set `data`" in problem
