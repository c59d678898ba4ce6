"""Mining mistakes: a part of gold in blocks of rows, each block's mistakes on disk before the next is scored.

What extrapolates them need not wait for the last block. All workers share every block. A block on disk is the truth and
is not scored again: requests may have been made from it, and a device need not compute the same answers twice.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from s3ray.dataset import mistakes_from_table, table_from_mistakes
from s3ray.store import RunStore
from s3ray.student.model import Student
from s3ray.student.predict import Prediction, predict
from s3ray.student.ranks import Ranks, by_first
from s3ray.tasks import Task
from s3ray.types import Example, Mistake

BLOCK_ROWS = 1024


def mine(student: Student, examples: Sequence[Example], output: str, block_rows: int, ranks: Ranks) -> list[str]:
    """Mine the mistakes on all examples; returns what was answered to each. All workers call this together.

    Writes ``mistakes/*.parquet`` in the student's folder, one file for each ``block_rows`` examples, also where there
    is no mistake. A right answer of a block that was on disk is given back as gold's own.

    Raises:
        StoreError: a block can be neither read nor written.
    """
    task, store = student.task, RunStore(output)
    known = by_first(ranks, lambda: dict(_known(store, task)))
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


def _known(store: RunStore, task: Task) -> Iterator[tuple[str, tuple[Mistake, ...]]]:
    for name in store.files("mistakes"):
        yield name, tuple(mistakes_from_table(store.read_table(name), task.fields))


def _write(store: RunStore, name: str, task: Task, mistakes: Sequence[Mistake]) -> None:
    store.write_table(name, table_from_mistakes(mistakes, task.fields, task.has_labels))


def _answered(task: Task, block: Sequence[Example], mistakes: Sequence[Mistake]) -> list[str]:
    """What a student that makes these mistakes answers; rows with one id have one text, and one answer."""
    wrong = {mistake.example.id: mistake.predicted for mistake in mistakes}
    return [wrong.get(row.id, row.label or "" if task.has_labels else row.answers[0].text) for row in block]
