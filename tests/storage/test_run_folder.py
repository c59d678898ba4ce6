"""The run folder: whole files or none, one owner, foreign folders left alone."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s3ray.errors import InputError
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_outcomes
from s3ray.types import Outcome, OutcomeStatus

SETTINGS: dict[str, Any] = {"task": "imdb", "seed": 0, "strategy": {"name": "s3", "rounds": 2}}


def made(folder: Path) -> RunStore:
    store = RunStore(folder)
    store.create(SETTINGS, "name: x\n")
    return store


def test_a_run_is_recognised_by_its_settings(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    assert store.check(SETTINGS) is False
    assert not store.folder.exists(), "checking must not make the folder"
    store.create(SETTINGS, "name: x\n")
    assert store.check(SETTINGS) is True


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    store = made(tmp_path / "run")
    before = (store.folder / "fingerprint.json").read_bytes()
    changed = SETTINGS | {"strategy": {"name": "s3", "rounds": 3}}
    with pytest.raises(InputError, match=r"strategy\.rounds was 2, is 3"):
        store.check(changed)
    assert (store.folder / "fingerprint.json").read_bytes() == before


def test_rows_and_a_task_that_changed_are_named_by_their_files(tmp_path: Path) -> None:
    known = SETTINGS | {"task": "mine", "task_content": "a1", "gold_content": "b1", "gold": {"test": 10}}
    store = RunStore(tmp_path / "run")
    store.create(known, "name: run\n")
    places = {"task_content": "mine.yaml", "gold_content": "reviews.csv"}

    def said(**changes: object) -> str:
        with pytest.raises(InputError) as refused:
            store.check(known | changes, places)
        return refused.value.problem.partition("settings: ")[2]

    assert said(gold_content="b2") == "the rows of reviews.csv have changed"
    assert said(gold_content="b2", seed=7).endswith("; the rows of reviews.csv have changed")
    assert said(task_content="a2") == said(task_content="a2", gold_content="b2") == "the task mine.yaml has changed"
    assert said(gold={"test": 9}, gold_content="b2") == "gold.test was 10, is 9", "other sizes take other rows"


def test_a_start_killed_at_once_leaves_a_usable_folder(tmp_path: Path) -> None:
    for name in (".lock", ".fingerprint.json.writing"):
        (tmp_path / name).write_text("")
    assert RunStore(tmp_path).check(SETTINGS) is False


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an s3ray run"):
        RunStore(tmp_path).check(SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        RunStore(tmp_path / "run").check(SETTINGS)


def test_only_a_run_folder_opens(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the folder of a run"):
        RunStore.existing(tmp_path)


def _hold(folder: Path, held: Any, release: Any) -> None:
    with RunStore(folder).lock():
        held.set()
        release.wait(30)


def test_one_process_at_a_time_runs_a_run(tmp_path: Path) -> None:
    store = made(tmp_path / "run")
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(store.folder, held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(InputError, match="another process"), store.lock():
            pass
    finally:
        release.set()
        other.join(30)
    with store.lock():
        pass


def outcome(index: int) -> pa.Table:
    return table_from_outcomes([Outcome("", index, OutcomeStatus.ACCEPTED)])


def test_chunks_come_back_in_order_and_are_never_overwritten(tmp_path: Path) -> None:
    store = made(tmp_path / "run")
    for value in range(12):
        store.write_chunk(0, "seed", outcome(value))
    RunStore(store.folder).write_chunk(0, "seed", outcome(12))
    store.write_chunk(0, "reasons", outcome(99))
    values = [chunk["index"][0].as_py() for chunk in store.read_chunks(0, "seed")]
    assert values == list(range(13))


def test_a_half_written_file_is_not_seen(tmp_path: Path) -> None:
    store = made(tmp_path / "run")
    folder = store.path("rounds/0/chunks")
    folder.mkdir(parents=True)
    (folder / ".seed-000000.parquet.writing").write_bytes(b"PAR1 and then the power went")
    assert list(store.read_chunks(0, "seed")) == []
    assert store.rounds() == []


def test_a_cut_event_line_costs_only_itself(tmp_path: Path) -> None:
    store = made(tmp_path / "run")
    store.append_events([{"event": "one"}])
    with store.path("events.jsonl").open("ab") as handle:
        handle.write(b'{"event": "tw')
    store.append_events([{"event": "three"}])
    assert [event["event"] for event in store.events()] == ["one", "three"]
    lines = store.path("events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"event": "three"}
