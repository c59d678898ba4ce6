"""What a student answers. The rows are dealt out over the workers, and every worker ends with all answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from s3ray.student.encode import Encoded, batches_by_length
from s3ray.student.model import Student
from s3ray.student.ranks import Ranks, gather_rows
from s3ray.types import Example

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

    ``inputs`` are this worker's share of the examples, ``[rank::world_size]``, where they are encoded already.
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

    The probabilities include the window's share for "no answer here", so that windows can be compared.
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
    """The best ``(first token, last token, probability)`` of every window that lies in the context, in order.

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
    """Where the tokens ``first`` to ``last`` of a window stand in its context."""
    offsets = item.offsets or []
    start, end = offsets[first], offsets[last]
    if start is None or end is None:
        raise ValueError(f"tokens {first} to {last} of row {item.row} are not in the context")
    return slice(start[0], end[1])
