"""From rows to token ids, and from rows to batches.

Classification: one input per row, the task's fields as one text or a pair, cut longest first. Span: one input per
window of the context. Batches group rows of similar length, so that little is padded; which row falls into which batch
depends on seed and epoch alone, never on the number of workers.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from s3ray.config.job import MIN_SPAN_LENGTH
from s3ray.errors import InputError
from s3ray.student.tokenizer import text_only
from s3ray.tasks import Task
from s3ray.types import Example, Span

NO_ANSWER = (0, 0)
"""Target of a window that does not hold the answer: the position of the classification token."""
BATCHES_PER_POOL = 50
"""Number of batches of random rows that are sorted by length together: enough to pad little and still mix well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One input of the student.

    ``row`` is the position of its example. ``target`` is ``(label,)``, or the positions ``(first, last)`` of the
    answer's tokens, or empty if the answer is unknown. ``offsets`` (span only) gives each context token's
    characters in the context as ``(start, end)``, and None for all other tokens. ``soft`` is the probability of each
    label if the target is not certain. ``checker_probability`` is what a checker gives to the target;
    None means that the input has weight 1 (``train.weights``).
    """

    row: int
    input_ids: list[int]
    token_type_ids: list[int] | None
    target: tuple[int, ...]
    offsets: list[tuple[int, int] | None] | None = None
    soft: tuple[float, ...] = ()
    checker_probability: float | None = None


def encode(
    tokenizer: PreTrainedTokenizerBase, task: Task, examples: Sequence[Example], max_length: int
) -> list[Encoded]:
    """Encode examples for the task's kind of student; every input has at most ``max_length`` tokens."""
    if not examples:
        return []
    if task.has_labels:
        return _encode_texts(tokenizer, task, examples, max_length)
    return _encode_windows(tokenizer, task, examples, max_length)


def _encode_texts(
    tokenizer: PreTrainedTokenizerBase, task: Task, examples: Sequence[Example], max_length: int
) -> list[Encoded]:
    texts = [[example.fields[name] for name in task.fields] for example in examples]
    if not tokenizer.split_special_tokens:  # the separator below is one
        texts = [[text_only(tokenizer, text) for text in row] for row in texts]
    # Models read at most a pair; further texts follow the second one behind a separator.
    separator = f" {tokenizer.sep_token} " if tokenizer.sep_token else "\n"
    rests = [separator.join(rest) for _, *rest in texts] if len(task.fields) > 1 else None
    encoding = tokenizer([first for first, *_ in texts], rests, truncation="longest_first", max_length=max_length)
    numbers = {label: number for number, label in enumerate(task.labels)}
    return [
        Encoded(
            row=row,
            input_ids=encoding["input_ids"][row],
            token_type_ids=encoding["token_type_ids"][row] if "token_type_ids" in encoding else None,
            target=() if example.label is None else (numbers[example.label],),
            soft=example.soft,
        )
        for row, example in enumerate(examples)
    ]


def _encode_windows(
    tokenizer: PreTrainedTokenizerBase, task: Task, examples: Sequence[Example], max_length: int
) -> list[Encoded]:
    if max_length < MIN_SPAN_LENGTH:
        raise InputError(
            f"is too short for question and context, at least {MIN_SPAN_LENGTH} are needed",
            field="student.max_length",
            value=str(max_length),
            hint="384 is usual for extractive question answering.",
        )
    question, context = task.fields
    encoding = tokenizer(
        [_cut(tokenizer, example.fields[question], max_length // 2) for example in examples],
        [example.fields[context] for example in examples],
        truncation="only_second",
        max_length=max_length,
        stride=max_length // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for place, row in enumerate(encoding["overflow_to_sample_mapping"]):
        parts = encoding.sequence_ids(place)
        spans = encoding["offset_mapping"][place]
        offsets = [span if part == 1 else None for part, span in zip(parts, spans, strict=True)]
        answers = examples[row].answers
        windows.append(
            Encoded(
                row=row,
                input_ids=encoding["input_ids"][place],
                token_type_ids=encoding["token_type_ids"][place] if "token_type_ids" in encoding else None,
                target=answer_positions(offsets, answers[0]) if answers else NO_ANSWER,
                offsets=offsets,
            )
        )
    return windows


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, num_tokens: int) -> str:
    """The first ``num_tokens`` tokens of a text, so that a long question leaves room for the context."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    return text if len(offsets) <= num_tokens else text[: offsets[num_tokens - 1][1]]


def answer_positions(offsets: Sequence[tuple[int, int] | None], answer: Span) -> tuple[int, int]:
    """The first and last token of an answer in a window, or ``NO_ANSWER`` where the window does not hold all of it."""
    end = answer.start + len(answer.text)
    touching = [
        place for place, span in enumerate(offsets) if span is not None and span[0] < end and span[1] > answer.start
    ]
    if not touching:
        return NO_ANSWER
    first, last = offsets[touching[0]], offsets[touching[-1]]
    if first is None or last is None or first[0] > answer.start or last[1] < end:
        return NO_ANSWER
    return touching[0], touching[-1]


def plan_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Divide the inputs into batches of similar length; each input is in one batch, and at most one batch is short."""
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    pool = batch_size * BATCHES_PER_POOL
    batches = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda place: lengths[place])
        batches += [near[first : first + batch_size] for first in range(0, len(near), batch_size)]
    chance.shuffle(batches)
    return batches


def batches_by_length(inputs: Sequence[Encoded], batch_size: int) -> Iterator[Sequence[Encoded]]:
    """All inputs in batches, shortest first, so that little is padded."""
    order = sorted(inputs, key=lambda item: len(item.input_ids))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collate(inputs: Sequence[Encoded], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Pad inputs to the longest of them: int64 tensors of shape ``(len(inputs), longest)``."""
    longest = max(len(item.input_ids) for item in inputs)

    def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows], device=device)

    batch = {
        "input_ids": padded([item.input_ids for item in inputs], pad_id),
        "attention_mask": padded([[1] * len(item.input_ids) for item in inputs], 0),
    }
    types = [item.token_type_ids for item in inputs if item.token_type_ids is not None]
    if types:
        batch["token_type_ids"] = padded(types, 0)
    return batch
