"""How a trained student sees a table: what it answers, how likely it finds the truth, what its head reads.

The features are what the last linear layer multiplies, so logits = features x weights + bias: in a classifier those of
the whole text (BERT: the pooled classification token, DistilBERT: after its first layer on top, decoders: the last
token), in a span model those of the classification token, whose place stands for "no answer here".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from s3ray.dataset import examples_from_table
from s3ray.errors import InputError
from s3ray.probes import PROBE_SCHEMA
from s3ray.store import RunStore, read_table
from s3ray.student.encode import NO_ANSWER, Encoded, batches_by_length
from s3ray.student.losses import target_probabilities
from s3ray.student.model import Student
from s3ray.student.predict import BATCH_SIZE, best_spans, characters
from s3ray.student.ranks import Ranks, agreed, by_first, gather_rows
from s3ray.types import Example

BLOCK_ROWS = 4096
"""Rows whose features the workers exchange at once."""


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the student makes of one row; ``confidence`` is that of its answer."""

    predicted: str = ""
    confidence: float = 0.0
    target_probability: float = -1.0
    probabilities: Sequence[float] = ()
    features: npt.NDArray[np.float32] | None = None


def probe(student: Student, name: str, path: str, output: str, ranks: Ranks) -> None:
    """Write ``probes/NAME.parquet`` (``PROBE_SCHEMA``) to the student's folder, about the example table ``path``.

    All workers call this together and share the rows. A table that is there is left as it is.

    Raises:
        InputError: the model has no linear layer as its head.
        StoreError: a table cannot be read or written.
    """
    store, file = RunStore(output), f"probes/{name}.parquet"
    if by_first(ranks, lambda: store.has(file)):
        return
    examples = agreed(ranks, lambda: examples_from_table(read_table(path), student.task.fields))
    tables = [PROBE_SCHEMA.empty_table()]
    for first in range(0, len(examples), BLOCK_ROWS):
        block = examples[first : first + BLOCK_ROWS]
        seen = gather_rows(ranks, _look(student, block[ranks.rank :: ranks.world_size]), len(block))
        if ranks.rank == 0:
            tables.append(_table(block, seen))
    by_first(ranks, partial(store.write_table, file, pa.concat_tables(tables)))


def head_of(student: Student) -> torch.nn.Linear:
    """The layer that gives the scores: the last linear one with an output for each label, or for first and last token.

    Raises:
        InputError: there is none.
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
    """What the head reads in each forward pass of the block, the newest last."""
    read: list[torch.Tensor] = []
    handle = head_of(student).register_forward_pre_hook(lambda layer, given: read.append(given[0]))
    try:
        yield read
    finally:
        handle.remove()


def _look(student: Student, examples: Sequence[Example]) -> list[_Seen]:
    seen = [_Seen() for _ in examples]
    note = _note_labels if student.task.has_labels else _note_spans
    student.model.train(mode=False)
    with torch.inference_mode(), _head_inputs(student) as read:
        for batch in batches_by_length(student.encode(examples), BATCH_SIZE):
            logits = student.logits(batch)
            features = _at_one_place(student, read.pop(), batch)
            note(student, examples, batch, logits, features, seen)
    return seen


def _at_one_place(student: Student, read: torch.Tensor, batch: Sequence[Encoded]) -> npt.NDArray[np.float32]:
    """Features of shape ``(batch, width)``; of a head that reads every token, those of the one that decides."""
    if read.ndim == 3:
        places = [len(item.input_ids) - 1 if student.task.has_labels else NO_ANSWER[0] for item in batch]
        read = read[torch.arange(len(batch)), places]
    return read.float().cpu().numpy()


def _note_labels(
    student: Student,
    examples: Sequence[Example],
    batch: Sequence[Encoded],
    logits: tuple[torch.Tensor, ...],
    features: npt.NDArray[np.float32],
    seen: Sequence[_Seen],
) -> None:
    probabilities = logits[0].softmax(dim=-1).tolist()
    for item, of_labels, row in zip(batch, probabilities, features, strict=True):
        found = seen[item.row]
        found.predicted = student.task.labels[int(np.argmax(of_labels))]
        found.target_probability = of_labels[item.target[0]]
        found.probabilities, found.features = of_labels, row


def _note_spans(
    student: Student,
    examples: Sequence[Example],
    batch: Sequence[Encoded],
    logits: tuple[torch.Tensor, ...],
    features: npt.NDArray[np.float32],
    seen: Sequence[_Seen],
) -> None:
    """Of a row's windows the one counts in which its first reference answer is likeliest; 0 where none holds all of it.

    Then the features are those of its shortest window.
    """
    context = student.task.fields[1]
    spans = best_spans(batch, *(scores.softmax(dim=-1) for scores in logits))
    targets = target_probabilities(logits, batch).tolist()
    for item, (first, last, confidence), target, row in zip(batch, spans, targets, features, strict=True):
        found = seen[item.row]
        if confidence > found.confidence:
            found.predicted = examples[item.row].fields[context][characters(item, first, last)]
            found.confidence = confidence
        target = 0.0 if item.target == NO_ANSWER else target
        if target > found.target_probability:
            found.target_probability, found.features = target, row


def _table(examples: Sequence[Example], seen: Sequence[_Seen]) -> pa.Table:
    columns = {
        "id": [example.id for example in examples],
        "predicted": [found.predicted for found in seen],
        "target_probability": [found.target_probability for found in seen],
        "probabilities": [found.probabilities for found in seen],
        "features": [found.features for found in seen],
    }
    return pa.table(columns, schema=PROBE_SCHEMA)
