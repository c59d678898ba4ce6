"""`s3ray init`: from a file of rows to a task and a job that are whole, whatever columns and labels are called."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from s3ray.cli import main
from s3ray.config.job import GoldConfig
from s3ray.config.load import load_config
from s3ray.errors import InputError
from s3ray.tasks import Task, load_task
from s3ray.tasks.draft import draft, field_name, in_words
from s3ray.tasks.gold import load_gold
from s3ray.tasks.templates import compile_template
from s3ray.types import GenerationRequest

HEADER = ["Product", "What they wrote", "Verdict"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(num: int, labels: tuple[str, ...] = ("very good", "bad: really", "so-so")) -> list[list[str]]:
    products = ("kettle", "lamp", "sofa")
    return [
        [products[n // 3 % 3], f'Comment number {n}, it says "so", and goes on.', labels[n % len(labels)]]
        for n in range(num)
    ]


def write(name: str, header: list[str], lines: list[list[str]], **how: Any) -> Path:
    with Path(name).open("w", newline="", encoding=how.pop("encoding", "utf-8")) as file:
        csv.writer(file, **how).writerows([header, *lines])
    return Path(name)


def loaded(data: Path, **named: str) -> tuple[Task, GoldConfig]:
    """Task and gold of a draft that was written as it stands."""
    made = draft(data, **named)
    for name, text in made.files.items():
        Path(name).write_text(text, encoding="utf-8")
    config = load_config(next(name for name in made.files if name.endswith("-job.yaml")))
    return load_task(config.task), config.gold


def request(task: Task, template: str) -> GenerationRequest:
    gold = load_gold(task, GoldConfig(extrapolate=4, select=4))
    example = gold.extrapolate[0]
    return GenerationRequest(
        id="r",
        index=0,
        stage=template,
        round=0,
        template=template,
        label=example.label,
        context={name: example.fields[name] for name in task.context_fields},
        parent=example,
        group="",
        seed=0,
    )


def test_three_columns_become_a_task_that_loads_and_splits() -> None:
    task, sizes = loaded(write("our reviews.csv", HEADER, rows(60)))
    assert task.name == "our-reviews"
    assert (task.fields, task.written) == (("product", "what_they_wrote"), "what_they_wrote")
    assert set(task.labels) == {"very good", "bad: really", "so-so"}
    gold = load_gold(task, sizes)
    assert (len(gold.extrapolate), len(gold.select), len(gold.test)) == (24, 12, 12)
    assert {context.fields["product"] for context in gold.contexts} == {"kettle", "lamp", "sofa"}
    for form in ("chat", "completion"):
        for template in ("seed", "extrapolate"):
            wanted = request(task, template)
            prompt = task.render(wanted, form)
            said = prompt.text or prompt.user or ""
            assert f"Product: {wanted.context['product']}" in said
            assert (wanted.label or "").replace(":", "") in said
            assert ("Comment number" in said) == (template == "extrapolate")


def test_a_single_text_gets_reasons_and_numbers_are_left_out() -> None:
    lines = [[str(n), f"A text with the number {n} in it.", str(n % 2)] for n in range(40)]
    data = write("texts.csv", ["id", "source", "label"], lines)
    made = draft(data)
    assert "left out, since they hold numbers: id" in "\n".join(made.guesses)
    task, _ = loaded(data)
    assert task.fields == ("source_text",)  # `source` is a column of s3ray's own
    assert task.note_prompts("chat") == {"reasons"}
    assert task.labels == ("0", "1")


def test_passages_are_no_categories() -> None:
    lines = [[f"Premise {n} is here.", f"A hypothesis {n} that is longer than it.", str(n % 2)] for n in range(60)]
    task, sizes = loaded(write("pairs.csv", ["sentence1", "sentence2", "label"], lines))
    assert task.passage_fields == ("sentence1",)
    held_out = {example.fields["sentence1"] for example in load_gold(task, sizes).test}
    assert not held_out & {context.fields["sentence1"] for context in load_gold(task, sizes).contexts}


def test_two_columns_that_can_be_the_label_are_asked_for_and_what_is_named_is_taken() -> None:
    lines = [[f"Title {n}", f"A much longer text {n}", ("x", "y")[n % 2], str(n % 3)] for n in range(60)]
    data = write("data.csv", ["title", "text", "kind", "stars"], lines)
    with pytest.raises(InputError, match=r"several columns can be the label(.|\n)*kind: 2 .*stars: 3 "):
        draft(data)
    task, _ = loaded(data, label="stars", writes="title")
    assert (task.written, task.labels) == ("title", ("0", "1", "2"))


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_of_spreadsheets_are_read(separator: str, encoding: str) -> None:
    data = write("sheet.csv", HEADER, rows(60), delimiter=separator, encoding=encoding)
    task, sizes = loaded(data)
    texts = [example.fields["what_they_wrote"] for example in load_gold(task, sizes).test]
    assert all(text.endswith('says "so", and goes on.') for text in texts)


@pytest.mark.parametrize(
    ("name", "text", "named", "says"),
    [
        ("few.csv", "a,b\n" + "x,y\n" * 5, {}, ["few.csv", "too few rows", "5"]),
        ("flat.csv", "a,b\n" + "x y z,same\n" * 40, {}, ["no column looks like a label", "--label", "a, b"]),
        ("data.csv", "text,kind\n" + "x y,1\nz,2\n" * 40, {"label": "kinds"}, ["--label", "kinds", "text, kind"]),
        ("data.csv", "text,kind\n" + "x y,1\nz,2\n" * 40, {"writes": "kind"}, ["--writes", "kind"]),
        ("data.csv", "n,kind\n" + "1,1\n2,2\n" * 40, {}, ["holds no text"]),
        (
            "one.csv",
            "text,kind\n" + "x,Good\ny z,good\n" * 40,
            {"label": "kind"},
            ["all labels are one", "'Good', 'good'"],
        ),
        ("twice.csv", "text,kind\n" + "x y,1\nz,2\n" * 40, {"label": "kind"}, ["too few different texts"]),
        ("data.xlsx", "PK", {}, [".xlsx", "CSV UTF-8"]),
        ("ragged.csv", "text,kind\n" + "x, y,1\n" * 40, {}, ["ragged.csv", "into quotes, and double"]),
        (
            "a b.csv",
            "a b,a-b,label\n" + "x y,z,1\nz,x x,2\nx y,z,2\nz,x x,1\n" * 20,
            {},
            ["one name in prompts", "Rename"],
        ),
    ],
)
def test_what_cannot_be_drafted_is_refused_with_a_way_out(
    name: str, text: str, named: dict[str, str], says: list[str]
) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        draft(Path(name), **named)
    for part in says:
        assert part in str(refused.value)


def test_another_encoding_is_named() -> None:
    write("old.csv", HEADER, [["Wasserkocher", "Er ist schön", "gut"]] * 40, encoding="latin-1")
    with pytest.raises(InputError, match="Save it as UTF-8"):
        draft(Path("old.csv"))


def test_the_command_writes_both_files_and_overwrites_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine.csv", HEADER, rows(60))
    monkeypatch.setattr("sys.argv", ["s3ray", "init", "mine.csv"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "s3ray plan mine-job.yaml" in capsys.readouterr().out
    Path("mine-task.yaml").write_text("mine: alone\n")
    Path("mine-job.yaml").unlink()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "mine-task.yaml: is there already" in capsys.readouterr().err
    assert Path("mine-task.yaml").read_text() == "mine: alone\n"
    assert not Path("mine-job.yaml").exists()


def test_a_folder_that_cannot_be_written_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = draft(write("mine.csv", HEADER, rows(60)))
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    with pytest.raises(InputError, match=r"mine-task\.yaml: cannot be written: No such file(.|\n)*or name one"):
        made.write()


@pytest.mark.parametrize(
    ("said", "words", "field"),
    [
        ("नकारात्मक", "नकारात्मक", "नकारात्मक"),
        ("u\u0308bel_gut", "übel gut", "übel_gut"),
        ("می\u200cخواهم", "می\u200cخواهم", "می_خواهم"),
        ("★★★", "★★★", "text"),
        ("x²", "x²", "x2"),
        ("snake__case-Name", "snake case Name", "snake__case_name"),
    ],
)
def test_names_in_any_script_keep_their_letters_and_marks(said: str, words: str, field: str) -> None:
    assert in_words(said) == words
    assert field_name(said) == field
    assert compile_template(f"{{{{ fields.{field} }}}}").render(fields={field: "said"}) == "said"


def labelled(name: str, labels: list[str]) -> Path:
    return write(name, ["text", "label"], [[f"The text {n} is here.", label] for n, label in enumerate(labels)])


def test_rows_without_a_label_are_named_and_left_out_on_request_alone() -> None:
    data = labelled("few.csv", [("" if n % 10 == 3 else ("good", "bad")[n % 2]) for n in range(60)])
    with pytest.raises(InputError, match=r"label: 6 rows have no label: row 4 (.|\n)*--leave-out unlabelled"):
        draft(data)
    made = draft(data, leave_out=["unlabelled"])
    assert "  left out, without a label: 6 rows" in made.guesses
    made.write()
    config = load_config("few-job.yaml")
    gold = load_gold(load_task(config.task), config.gold)
    assert {example.label for example in (*gold.extrapolate, *gold.select, *gold.test)} == {"good", "bad"}
    with pytest.raises(InputError, match="Choose from unlabelled, contradictory"):
        draft(data, leave_out=["empty"])


def test_rows_may_lack_the_key_of_a_column() -> None:
    lines = [{"text": f"The text {n} is here.", "label": ("x", "y")[n % 2], "note": "n"} for n in range(40)]
    del lines[3]["label"], lines[5]["note"]
    data = Path("few.jsonl")
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"label: row 4 has no label"):
        draft(data)
    made = draft(data, leave_out=["unlabelled"])
    assert "  left out, since some rows have nothing there: note" in made.guesses


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (["0", "1", "2", "1", "0", "2", "1", "0", "1", "0", "2", "1"] * 5 + ["-1"] * 3, "-1 (3 rows)"),
        (["good", "bad"] * 30 + ["nan"] * 4, "nan (4 rows)"),
    ],
)
def test_labels_that_may_mean_none_are_told(labels: list[str], what: str) -> None:
    data = labelled("some.csv", labels)
    told = "\n".join(draft(data).guesses)
    assert f"{what} may mean that there is no label; then: --leave-out unlabelled" in told
    made = draft(data, leave_out=["unlabelled"])
    assert f"left out, without a label: {what.partition('(')[2].removesuffix(')')}" in "\n".join(made.guesses)
    assert what.partition(" ")[0] not in made.files["some-task.yaml"].split("labels:")[1].split("data:")[0]


def test_a_dash_among_words_may_mean_that_annotators_said_different_things() -> None:
    data = labelled("pairs.csv", ["entailed", "neutral", "refuted"] * 20 + ["-"] * 4)
    assert "  - (4 rows) may mean that there is no label; then: --leave-out unlabelled" in draft(data).guesses
    assert "  left out, without a label: 4 rows" in draft(data, leave_out=["unlabelled"]).guesses
    assert "may mean" not in "\n".join(draft(labelled("signs.csv", ["+", "-", "0", "+"] * 20)).guesses)


def test_sizes_are_those_of_different_texts_and_what_is_odd_is_told() -> None:
    lines = [[f"The text {n % 40} is here.", ("good", "Good", "bad")[n * n % 3 if n < 40 else 2]] for n in range(80)]
    task, sizes = loaded(write("odd.csv", ["text", "label"], lines))
    assert task.labels == ("Good", "bad")
    assert sizes.extrapolate in range(10, 21)
    told = "\n".join(draft(Path("odd.csv")).guesses)
    assert told.startswith("odd.csv: 80 rows of 81 lines (1 with the names)\n")
    assert "taken for one class, as they differ by case, blanks or signs alone: Good, good" in told
    assert "texts come with several labels; gold keeps one row of each" in told
    assert "40 rows repeat the text of another one" in told


def test_texts_with_several_labels_are_left_out_of_the_sizes_too_and_it_is_told() -> None:
    lines = [[f"The text {n % 60} is here.", "ab"[n % 2 if n < 60 else 1 - n % 2]] for n in range(80)]
    made = draft(write("both.csv", ["text", "label"], lines), leave_out=["contradictory"])
    assert "  left out, since they have several labels: 20 texts" in made.guesses
    made.write()
    config = load_config("both-job.yaml")
    gold = load_gold(load_task(config.task), config.gold)
    assert len(gold.extrapolate) == (40 - len(gold.test)) // 2


def test_parts_of_gold_grow_with_the_number_of_classes() -> None:
    lines = [[f"The text {n} is here.", f"intent {n % 100}"] for n in range(1500)]
    made = draft(write("many.csv", ["text", "label"], lines))
    assert "gold: {extrapolate: 500, select: 300," in made.files["many-job.yaml"]


def test_a_given_passage_counts_in_the_length_that_the_student_reads() -> None:
    lines = [[f"Premise {n} " + "is here and " * 30, f"A hypothesis {n}.", str(n % 2)] for n in range(60)]
    loaded(write("pairs.csv", ["premise", "hypothesis", "label"], lines))
    assert load_config("pairs-job.yaml").student.max_length > 92


def test_what_is_odd_about_columns_is_told() -> None:
    lines = [{"": n, "text": f"The text {n} is here.", "score": n % 3 / 2} for n in range(60)]
    Path("odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = "\n".join(draft(Path("odd.jsonl"), label="score").guesses)
    assert "  looks like regression: score holds 3 different numbers" in told
    assert "  left out, since they hold numbers: the column without a name" in told


def test_a_class_has_some_rows_written_and_classes_of_a_few_rows_are_told() -> None:
    made = draft(labelled("many.csv", [f"intent {n % 77}" for n in range(231)]))
    assert "77 of 77 classes have fewer than 5 rows" in "\n".join(made.guesses)
    assert "seed_examples: 308, rows: 462" in made.files["many-job.yaml"]


@pytest.mark.parametrize("name", ["2024.csv", "no.csv", "null.csv", "1e5.csv", "2024-01-01.csv", "-x-.csv"])
def test_a_file_may_be_called_like_a_number_or_nothing(name: str) -> None:
    assert loaded(write(name, HEADER, rows(60)))[0].labels


def test_sizes_of_texts_without_blanks_are_those_of_their_characters() -> None:
    lines = [[f"第{n}次买这家的水壶。用了两天就坏了，非常失望。" * (1 + n % 2), "好坏"[n % 2]] for n in range(60)]
    data = write("pinglun.csv", ["评论", "评价"], lines)
    task, _ = loaded(data)
    assert task.spec.limits.max_words >= 46
    config = load_config("pinglun-job.yaml")
    assert config.generator.sampling.max_tokens >= 2 * 46
    assert config.student.max_length >= 48


def test_labels_that_are_numbers_are_said_to_need_words() -> None:
    assert any("put words for them" in line for line in draft(labelled("n.csv", ["-1", "0", "1"] * 20)).guesses)
    assert not any("put words for them" in line for line in draft(labelled("w.csv", ["1", "x"] * 30)).guesses)


def test_words_of_labels_that_are_numbers_come_from_a_column_that_says_them() -> None:
    lines = [[f"The lamp number {n}.", str(n % 3), ("not good", "so_so", "good")[n % 3]] for n in range(60)]
    made = draft(write("named.csv", ["text", "label", "label_text"], lines))
    assert "  the labels are numbers; their words are those of label_text" in made.guesses
    assert not any("put words for them" in line for line in made.guesses)
    labels = yaml.safe_load(made.files["named-task.yaml"])["labels"]
    assert [(each["value"], each["words"]) for each in labels] == [("0", "not good"), ("1", "so so"), ("2", "good")]
    made = draft(write("codes.csv", ["text", "label", "code"], [[text, n, f"c{n}"] for text, n, _ in lines]))
    assert any("put words for them" in line for line in made.guesses)


def test_what_is_odd_about_the_characters_of_texts_is_told() -> None:
    lines = [[f"The caf\u00c3\u00a9 number {n}.", "ab"[n % 2]] for n in range(40)]
    assert "40 x text looks wrongly decoded" in "\n".join(draft(write("spoilt.csv", ["text", "label"], lines)).guesses)
    rows = [{"text": f"Half \ud83d number {n}.", "label": "ab"[n % 2]} for n in range(40)]
    Path("half.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "40 x text held half an emoji" in "\n".join(draft(Path("half.jsonl")).guesses)


def test_a_row_that_plan_would_refuse_is_refused_by_init() -> None:
    lines = [[f"The text number {n}." if n != 7 else " ", "ab"[n % 2]] for n in range(40)]
    with pytest.raises(InputError, match=r"holes.csv, row 8 \(line 9\): text: no text"):
        draft(write("holes.csv", ["text", "label"], lines))


def test_a_name_on_two_lines_is_told_on_one_and_an_apostrophe_stays_in_its_word() -> None:
    lines = [[f"The text number {n}.", ("don't know", "know")[n % 2]] for n in range(40)]
    made = draft(write("two.csv", ["Review\nText", "\u0130l"], lines))
    assert "  the language model writes: Review Text" in made.guesses
    assert "words: don't know" in made.files["two-task.yaml"]
    assert "What is the il of a review text?" in made.files["two-task.yaml"]
