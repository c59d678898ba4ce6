"""What the files of a run must hold: the one door through which they are read, and where damage gets its name.

Disks fill up, copies end half-way, editors and other programs write where they should not. Whoever reads a file of a
run gets what s3ray writes there, or a ``StoreError`` that names the file and says what is wrong with it.
"""

import contextlib
import functools
import json
import re
from collections.abc import Hashable, Iterator, Sequence, Set
from typing import (
    Any,
    NotRequired,  # that of `typing` is unknown to pydantic before Python 3.12
    TypeVar,
    cast,
)

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic
from typing_extensions import TypedDict

from s3ray.errors import StoreError
from s3ray.tables import (
    ANSWER_SCHEMA,
    ANSWERS_TYPE,
    MISTAKE_SCHEMA,
    ORIGIN_SCHEMA,
    OUTCOME_SCHEMA,
    PROBE_SCHEMA,
    REJECTED_SCHEMA,
    text_fields,
)
from s3ray.text import valid_text
from s3ray.types import OutcomeStatus, Source

_Kind = TypeVar("_Kind")
_HINT = "Put the file back as it was, from a copy of the run, or begin anew beside it: `s3ray run JOB.yaml --fresh`."
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""The spelling of half a character in JSON; two of them make a whole one."""


def damaged(place: str, why: str) -> StoreError:
    """The error for a file that does not hold what s3ray writes there."""
    return StoreError(f"{place} is damaged: {why}", _HINT)


# -- JSON ------------------------------------------------------------------------------------------------------------


class Record(TypedDict):
    """What is read of a JSON file, or of a part of one; what more stands there, as a later version adds it, is kept."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]


class ModelRecord(Record):
    """What is read of a model among the settings of a run."""

    model: str


class ModelsRecord(Record):
    """What is read of the settings of a run one by one; the rest is only compared."""

    generator: ModelRecord
    student: ModelRecord


class LineageRecord(Record):
    """Which lineage a folder is."""

    of: str
    number: int
    parent: str | None


class RequestsRecord(Record):
    """The fingerprints that request ids are made with."""

    seed: str
    later: str


class RoundRecord(Record):
    """What is read of ``round.json`` beside what ``monitor.metrics`` reads: the size of the training set."""

    rows: int


class CountsRecord(RoundRecord):
    """What is compared of two ``round.json``."""

    requested: int
    accepted: int
    stages: dict[str, "StageRecord"]


class StageRecord(Record):
    """What is read of a stage in ``round.json``: what it lacks, by label."""

    short: dict[str, int]


class SecondsRecord(Record):
    """How long a training took; in a campaign also the seconds of all its workers."""

    start: float
    train: float
    score: float
    all_workers_train: NotRequired[float]


class ScoreRecord(Record):
    """What every ``score.json`` holds; ``monitor.metrics`` reads the rest."""

    seconds: SecondsRecord


Notes = dict[str, list[str]]
"""What a stage of notes wrote down, by label or text."""


class IdentityRecord(Record):
    """``fingerprint.json``."""

    fingerprint: str
    requests: RequestsRecord
    settings: dict[str, Any]
    lineage: NotRequired[LineageRecord | None]
    task: NotRequired[dict[str, Any] | None]
    revisions: NotRequired[dict[str, str]]


class _Gold(Record):
    seed: int


class _Strategy(Record):
    name: str


class _Generator(Record):
    engine: str
    model: str
    engines: int
    tensor_parallel: int
    pipeline_parallel: int
    gpu_share: float
    sampling: dict[str, Any]


class _Student(Record):
    model: str
    workers: int


class _Curation(Record):
    verify: str


class JobRecord(Record):
    """What reports read of ``config.yaml``, in the words of every version since the first."""

    name: str
    task: str
    data: NotRequired[str | None]
    seed: int
    gold: _Gold
    strategy: _Strategy
    generator: _Generator
    curation: _Curation
    student: _Student


def parse_json(content: bytes, place: str) -> Any:
    """The value of a JSON file.

    Raises:
        StoreError: it is no JSON.
    """
    try:
        plain = json.loads(content)
        if _HALF.search(content):
            json.dumps(plain, ensure_ascii=False).encode()
    except RecursionError:
        raise damaged(place, "its brackets are nested too deeply") from None
    except ValueError as error:  # no UTF-8, no JSON, numbers with thousands of digits, half a character
        raise damaged(place, f"it is not JSON: {error}") from error
    return plain


