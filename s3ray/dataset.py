"""The training set of a round: which texts are kept, and how rows lie in Parquet.

Example tables are the same for gold, synthetic and exported data.

Columns: ``id``, one string column per input field of the task, ``label`` (classification) or ``answers`` (span: a
list of ``{text, start}``), then ``source``, ``round`` and ``parent`` of the row's origin. Where the generator's
verdicts are learned (``curation.verify: soft``) there is ``soft`` too: the probability of each label, in the task's
order, null in rows that have none. Tables with and without it are joined by ``join_tables``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import pyarrow as pa

from s3ray.curation.calibrate import Calibration
from s3ray.curation.duplicates import DuplicateIndex
from s3ray.methods import CurationConfig
from s3ray.tasks import Task
from s3ray.types import (
    Answer,
    Example,
    GenerationRequest,
    Mistake,
    Origin,
    Outcome,
    Rejection,
    RejectionReason,
    Source,
    Span,
)

_ANSWERS = pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())]))
ANSWER_SCHEMA = pa.schema(
    [("id", pa.string()), ("predicted", pa.string()), ("confidence", pa.float64()), ("score", pa.float64())]
)


def example_schema(fields: Sequence[str], has_labels: bool, has_soft: bool = False) -> pa.Schema:
    """The Arrow schema of a task's example table."""
    target = ("label", pa.string()) if has_labels else ("answers", _ANSWERS)
    origin = [("source", pa.string()), ("round", pa.int64()), ("parent", pa.string())]
    soft = [("soft", pa.list_(pa.float64()))] if has_soft else []
    return pa.schema([("id", pa.string()), *((name, pa.string()) for name in fields), target, *origin, *soft])


def table_from_examples(
    examples: Iterable[Example], fields: Sequence[str], has_labels: bool, has_soft: bool | None = None
) -> pa.Table:
    """Lay examples out as a table; order is kept. ``has_soft`` None: with soft labels if any example has some."""
    examples = list(examples)
    has_soft = any(example.soft for example in examples) if has_soft is None else has_soft
    rows = []
    for example in examples:
        row: dict[str, object] = {"id": example.id, **{name: example.fields[name] for name in fields}}
        if has_labels:
            row["label"] = example.label
        else:
            row["answers"] = [{"text": span.text, "start": span.start} for span in example.answers]
        if example.soft:
            row["soft"] = example.soft
        origin = example.origin
        rows.append(row | {"source": origin.source.value, "round": origin.round, "parent": origin.parent})
    return pa.Table.from_pylist(rows, schema=example_schema(fields, has_labels, has_soft))


def join_tables(tables: Iterable[pa.Table]) -> pa.Table:
    """Example tables of one task, one after the other; soft labels where one of them has some."""
    return pa.concat_tables(tables, promote_options="default")


def examples_from_table(table: pa.Table, fields: Sequence[str]) -> list[Example]:
    """Read a table that ``table_from_examples`` wrote."""
    return [
        Example(
            id=row["id"],
            fields={name: row[name] for name in fields},
            label=row.get("label"),
            answers=tuple(Span(text=span["text"], start=span["start"]) for span in row.get("answers") or ()),
            soft=tuple(row.get("soft") or ()),
            origin=Origin(source=Source(row["source"]), round=row["round"], parent=row["parent"]),
        )
        for row in table.to_pylist()
    ]


