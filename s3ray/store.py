"""The run folder: the only file that knows a path.

    config.yaml  fingerprint.json  events.jsonl  metrics.json  report.html
    gold/        extrapolate.parquet  select.parquet  test.parquet
    rounds/N/    chunks/*.parquet  reasons.json  requests.parquet  accepted.parquet  rejected.parquet  round.json
    students/N/  model and tokenizer (safetensors), mistakes.parquet, score.json
    dataset/     the final synthetic set

Invariant: a file is either absent or whole (written beside its name, synced, renamed), and ``round.json`` and
``score.json`` are written last, so that their presence means that the step is finished.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s3ray.config import data_changes, fingerprint
from s3ray.errors import InputError, StoreError

_FINGERPRINT = "fingerprint.json"


class RunStore:
    """One run's folder, read and written whole files at a time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self._num_chunks: dict[tuple[int, str], int] = {}

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def existing(cls, folder: str | Path) -> "RunStore":
        """Open the folder of a run that was started before, for reading.

        Raises:
            InputError: there is no such folder, or it is not a run's.
        """
        store = cls(folder)
        if not (store.folder / _FINGERPRINT).is_file():
            raise InputError(
                "is not the folder of a run", where=str(folder), hint="Give the folder that `s3ray run` printed."
            )
        return store

    def check(self, settings: Mapping[str, Any]) -> bool:
        """Whether the folder already belongs to a run with these data-shaping settings; changes nothing.

        Raises:
            InputError: the folder is foreign, unwritable, or belongs to a run with other settings.
        """
        where = str(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("is a file, not a folder", where=where, hint="Choose another `store`, `name` or --out.")
        parent = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(
                "cannot be written", where=where, field="store", hint=f"{parent} is not writable; choose another."
            )
        # A start that was killed at once may have left its lock and an unfinished file, both hidden.
        if not self.folder.exists() or all(path.name.startswith(".") for path in self.folder.iterdir()):
            return False
        try:
            known = json.loads((self.folder / _FINGERPRINT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = "Nothing in it was touched. Choose another `name`, `store` or --out."
            raise InputError("holds files that are not an s3ray run", where=where, hint=hint) from None
        if known["fingerprint"] != fingerprint(settings):
            changes = "; ".join(data_changes(known["settings"], settings)) or "the fingerprint"
            raise InputError(
                f"belongs to a run with other settings: {changes}",
                where=where,
                hint="Give the run another `name` (or --out), or put the setting back. Nothing in it was touched.",
            )
        return True

    def create(self, settings: Mapping[str, Any], config_yaml: str) -> None:
        """Say in the folder whose it is; of a known run only execution settings in ``config.yaml`` may change."""
        self.write_json(_FINGERPRINT, {"fingerprint": fingerprint(settings), "settings": settings})
        self.write_text("config.yaml", config_yaml)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver; the lock goes with the process, however it ends.

        Raises:
            InputError: another process is running this run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / ".lock").open("w")
        except OSError as error:
            raise InputError("cannot be written", where=str(self.folder), value=error.strerror or "") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                hint = "Wait for it or stop it. `s3ray status` shows what it is doing."
                raise InputError("another process is running this run", where=str(self.folder), hint=hint) from None
            yield

    # -- files -----------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where a file or folder of the run lies."""
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether a file of the run is there (and, by the invariant, whole)."""
        return self.path(name).exists()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        self._write(name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run."""
        return json.loads(self._read(name))

    def write_text(self, name: str, content: str) -> Path:
        """Write a text file atomically and say where it lies."""
        self._write(name, content.encode())
        return self.path(name)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file atomically."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self._write(name, sink.getvalue())

    def read_table(self, name: str) -> pa.Table:
        """Read a Parquet file of the run."""
        return pq.read_table(pa.BufferReader(self._read(name)))

    def table_writer(self, name: str, schema: pa.Schema) -> "TableWriter":
        """Begin a Parquet file that is written in parts and appears under its name when it is closed."""
        return TableWriter(self.path(name), schema)

    def files(self, folder: str) -> list[str]:
        """Names of the whole files in a folder of the run and below it."""
        found = (path for path in self.path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def copy_from(self, other: "RunStore", name: str) -> None:
        """Take over a file of another run under its name."""
        self._write(name, other._read(name))

    def _read(self, name: str) -> bytes:
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise StoreError(f"{self.path(name)} cannot be read: {error.strerror}") from error

    def _write(self, name: str, content: "bytes | pa.Buffer") -> None:
        target = self.path(name)
        temporary = _beside(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(target)
            sync(target.parent)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}") from error

    # -- what lies where -------------------------------------------------------------------------------------------

    def gold(self, part: str) -> str:
        """Name of a gold part's table (``extrapolate``, ``select`` or ``test``)."""
        return f"gold/{part}.parquet"

    def in_round(self, num: int, name: str) -> str:
        """Name of a file of a round."""
        return f"rounds/{num}/{name}"

    def in_student(self, num: int, name: str) -> str:
        """Name of a file of a student."""
        return f"students/{num}/{name}"

    def rounds(self) -> list[int]:
        """The numbers of the finished rounds, in order."""
        return self._finished("rounds", "round.json")

    def students(self) -> list[int]:
        """The numbers of the finished students, in order."""
        return self._finished("students", "score.json")

    def _finished(self, folder: str, marker: str) -> list[int]:
        return sorted(int(path.parent.name) for path in self.folder.glob(f"{folder}/*/{marker}"))

    # -- the journal of generation ---------------------------------------------------------------------------------

    def write_chunk(self, round_: int, stage: str, table: pa.Table) -> str:
        """Add one chunk of outcomes to a stage's journal; returns its name."""
        if (round_, stage) not in self._num_chunks:
            known = [int(path.stem.rsplit("-", 1)[1]) for path in self._chunks(round_, stage)]
            self._num_chunks[round_, stage] = max(known, default=-1) + 1
        name = self.in_round(round_, f"chunks/{stage}-{self._num_chunks[round_, stage]:06d}.parquet")
        self.write_table(name, table)
        self._num_chunks[round_, stage] += 1
        return name

    def read_chunks(self, round_: int, stage: str) -> Iterator[pa.Table]:
        """All chunks of a stage, in the order in which they were written."""
        for path in self._chunks(round_, stage):
            yield self.read_table(str(path.relative_to(self.folder)))

    def num_journalled(self, round_: int, stage: str) -> int:
        """Outcomes in a stage's journal."""
        return sum(pq.read_metadata(path).num_rows for path in self._chunks(round_, stage))

    def _chunks(self, round_: int, stage: str) -> list[Path]:
        return sorted(self.path(self.in_round(round_, "chunks")).glob(f"{stage}-*.parquet"))

    # -- events ----------------------------------------------------------------------------------------------------

    def append_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events to ``events.jsonl``; a line that a crash cut short is closed first."""
        path = self.path("events.jsonl")
        text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
        try:
            with path.open("ab") as handle:
                if handle.tell() and not _ends_line(path):
                    handle.write(b"\n")
                handle.write(text.encode())
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of all attempts, oldest first; a line that a crash cut short is passed over."""
        path = self.path("events.jsonl")
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as handle:
            for line in handle:
                with contextlib.suppress(json.JSONDecodeError):
                    yield json.loads(line)


class TableWriter:
    """One Parquet file of the run, written table by table; absent until it is whole."""

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self._target = target
        self._temporary = _beside(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, schema)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, table: pa.Table) -> None:
        """Append rows.

        Raises:
            StoreError: the disk does not take them.
        """
        if table.num_rows:
            try:
                self._writer.write_table(table)
            except OSError as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            self._writer.close()
            sync(self._temporary)
            self._temporary.replace(self._target)
            sync(self._target.parent)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"{self._target} cannot be written: {error.strerror or error}")


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.writing")


def _ends_line(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