def checked(plain: object, place: str, kind: type[_Kind]) -> _Kind:
    """A plain value as ``kind``: dicts, lists and ``TypedDict``.

    Raises:
        StoreError: it has another one.
    """
    try:
        value: _Kind = _adapter(cast(Hashable, kind)).validate_python(plain)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise damaged(place, f"{field}: {first['msg']}" if field else first["msg"]) from error
    return value


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def parse_line(line: str) -> Any | None:
    """The value of one line of JSON, with whole characters only; None if a crash cut the line short."""
    try:
        value = json.loads(line)
        return json.loads(valid_text(json.dumps(value, ensure_ascii=False))) if _HALF.search(line.encode()) else value
    except (ValueError, RecursionError):
        return None


# -- Parquet ---------------------------------------------------------------------------------------------------------

_ANSWERS = pa.schema([ANSWER_SCHEMA.field(name) for name in ("id", "predicted", "score")])
_REQUESTS = pa.schema([("request_id", pa.string()), ("stage", pa.string())])
"""Of answers and requests, the columns that are read."""
_NONE: frozenset[str] = frozenset()
_PARENT = frozenset(("parent",))
_BY_NAME: tuple[tuple[re.Pattern[str], pa.Schema, frozenset[str]], ...] = (
    (re.compile(r"/chunks/[^/]*$"), OUTCOME_SCHEMA, _NONE),
    (re.compile(r"/requests\.parquet$"), _REQUESTS, _NONE),
    (re.compile(r"/rejected\.parquet$"), REJECTED_SCHEMA, _PARENT | {"label", "text", "raw", "detail"}),
    (re.compile(r"/probes/[^/]*$"), PROBE_SCHEMA, _NONE),
    (re.compile(r"students/\d+/test\.parquet$"), _ANSWERS, _NONE),
    (re.compile(r"/mistakes(/\d+)?\.parquet$"), MISTAKE_SCHEMA, _PARENT),
    (re.compile(""), ORIGIN_SCHEMA, _PARENT),
)
"""By a table's name in the run folder: its columns, and those without a value in some rows. Last: all other tables,
which hold examples."""
_WORDS = {"status": pa.array(list(OutcomeStatus)), "source": pa.array(list(Source))}


def parse_table(content: "bytes | pa.Buffer", place: str, fields: Sequence[str] = ()) -> pa.Table:
    """Read a table of a run. What it must hold follows from its name; ``fields`` are the task's, if it has examples.

    Raises:
        StoreError: it is not Parquet, or lacks columns or values.
    """
    with _parquet(place):
        table = pq.read_table(pa.BufferReader(content))
        table.validate(full=True)
    schema, may_lack = next((schema, may_lack) for name, schema, may_lack in _BY_NAME if name.search(place))
    _check(table, schema, place, may_lack)
    _check_words(table, schema, place)
    if "source" in schema.names:
        _check(table, _example_columns(table, fields), place)
    return table


def count_rows(content: bytes, place: str) -> int:
    """The number of rows of a table, without reading them.

    Raises:
        StoreError: it is not Parquet.
    """
    with _parquet(place):
        return int(pq.read_metadata(pa.BufferReader(content)).num_rows)


@contextlib.contextmanager
def _parquet(place: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:  # Arrow raises all of them for one file
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise damaged(place, f"it cannot be read as Parquet: {words}") from error


def _example_columns(table: pa.Table, fields: Sequence[str]) -> pa.Schema:
    """The columns of examples that their task decides on."""
    target = ("answers", ANSWERS_TYPE) if "answers" in table.column_names else ("label", pa.string())
    return pa.schema([target, *((name, pa.string()) for name in fields or text_fields(table) or ["text"])])


def _check(table: pa.Table, schema: pa.Schema, place: str, may_lack: Set[str] = _NONE) -> None:
    for field in schema:
        if field.name not in table.column_names:
            raise damaged(place, f"it has no column {field.name}")
        column = table[field.name]
        is_empty = pa.types.is_null(column.type) and field.name in may_lack
        if column.type != field.type and table.num_rows and not is_empty:
            raise damaged(place, f"its column {field.name} holds {column.type}, not {field.type}")
        if column.null_count and field.name not in may_lack:
            raise damaged(place, f"its column {field.name} lacks {column.null_count} values")


def _check_words(table: pa.Table, schema: pa.Schema, place: str) -> None:
    """Check the columns of our own that hold words of s3ray; a field of a task may be called ``status`` too."""
    for name in _WORDS.keys() & set(schema.names) if table.num_rows else ():
        odd = table[name].filter(pc.invert(pc.is_in(table[name], _WORDS[name])))
        if len(odd):
            raise damaged(place, f"its column {name} holds {str(odd[0])[:40]!r}")