class ExampleJudge:
    """Keeps texts that are neither copies of gold (any part of it) nor of synthetic rows kept before.

    With ``curation.verify`` the generator must also stand by their labels.
    """

    def __init__(
        self,
        task: Task,
        gold: Iterable[Example],
        kept: Iterable[Example],
        curation: CurationConfig,
        keep: Callable[[Example], None],
        calibration: Calibration | None = None,
    ) -> None:
        """``kept`` are the synthetic rows of earlier rounds; ``keep`` takes every new one.

        ``calibration`` sets the generator's verdicts right.
        """
        self._task = task
        self._curation = curation
        self._keep = keep
        self._calibration = calibration
        self._gold = DuplicateIndex(curation.near_duplicate, curation.rouge_l)
        self._synthetic = DuplicateIndex(curation.near_duplicate, curation.rouge_l)
        for example in gold:
            self._gold.add(example.id, example.fields[task.written])
        for example in kept:
            self._synthetic.add(example.id, example.fields[task.written], scope=self._scope(example.fields))

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """Keep the text as an example, or say which row it copies or what the generator thinks of it."""
        verdict = outcome.verdict
        if verdict and self._calibration is not None:
            verdict = self._calibration.of(verdict)
        if self._curation.verify != "none" and (doubt := self._doubt(request, verdict, outcome.detail)):
            return Rejection(reason=RejectionReason.DOUBTED, detail=doubt)
        copied = self._gold.find(outcome.text)
        if copied is not None:
            return Rejection(reason=RejectionReason.COPY_OF_GOLD, detail=f"of {copied[1]}")
        scope = self._scope(request.context)
        copied = self._synthetic.find(outcome.text, scope=scope)
        if copied is not None:
            return Rejection(reason=copied[0], detail=f"of {copied[1]}")
        example = self._task.example(request, outcome.text)
        self._synthetic.add(example.id, outcome.text, scope=scope)
        is_soft = self._curation.verify == "soft" and self._task.has_labels
        self._keep(replace(example, soft=verdict) if is_soft else example)
        return None

    def _doubt(self, request: GenerationRequest, verdict: Sequence[float], detail: str) -> str:
        """Why the generator does not stand by what it wrote; empty if it does. ``detail``: why there is no verdict."""
        if not verdict:
            return detail or "the generator was not asked for its label"
        certainty = self._task.target.certainty(request, verdict)
        if certainty >= self._curation.verify_least:
            return ""
        if not self._task.has_labels:
            return f"the generator finds the answer right with {certainty:.2f}"
        given = zip(self._task.labels, verdict, strict=True)
        return f"asked for {request.label}, the generator gives {', '.join(f'{name} {p:.2f}' for name, p in given)}"

    def _scope(self, fields: Mapping[str, str]) -> str:
        return "\x1f".join(fields[name] for name in self._task.passage_fields)


class NoteJudge:
    """Collects what a note stage lists, by key, until there is enough of each: K reasons per label, say (Algorithm 1).

    The keys take turns over the stage's sequence (``strategies.base.NoteStage``).
    """

    def __init__(self, task: Task, keys: Sequence[str], num_each: int) -> None:
        self.notes: dict[str, list[str]] = {key: [] for key in keys}
        self._task = task
        self._keys = keys
        self._num_each = num_each

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """Keep the items of an answer that are new."""
        kept = self.notes[self._keys[request.index % len(self._keys)]]
        read = self._task.read_notes(outcome.text)
        if not read:
            return Rejection(reason=RejectionReason.UNPARSABLE, detail="no item in it")
        known = {item.casefold() for item in kept}
        new = [item for item in dict.fromkeys(read) if item.casefold() not in known]
        if not new:
            return Rejection(reason=RejectionReason.DUPLICATE, detail="only what was known")
        kept.extend(new[: self._num_each - len(kept)])
        return None


def table_from_mistakes(mistakes: Sequence[Mistake], fields: Sequence[str], has_labels: bool) -> pa.Table:
    """An example table with two more columns: ``predicted`` and ``confidence``."""
    table = table_from_examples((mistake.example for mistake in mistakes), fields, has_labels)
    table = table.append_column("predicted", pa.array([mistake.predicted for mistake in mistakes], pa.string()))
    return table.append_column("confidence", pa.array([mistake.confidence for mistake in mistakes], pa.float64()))


def mistakes_from_table(table: pa.Table, fields: Sequence[str]) -> list[Mistake]:
    """Read a table that ``table_from_mistakes`` wrote."""
    examples = examples_from_table(table, fields)
    columns = zip(examples, table["predicted"].to_pylist(), table["confidence"].to_pylist(), strict=True)
    return [
        Mistake(example=example, predicted=predicted, confidence=confidence)
        for example, predicted, confidence in columns
    ]


def table_from_answers(answers: Sequence[Answer]) -> pa.Table:
    """Lay answers to a part of gold out as a table (``ANSWER_SCHEMA``); order is kept."""
    return pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)
