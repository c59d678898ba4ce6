"""The run folder: the only file that knows a path.

    config.yaml  fingerprint.json  events.jsonl  metrics.json  report.html
    gold/        extrapolate.parquet  select.parquet  test.parquet
    rounds/N/    chunks/*.parquet  notes (reasons.json, subjects.json, patterns.json)  requests.parquet
                 accepted.parquet  rejected.parquet  train.parquet  round.json
    students/N/  model and tokenizer (safetensors), trained.json, mistakes/*.parquet, mistakes.parquet,
                 probes/*.parquet, test.parquet, score.json
    checker/     the student that weighs written rows: model and tokenizer, trained.json, score.json
    dataset/     the final synthetic set

It lies in a folder of this machine (``local``) or on an object store (``object_store``), where ``events/`` takes the
place of ``events.jsonl``.

Invariant: a file is either absent or whole; ``round.json`` and ``score.json`` come last and mean that a step is over.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from s3ray.config.load import parse_yaml
from s3ray.config.shaping import changes_in_words, fingerprint
from s3ray.errors import InputError, StoreError, located
from s3ray.storage.contents import (
    IdentityRecord,
    JobRecord,
    ModelsRecord,
    checked,
    count_rows,
    parse_json,
    parse_line,
    parse_table,
)
from s3ray.storage.lease import held
from s3ray.storage.local import Files, LocalFiles, Notify, Position, split, store_errors
from s3ray.storage.object_store import open_folder, read_file
from s3ray.tables import OUTCOME_SCHEMA

_FINGERPRINT = "fingerprint.json"
_CONFIG = "config.yaml"
_EVENTS = "events.jsonl"
_ROUND = "round.json"
_SCORE = "score.json"
METRICS = "metrics.json"
"""Name of the figures of a finished run."""
CHECKER_SCORE = f"checker/{_SCORE}"
"""Name of the marker of a finished checker."""
KEPT_BY_THE_RUN = (_SCORE, "mistakes.parquet", "test.parquet")
"""The files of a student that its run writes, not its trainer."""

_Kind = TypeVar("_Kind")


class RunStore:
    """One run's folder, read and written whole files at a time."""

    def __init__(self, folder: str | Path) -> None:
        """``folder`` is a folder of this machine or any fsspec URL.

        Raises:
            InputError: the URL cannot be used: protocol unknown, package missing.
        """
        self._files = open_folder(str(folder))
        self._num_chunks: dict[tuple[int, str], int] = {}
        self._config: tuple[bytes, dict[str, Any]] | None = None

    @property
    def root(self) -> str:
        """Where the run lies: an absolute path, or a URL."""
        return self._files.root

    @property
    def name(self) -> str:
        """The folder's own name."""
        return split(self.root)[1]

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def existing(cls, folder: str | Path) -> "RunStore":
        """Open the folder of a run that was started before, for reading.

        Raises:
            InputError: there is no such folder, or it is not a run's.
        """
        store = cls(folder)
        if not store.is_run():
            raise InputError(
                "is not the folder of a run", where=str(folder), hint="Give the folder that `s3ray run` printed."
            )
        return store

    def check(self, settings: Mapping[str, Any], places: Mapping[str, str] | None = None) -> bool:
        """Whether the folder already belongs to a run with these data-shaping settings. Changes nothing.

        ``places`` says where task and rows lie, see ``changes_in_words``.

        Raises:
            InputError: the folder is foreign, unwritable, or belongs to a run with other settings.
        """
        self.check_writable()
        if not self.is_run():
            # A start that was killed at once may have left its lock and an unfinished file, both hidden.
            if any(not name.startswith(".") for name in self.entries()):
                hint = "Nothing in it was touched. Choose another `name`, `store` or --out."
                raise InputError("holds files that are not an s3ray run", where=self.root, hint=hint)
            return False
        known = self.identity()
        if known["fingerprint"] != fingerprint(settings):
            changes = "; ".join(changes_in_words(known["settings"], settings, places)) or "the fingerprint"
            raise InputError(
                f"belongs to a run with other settings: {changes}",
                where=self.root,
                hint="Begin a new lineage beside it with --fresh, give the run another `name` (or --out), or put the "
                "setting back. Nothing in it was touched.",
            )
        return True

    def check_writable(self) -> None:
        """Refuse a place where no run can lie; on an object store this writes and removes a hidden object.

        Raises:
            InputError: it is a file, cannot be reached or cannot be written.
        """
        self._files.check_writable()

    def create(
        self, settings: Mapping[str, Any], config_yaml: str, *, requests: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """Write which run the folder belongs to. Of a known run only ``config.yaml`` is written again.

        ``requests`` are the fingerprints of request ids (None: the settings' own); ``more`` is written beside them
        (``lineage``, ``task``, and ``revisions``: the commits of the hub's models by section).
        """
        self.write_text(_CONFIG, config_yaml)
        if not self.is_run():
            own = fingerprint(settings)
            names = dict(requests or {"seed": own, "later": own})
            self.write_json(_FINGERPRINT, {"fingerprint": own, "requests": names, "settings": settings} | more)

    def is_run(self) -> bool:
        """Whether the folder is a run's."""
        return self.has(_FINGERPRINT)

    def identity(self) -> IdentityRecord:
        """What ``create`` wrote: ``fingerprint``, ``settings``; and ``lineage``, ``task``, ``revisions`` if known.

        Raises:
            StoreError: it cannot be read.
        """
        return self.read_record(_FINGERPRINT, IdentityRecord)

    def models(self) -> dict[str, str]:
        """The models of ``generator`` and ``student``, identified by their content when the run began."""
        models = checked(self.identity()["settings"], self.url(_FINGERPRINT), ModelsRecord)
        return {"generator": models["generator"]["model"], "student": models["student"]["model"]}

    @property
    def requests(self) -> dict[str, str]:
        """The fingerprints that request ids are made with, in round 0 (``seed``) and ``later``.

        A lineage that was made by reading a run again keeps those of that run.
        """
        found = self.identity()["requests"]
        return {"seed": found["seed"], "later": found["later"]}

    def lock(self, notify: Notify = lambda text: None) -> AbstractContextManager[None]:
        """Hold the folder for one driver; ``notify`` gets a line about each driver that must be waited for.

        On this machine the lock ends with the process, however that ends. On an object store it is a lease, and a
        driver that lost it can write no more (``LeaseLostError``).

        Raises:
            InputError: another process is running this run.
        """
        return locked([self], notify)

    def is_held(self) -> bool:
        """Whether a driver holds the folder."""
        return self._files.is_held()

    # -- files -----------------------------------------------------------------------------------------------------

    def url(self, name: str) -> str:
        """Where a file or folder of the run lies: a path of this machine, or a URL."""
        return self._files.url(name)

    @property
    def folder(self) -> Path:
        """The folder of a run on this machine."""
        return self.path("")

    def path(self, name: str) -> Path:
        """Where a file or folder of a run on this machine lies."""
        if not isinstance(self._files, LocalFiles):
            raise StoreError(f"{self.url(name)} is not on this machine")
        return self._files.folder / name

    def has(self, name: str) -> bool:
        """Whether a file of the run is there (and, by the invariant, whole)."""
        return self._files.exists(name)

    def entries(self) -> list[str]:
        """What lies directly in the folder, hidden or not."""
        return self._files.entries()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        self._files.write(name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            StoreError: it cannot be read.
        """
        return parse_json(self._files.read(name), self.url(name))

    def read_record(self, name: str, kind: type[_Kind]) -> _Kind:
        """Read a JSON file of the run as ``kind``, such as ``dict[str, float]`` or a ``TypedDict``.

        Raises:
            StoreError: it cannot be read, or holds something else.
        """
        return checked(self.read_json(name), self.url(name), kind)

    def read_config(self) -> dict[str, Any]:
        """The resolved job, as it lies in ``config.yaml``.

        Raises:
            InputError: it cannot be read.
        """
        try:
            content = self._files.read(_CONFIG)
            if self._config is None or self._config[0] != content:
                with located(self.url(_CONFIG)):
                    self._config = content, parse_yaml(content.decode())
        except (StoreError, UnicodeDecodeError) as error:
            raise InputError("cannot be read", where=self.url(_CONFIG), value=str(error)) from error
        return copy.deepcopy(self._config[1])

    def read_job(self) -> JobRecord:
        """What a report needs to know of the resolved job.

        Raises:
            InputError: it cannot be read.
            StoreError: it lacks fields that every version writes, or they have another type.
        """
        return checked(self.read_config(), self.url(_CONFIG), JobRecord)

    def write_text(self, name: str, content: str) -> str:
        """Write a text file atomically and say where it lies."""
        self._files.write(name, content.encode())
        return self.url(name)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file atomically."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self._files.write(name, sink.getvalue())

    def read_table(self, name: str, fields: Sequence[str] = ()) -> pa.Table:
        """Read a Parquet file of the run; ``fields`` are those of the task, where examples are read.

        Raises:
            StoreError: it cannot be read, or lacks columns or values that such a table has.
        """
        return parse_table(self._files.read(name), self.url(name), fields)

    def table_writer(self, name: str, schema: pa.Schema) -> "TableWriter":
        """Begin a Parquet file that is written in parts and appears under its name when it is closed."""
        return TableWriter(self._files, name, schema)

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder of the run and below it."""
        return self._files.names(folder)

    def copy_from(self, other: "RunStore", name: str, own_name: str = "") -> None:
        """Take over a file of another run, under its name or ``own_name``."""
        self._files.write(own_name or name, other._files.read(name))

    # -- what lies where -------------------------------------------------------------------------------------------

    def gold(self, part: str) -> str:
        """Name of a gold part's table (``extrapolate``, ``select`` or ``test``)."""
        return f"gold/{part}.parquet"

    def in_round(self, num: int, name: str) -> str:
        """Name of a file of a round, or of its folder."""
        return f"rounds/{num}/{name}".rstrip("/")

    def request_table(self, num: int) -> str:
        """Name of the table of all requests of a round."""
        return self.in_round(num, "requests.parquet")

    def accepted(self, num: int) -> str:
        """Name of the table of the rows that a round added."""
        return self.in_round(num, "accepted.parquet")

    def rejected(self, num: int) -> str:
        """Name of the table of the texts that a round did not keep."""
        return self.in_round(num, "rejected.parquet")

    def train(self, num: int) -> str:
        """Name of the training set of a round's student."""
        return self.in_round(num, "train.parquet")

    def notes(self, num: int, stage: str) -> str:
        """Name of the notes that a stage of a round took (reasons, subjects or patterns)."""
        return self.in_round(num, f"{stage}.json")

    def calibration(self, num: int) -> str:
        """Name of the calibration, made from the generator's label probabilities on gold."""
        return self.in_round(num, "calibration.json")

    def round_report(self, num: int) -> str:
        """Name of the marker of a finished round, which sums it up."""
        return self.in_round(num, _ROUND)

    def in_student(self, num: int, name: str) -> str:
        """Name of a file of a student, or of its folder."""
        return f"students/{num}/{name}".rstrip("/")

    def mistakes(self, num: int) -> str:
        """Name of the table of a student's mistakes; their blocks lie in a folder beside it."""
        return self.in_student(num, "mistakes.parquet")

    def answers(self, num: int) -> str:
        """Name of the table of a student's answers to the test part."""
        return self.in_student(num, "test.parquet")

    def score(self, num: int) -> str:
        """Name of the marker of a finished student, which sums it up."""
        return self.in_student(num, _SCORE)

    def source(self, round_: int, name: str) -> str:
        """Name of a table that a round is written from: its own copy, if it has one, else the last student's."""
        own = self.in_round(round_, name)
        return own if self.has(own) else self.in_student(round_ - 1, name)

    def mistakes_before(self, round_: int) -> str:
        """Name of the table of the mistakes that a round is written from."""
        return self.source(round_, "mistakes.parquet")

    def mistake_blocks(self, round_: int) -> list[str]:
        """Names of the tables that together hold the mistakes that a round is written from, so far, in order."""
        whole = self.mistakes_before(round_)
        return self.files(whole.removesuffix(".parquet")) or [whole] * self.has(whole)

    def rounds(self) -> list[int]:
        """The numbers of the finished rounds, in order."""
        return self._finished("rounds", _ROUND)

    def students(self) -> list[int]:
        """The numbers of the finished students, in order."""
        return self._finished("students", _SCORE)

    def _finished(self, folder: str, marker: str) -> list[int]:
        parts = (name.split("/") for name in self._files.names(folder))
        return sorted(int(part[1]) for part in parts if len(part) == 3 and part[2] == marker)

    # -- the journal of generation ---------------------------------------------------------------------------------

    def write_chunk(self, round_: int, stage: str, table: pa.Table) -> str:
        """Add one chunk of outcomes to a stage's journal, without their sketches; returns its name."""
        if (round_, stage) not in self._num_chunks:
            known = [int(name.removesuffix(".parquet").rpartition("-")[2]) for name in self._chunks(round_, stage)]
            self._num_chunks[round_, stage] = max(known, default=-1) + 1
        name = self.in_round(round_, f"chunks/{stage}-{self._num_chunks[round_, stage]:06d}.parquet")
        self.write_table(name, table.select(OUTCOME_SCHEMA.names))
        self._num_chunks[round_, stage] += 1
        return name

    def read_chunks(self, round_: int, stage: str) -> Iterator[pa.Table]:
        """All chunks of a stage, in the order in which they were written."""
        names = self._chunks(round_, stage)
        for name, content in zip(names, self._files.read_all(names), strict=True):
            yield parse_table(content, self.url(name))

    def num_journalled(self, round_: int, stage: str) -> int:
        """Outcomes in a stage's journal."""
        names = self._chunks(round_, stage)
        contents = zip(names, self._files.read_all(names), strict=True)
        return sum(count_rows(content, self.url(name)) for name, content in contents)

    def num_chunks_in_work(self) -> int:
        """Chunks of rounds that are not finished."""
        finished = self.rounds()
        parts = (name.split("/") for name in self._files.names("rounds"))
        return sum(part[2] == "chunks" and int(part[1]) not in finished for part in parts)

    def _chunks(self, round_: int, stage: str) -> list[str]:
        start = self.in_round(round_, f"chunks/{stage}-")
        return [name for name in self._files.names(self.in_round(round_, "chunks")) if name.startswith(start)]

    # -- events ----------------------------------------------------------------------------------------------------

    def append_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events to those of the run; on an object store most of them wait a moment (``FLUSH_S``)."""
        self._files.append_events(events)

    def events(self, position: Position | None = None) -> Iterator[dict[str, Any]]:
        """The events of all attempts, or those after a position; a line that a crash cut short is skipped."""
        for line in self._files.event_lines(position):
            if (value := parse_line(line)) is not None:
                yield checked(value, self.url(_EVENTS), dict[str, Any])


def locked(stores: Sequence[RunStore], notify: Notify) -> AbstractContextManager[None]:
    """Hold several folders for one driver, or none; see ``RunStore.lock``. Waits for all of them at the same time."""
    return held([store._files.lock() for store in stores], notify)


def read_table(place: str, fields: Sequence[str] = ()) -> pa.Table:
    """Read a Parquet file of a run by its path or URL; see ``RunStore.read_table``.

    Raises:
        StoreError: it cannot be read.
    """
    return parse_table(read_file(place), place, fields)


class TableWriter:
    """One Parquet file of the run, written table by table; absent until it is whole."""

    def __init__(self, files: Files, name: str, schema: pa.Schema) -> None:
        self._files = files
        self._name = name
        self._unfinished = files.begin(name)
        with store_errors(files.url(name), "written"):
            self._writer = pq.ParquetWriter(self._unfinished, schema)

    def write(self, table: pa.Table) -> None:
        """Append rows.

        Raises:
            StoreError: the disk does not take them.
        """
        with store_errors(self._files.url(self._name), "written"):
            if table.num_rows:
                self._writer.write_table(table)

    def close(self) -> None:
        """Finish the file and give it its name."""
        with store_errors(self._files.url(self._name), "written"):
            self._writer.close()
        self._files.finish(self._name, self._unfinished)
