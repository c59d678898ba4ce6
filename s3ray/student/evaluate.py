"""A student's answers: to score it, to find its mistakes on gold, and to record how it represents rows (probes).

The workers share the rows, and every worker ends with all answers. Mistakes are mined in blocks. Each block is on disk
before the next one is answered, so that the next round can start from it, and a restart does not repeat it. A probe's
features are the input of the last linear layer: logits = features x weights + bias.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from s3ray.errors import InputError
from s3ray.storage.run_folder import RunStore, read_table
from s3ray.student.encode import NO_ANSWER, Encoded, batches_by_length
from s3ray.student.model import Student
from s3ray.student.ranks import Ranks, agreed, by_first, gather_rows
from s3ray.student.train import Logits, target_probabilities
from s3ray.tables import PROBE_SCHEMA, examples_from_table, mistakes_from_table, table_from_mistakes
from s3ray.tasks import Task
from s3ray.types import Example, Mistake

BATCH_SIZE = 64
MAX_ANSWER_TOKENS = 30
"""The usual limit in SQuAD evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A label name or an answer text, and the probability in [0, 1] that the student gives it."""

    text: str
    confidence: float


def predict(
    student: Student, examples: Sequence[Example], ranks: Ranks, inputs: Sequence[Encoded] | None = None
) -> list[Prediction]:
    """Answer examples, in their order. All workers must call this together.

    ``inputs`` are this worker's examples, ``[rank::world_size]``, if they are encoded already.
    """
    mine = examples[ranks.rank :: ranks.world_size]
    inputs = student.encode(mine) if inputs is None else inputs
    student.model.train(mode=False)
    with torch.inference_mode():
        answered = _labels(student, mine, inputs) if student.task.has_labels else _spans(student, mine, inputs)
    return gather_rows(ranks, answered, len(examples))


def _labels(student: Student, examples: Sequence[Example], inputs: Sequence[Encoded]) -> list[Prediction]:
    found: dict[int, Prediction] = {}
    for batch in batches_by_length(inputs, BATCH_SIZE):
        (logits,) = student.logits(batch)
        confidences, numbers = logits.softmax(dim=-1).max(dim=-1)
        for item, number, confidence in zip(batch, numbers.tolist(), confidences.tolist(), strict=True):
            found[item.row] = Prediction(text=student.task.labels[number], confidence=confidence)
    return [found[row] for row in range(len(examples))]


def _spans(student: Student, examples: Sequence[Example], inputs: Sequence[Encoded]) -> list[Prediction]:
    """The likeliest span of every context over all its windows, by the product of first and last token's probability.

    In each window the "no answer" position takes part in the softmax, so that windows can be compared.
    """
    found = [Prediction(text="", confidence=0.0) for _ in examples]
    context = student.task.fields[1]
    for batch in batches_by_length(inputs, BATCH_SIZE):
        starts, ends = (logits.softmax(dim=-1) for logits in student.logits(batch))
        for item, (first, last, confidence) in zip(batch, best_spans(batch, starts, ends), strict=True):
            if confidence > found[item.row].confidence:
                text = examples[item.row].fields[context][characters(item, first, last)]
                found[item.row] = Prediction(text=text, confidence=confidence)
    return found


def best_spans(batch: Sequence[Encoded], starts: torch.Tensor, ends: torch.Tensor) -> Iterable[tuple[int, int, float]]:
    """For every window the best ``(first token, last token, probability)`` within the context, in order.

    ``starts`` and ``ends`` are probabilities of shape ``(len(batch), longest)``.
    """
    longest = starts.shape[1]
    inside = torch.zeros_like(starts)
    for row, item in enumerate(batch):
        context = [place for place, span in enumerate(item.offsets or ()) if span is not None]
        inside[row, context] = 1.0
    allowed = torch.ones(longest, longest, device=starts.device).triu().tril(MAX_ANSWER_TOKENS - 1)
    joint = (starts * inside)[:, :, None] * (ends * inside)[:, None, :] * allowed
    confidences, places = joint.flatten(1).max(dim=1)
    for place, confidence in zip(places.tolist(), confidences.tolist(), strict=True):
        yield place // longest, place % longest, confidence


def characters(item: Encoded, first: int, last: int) -> slice:
    """The characters of the context that the tokens ``first`` to ``last`` of a window cover."""
    offsets = item.offsets or []
    start, end = offsets[first], offsets[last]
    if start is None or end is None:
        raise ValueError(f"tokens {first} to {last} of row {item.row} are not in the context")
    return slice(start[0], end[1])


MISTAKE_BLOCK_ROWS = 1024


def mine(student: Student, examples: Sequence[Example], output: str, block_rows: int, ranks: Ranks) -> list[str]:
    """Find the mistakes on all examples; returns the answer to each. All workers call this together.

    Writes ``mistakes/*.parquet`` in the student's folder, one file for each ``block_rows`` examples, even without any
    mistake. The answers of a block that is already on disk are those of its mistakes, and gold's for all other rows.

    Raises:
        StoreError: a block can be neither read nor written.
    """
    task, store = student.task, RunStore(output)
    known = by_first(ranks, lambda: {name: _read_mistakes(store, name, task) for name in store.files("mistakes")})
    texts: list[str] = []
    for first in range(0, len(examples), block_rows):
        block = examples[first : first + block_rows]
        name = f"mistakes/{first // block_rows:06d}.parquet"
        if name in known:
            texts += _answered(task, block, known[name])
        else:
            answers = predict(student, block, ranks)
            texts += [answer.text for answer in answers]
            found = find_mistakes(task, block, answers)
            by_first(ranks, partial(_write, store, name, task, found))
    return texts


def find_mistakes(task: Task, examples: Sequence[Example], answers: Sequence[Prediction]) -> tuple[Mistake, ...]:
    """The examples that the student answers wrongly, in their order (paper, Algorithm 2)."""
    return tuple(
        Mistake(example=example, predicted=answer.text, confidence=answer.confidence)
        for example, answer in zip(examples, answers, strict=True)
        if not task.is_correct(example, answer.text)
    )


def _read_mistakes(store: RunStore, name: str, task: Task) -> list[Mistake]:
    return mistakes_from_table(store.read_table(name, task.fields), task.fields)


def _write(store: RunStore, name: str, task: Task, mistakes: Sequence[Mistake]) -> None:
    store.write_table(name, table_from_mistakes(mistakes, task.fields, task.has_labels))


def _answered(task: Task, block: Sequence[Example], mistakes: Sequence[Mistake]) -> list[str]:
    """The answers of a student whose only mistakes are these; rows with the same id have the same text and answer."""
    wrong = {mistake.example.id: mistake.predicted for mistake in mistakes}
    return [wrong.get(row.id, row.label or "" if task.has_labels else row.answers[0].text) for row in block]


PROBE_BLOCK_ROWS = 4096
"""Rows whose features the workers exchange at once."""


Features = npt.NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class _ProbeRow:
    """What the student predicts for one example; ``confidence`` is the probability of its answer."""

    predicted: str = ""
    confidence: float = 0.0
    target_probability: float = -1.0
    probabilities: Sequence[float] = ()
    features: Features | None = None


def probe(student: Student, name: str, path: str, output: str, ranks: Ranks) -> None:
    """Write ``probes/NAME.parquet`` (``PROBE_SCHEMA``) to the student's folder, for the example table at ``path``.

    All workers call this together and share the rows. Nothing is done if the file exists.

    Raises:
        InputError: the model has no linear layer as its head.
        StoreError: a table cannot be read or written.
    """
    store, file = RunStore(output), f"probes/{name}.parquet"
    if by_first(ranks, lambda: store.has(file)):
        return
    examples = agreed(ranks, lambda: examples_from_table(read_table(path, student.task.fields), student.task.fields))
    tables = [PROBE_SCHEMA.empty_table()]
    for first in range(0, len(examples), PROBE_BLOCK_ROWS):
        block = examples[first : first + PROBE_BLOCK_ROWS]
        seen = gather_rows(ranks, _probe_rows(student, block[ranks.rank :: ranks.world_size]), len(block))
        if ranks.rank == 0:
            tables.append(_table(block, seen))
    by_first(ranks, partial(store.write_table, file, pa.concat_tables(tables)))


def head_of(student: Student) -> torch.nn.Linear:
    """The layer that computes the logits: the last linear one with an output for each label, or for start and end.

    Raises:
        InputError: there is no such layer.
    """
    num = student.model.config.num_labels
    for layer in reversed(list(student.model.modules())):
        if isinstance(layer, torch.nn.Linear) and layer.out_features == num:
            return layer
    kind = student.model.config.model_type
    hint = "Encoders such as BERT, DistilBERT, RoBERTa and MiniLM have one. Or choose a strategy that needs none."
    raise InputError("has no linear layer as its head", field="student.model", value=kind, hint=hint)


@contextmanager
def _head_inputs(student: Student) -> Iterator[list[torch.Tensor]]:
    """Collect the inputs of the head in each forward pass of the ``with`` block, the newest last."""
    read: list[torch.Tensor] = []
    handle = head_of(student).register_forward_pre_hook(lambda layer, given: read.append(given[0]))
    try:
        yield read
    finally:
        handle.remove()


def _probe_rows(student: Student, examples: Sequence[Example]) -> list[_ProbeRow]:
    rows = [_ProbeRow() for _ in examples]
    note = _note_labels if student.task.has_labels else partial(_note_spans, examples)
    student.model.train(mode=False)
    with torch.inference_mode(), _head_inputs(student) as read:
        for batch in batches_by_length(student.encode(examples), BATCH_SIZE):
            logits = student.logits(batch)
            features = _at_one_place(student, read.pop(), batch)
            note(student, batch, logits, features, rows)
    return rows


def _at_one_place(student: Student, read: torch.Tensor, batch: Sequence[Encoded]) -> Features:
    """Features of shape ``(batch, width)``; if the head reads every token, those of the token that decides."""
    if read.ndim == 3:
        places = [len(item.input_ids) - 1 if student.task.has_labels else NO_ANSWER[0] for item in batch]
        read = read[torch.arange(len(batch)), places]
    return read.float().cpu().numpy()


def _note_labels(
    student: Student, batch: Sequence[Encoded], logits: Logits, features: Features, rows: Sequence[_ProbeRow]
) -> None:
    probabilities = logits[0].softmax(dim=-1).tolist()
    for item, of_labels, row in zip(batch, probabilities, features, strict=True):
        found = rows[item.row]
        found.predicted = student.task.labels[int(np.argmax(of_labels))]
        found.target_probability = of_labels[item.target[0]]
        found.probabilities, found.features = of_labels, row


def _note_spans(
    examples: Sequence[Example],
    student: Student,
    batch: Sequence[Encoded],
    logits: Logits,
    features: Features,
    rows: Sequence[_ProbeRow],
) -> None:
    """Use for each row the window in which its first reference answer is likeliest.

    If no window holds the whole answer, the target probability is 0 and the features are those of the shortest window.
    """
    context = student.task.fields[1]
    spans = best_spans(batch, *(scores.softmax(dim=-1) for scores in logits))
    targets = target_probabilities(logits, batch).tolist()
    for item, (first, last, confidence), target, row in zip(batch, spans, targets, features, strict=True):
        found = rows[item.row]
        if confidence > found.confidence:
            found.predicted = examples[item.row].fields[context][characters(item, first, last)]
            found.confidence = confidence
        target = 0.0 if item.target == NO_ANSWER else target
        if target > found.target_probability:
            found.target_probability, found.features = target, row


def _table(examples: Sequence[Example], seen: Sequence[_ProbeRow]) -> pa.Table:
    columns = {
        "id": [example.id for example in examples],
        "predicted": [found.predicted for found in seen],
        "target_probability": [found.target_probability for found in seen],
        "probabilities": [found.probabilities for found in seen],
        "features": [found.features for found in seen],
    }
    return pa.table(columns, schema=PROBE_SCHEMA)
