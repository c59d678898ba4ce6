"""A file of a run that is not as s3ray wrote it is named, with what is wrong in it and a way out."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s3ray.cli import main
from s3ray.errors import StoreError
from s3ray.storage.contents import Notes, parse_line
from s3ray.storage.lineages import choose
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.types import Example, Origin, Source
from tests.monitor.run_folder import write_run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return write_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is not JSON: Expecting value"),
        (b'{"rows": 1', "it is not JSON"),
        (b'{"rows": 1}{', "it is not JSON: Extra data"),
        (b"\xff\xfe{}", "it is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "it is not JSON: Exceeds the limit"),
        (b'{"good": ["\\ud800"]}', "it is not JSON"),
        (b"[]", "valid dictionary"),
        (b'{"good": "text"}', "good: Input should be a valid list"),
        (b'{"good": [1]}', "good.0: Input should be a valid string"),
    ],
)
def test_json_that_is_damaged_is_named(store: RunStore, content: bytes, said: str) -> None:
    store.path("rounds/0/reasons.json").write_bytes(content)
    with pytest.raises(StoreError) as raised:
        store.read_record("rounds/0/reasons.json", Notes)
    assert f"{store.url('rounds/0/reasons.json')} is damaged: " in str(raised.value)
    assert said in str(raised.value)
    assert "`s3ray run JOB.yaml --fresh`" in str(raised.value)


def test_whole_characters_that_json_spells_in_halves_are_read(store: RunStore) -> None:
    store.path("rounds/0/reasons.json").write_bytes(b'{"good": ["\\ud83d\\ude00"]}')
    assert store.read_record("rounds/0/reasons.json", Notes) == {"good": ["😀"]}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": ', None),
        ("", None),
        ("[" * 100_000, None),
        ('{"a": "\\ud800"}', {"a": "\ufffd"}),
    ],
)
def test_a_line_of_events_is_read_or_passed_over(line: str, value: object) -> None:
    assert parse_line(line) == value


def changed(table: pa.Table, **columns: Any) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def test_tables_that_are_damaged_are_named(store: RunStore) -> None:
    name = store.accepted(0)
    table = store.read_table(name)
    num = table.num_rows
    rejected = store.read_table(store.rejected(0))
    cases: list[tuple[pa.Table | bytes, str]] = [
        (b"", "it cannot be read as Parquet"),
        (b"PAR1", "it cannot be read as Parquet"),
        (store.path(name).read_bytes()[:-9], "it cannot be read as Parquet"),
        (table.drop_columns(["parent"]), "it has no column parent"),
        (table.append_column("id", table["id"]), "it cannot be read as Parquet: Multiple matches"),
        (table.drop_columns(["label"]), "it has no column label"),
        (table.drop_columns(["text"]), "it has no column text"),
        (changed(table, id=list(range(num))), "its column id holds int64, not string"),
        (changed(table, id=[None, *["a"] * (num - 1)]), "its column id lacks 1 values"),
        (changed(table, text=[None, *["a"] * (num - 1)]), "its column text lacks 1 values"),
        (changed(table, source=["dreamt"] * num), "its column source holds 'dreamt'"),
        (rejected, "it has no column id"),
    ]
    for content, said in cases:
        if isinstance(content, bytes):
            store.path(name).write_bytes(content)
        else:
            store.write_table(name, content)
        with pytest.raises(StoreError, match=f"accepted.parquet is damaged: {said}"):
            store.read_table(name)
    store.write_table(name, table)
    with pytest.raises(StoreError, match=r"accepted.parquet is damaged: it has no column question"):
        store.read_table(name, ("question",))


def test_a_field_of_a_task_may_be_called_status(store: RunStore) -> None:
    row = Example(
        id="a", fields={"status": "open", "text": "x"}, label="good", origin=Origin(source=Source.GOLD, parent=None)
    )
    table = table_from_examples([row], ("status", "text"), has_labels=True)
    store.write_table(store.gold("test"), table)
    assert store.read_table(store.gold("test"), ("status", "text")) == table


def test_settings_of_a_run_that_reports_need_are_there(store: RunStore) -> None:
    text = store.path("config.yaml").read_text()
    store.path("config.yaml").write_text(text.replace("tensor_parallel: 1", "tensor_parallel: many"))
    with pytest.raises(StoreError, match=r"config.yaml is damaged: generator.tensor_parallel: "):
        store.read_job()
    store.path("config.yaml").write_text(f"{text}\nlater: 1\n")  # what a later version adds is no damage
    assert store.read_job()["name"] == "quickstart"


def test_a_damaged_lineage_is_not_passed_over_but_outlived(store: RunStore) -> None:
    second, _ = choose(store.root, fresh=True)
    RunStore(second).write_json("fingerprint.json", {"fingerprint": 1})
    with pytest.raises(StoreError, match=r"run\.2/fingerprint\.json is damaged"):
        choose(store.root, fresh=False)
    third, lineage = choose(store.root, fresh=True)
    assert (Path(third).name, lineage.parent) == ("run.3", None)


@pytest.mark.parametrize("width", ["0", "1", "9" * 40, "²"])
def test_a_message_is_seen_whatever_the_width_of_the_terminal_is_said_to_be(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("sys.argv", ["s3ray", "status", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is not the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize("value", [5, 1e-4, True])
def test_data_that_is_neither_a_path_nor_rows_is_refused(
    value: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps({"name": "x", "task": "imdb", "data": value}))
    monkeypatch.setattr("sys.argv", ["s3ray", "plan", str(tmp_path / "job.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"data: is neither a path nor rows (got {value})" in capsys.readouterr().err
