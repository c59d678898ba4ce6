"""Training one student from the base checkpoint, and everything that is asked of it afterwards.

Plain torch, without Ray: ``LocalStudentTrainer`` runs it in this process, ``student.trainer`` on a cluster. The
mathematics is the same for any number of workers: one global batch per step, its loss the mean over the batch's rows.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from s3ray.config import StudentConfig
from s3ray.dataset import examples_from_table
from s3ray.errors import S3RayError
from s3ray.store import read_table
from s3ray.student.encode import Encoded
from s3ray.student.fit import Checkpoints, Fit, NoCheckpoints
from s3ray.student.model import Student, load_student, save_student
from s3ray.student.predict import Prediction, predict
from s3ray.student.ranks import Ranks, SingleProcess
from s3ray.tasks import Task
from s3ray.types import Example, Mistake, Score, StudentJob, StudentResult

Value = TypeVar("Value")


def train_student(
    config: StudentConfig,
    task: Task,
    job: StudentJob,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> StudentResult:
    """Train, choose the best epoch on the selection part, save, and answer the parts that the job names.

    All workers call this together and get the same result; the first one writes ``job.output``. Of epochs with equal
    scores the earliest is kept. With ``checkpoints`` a training that died goes on after its last kept epoch.

    Raises:
        InputError: the model cannot serve the task.
        TrainerError: there are no rows to train on.
    """
    ranks = ranks or SingleProcess()
    clock = _Clock()
    with clock.measure("start"):
        parts = _agreed(ranks, lambda: _begin(config, task, job, ranks))
        student = parts.student
        fit = Fit(student, config, parts.inputs, job.seed, ranks)
    _run(fit, parts, ranks, checkpoints or NoCheckpoints(), clock)
    with clock.measure("train"):
        if ranks.rank == 0:
            save_student(student, job.output)
    with clock.measure("score"):
        mine = _read(job.mine_path, task) if job.mine_path else []
        answers = predict(student, mine, ranks)
        test = _score(student, _read(job.test_path, task), ranks) if job.test_path else None
    return StudentResult(
        round=job.round,
        num_rows=parts.num_rows,
        best_epoch=fit.best.epoch,
        epochs=tuple(fit.reports),
        select=fit.best.select,
        mine=task.score(mine, [answer.text for answer in answers]) if job.mine_path else None,
        test=test,
        mistakes=find_mistakes(task, mine, answers),
        seconds=dict(clock.seconds),
    )


def find_mistakes(task: Task, examples: Sequence[Example], answers: Sequence[Prediction]) -> tuple[Mistake, ...]:
    """The examples that the student answers wrongly, in their order (paper, Algorithm 2)."""
    return tuple(
        Mistake(example=example, predicted=answer.text, confidence=answer.confidence)
        for example, answer in zip(examples, answers, strict=True)
        if not task.is_correct(example, answer.text)
    )


class LocalStudentTrainer:
    """Trains students in this process, one after the other: for a debugger, for tests, for one small machine."""

    def __init__(self, config: StudentConfig, task: Task) -> None:
        self._config = config
        self._task = task

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student; see ``train_student``."""
        return train_student(self._config, self._task, job)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a training begins with; ``questions`` are this worker's share of the selection part, encoded once."""

    student: Student
    num_rows: int
    inputs: Sequence[Encoded]
    select: Sequence[Example]
    questions: Sequence[Encoded]


def _begin(config: StudentConfig, task: Task, job: StudentJob, ranks: Ranks) -> _Parts:
    torch.manual_seed(job.seed)  # the head is random
    student = load_student(config, task, ranks.device)
    examples = _read(job.train_path, task)
    select = _read(job.select_path, task)
    return _Parts(
        student=student,
        num_rows=len(examples),
        inputs=student.encode(examples),
        select=select,
        questions=student.encode(select[ranks.rank :: ranks.world_size]),
    )


def _agreed(ranks: Ranks, make: Callable[[], Value]) -> Value:
    """What ``make`` gives, or the first worker's S3RayError for all: none waits for one that has given up."""
    made: Value | None = None
    problem = None
    try:
        made = make()
    except S3RayError as error:
        problem = error
    for found in ranks.gather(problem):
        if found is not None:
            raise found
    return made  # type: ignore[return-value]


def _run(fit: Fit, parts: _Parts, ranks: Ranks, checkpoints: Checkpoints, clock: "_Clock") -> None:
    """All epochs that are left; leaves the best one's weights in the student."""
    with clock.measure("start"):
        state = checkpoints.load()
        if state is not None:
            fit.restore(state)

    def score() -> Score:
        with clock.measure("score"):
            return _score(parts.student, parts.select, ranks, parts.questions)

    while not fit.is_over:
        fit.run_epoch(score)
        clock.seconds["train"] += fit.reports[-1].seconds
        with clock.measure("train"):
            checkpoints.save(fit.state)
    fit.load_best()


class _Clock:
    """Adds up seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = Counter()  # type: ignore[assignment]

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - start


def _read(path: str, task: Task) -> list[Example]:
    return examples_from_table(read_table(path), task.fields)


def _score(
    student: Student, examples: Sequence[Example], ranks: Ranks, questions: Sequence[Encoded] | None = None
) -> Score:
    answers = predict(student, examples, ranks, questions)
    return student.task.score(examples, [answer.text for answer in answers])
