"""One training from start to end: what every train worker runs, with or without Ray (``Ranks`` stands between)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers.utils import logging

from s3ray.config.job import StudentConfig
from s3ray.storage.run_folder import read_table
from s3ray.student.checkpoint import Checkpoints
from s3ray.student.encode import Encoded
from s3ray.student.evaluate import BATCH_SIZE, MISTAKE_BLOCK_ROWS, Prediction, mine, predict, probe
from s3ray.student.model import Student, load_student, save_student, saved_student
from s3ray.student.ranks import Ranks, SingleProcess, agreed, by_first
from s3ray.student.train import Fit, target_probabilities, try_step
from s3ray.student.trained import Trained, find_trained, training_id
from s3ray.tables import examples_from_table
from s3ray.tasks import Task
from s3ray.types import Answer, Example, Score, Source, StudentJob, StudentResult


def ask_checker(
    config: StudentConfig, task: Task, place: str, inputs: Sequence[Encoded], asked: Sequence[int], ranks: Ranks
) -> list[Encoded]:
    """Return the inputs, those at the positions ``asked`` with the checker's probability of their targets filled in.

    All workers call this together. The checker is the student saved in the folder ``place``; it has the same tokenizer,
    and is freed afterwards. Batches, and so the answers, do not depend on the number of workers.
    """
    checker = agreed(ranks, lambda: _load_saved(config, task, place, ranks))
    order = sorted(asked, key=lambda number: len(inputs[number].input_ids))
    batches = [order[first : first + BATCH_SIZE] for first in range(0, len(order), BATCH_SIZE)]
    found: dict[int, float] = {}
    checker.model.train(mode=False)
    with torch.inference_mode():
        for numbers in batches[ranks.rank :: ranks.world_size]:
            batch = [inputs[number] for number in numbers]
            found.update(zip(numbers, target_probabilities(checker.logits(batch), batch).tolist(), strict=True))
    answers = {number: answer for part in ranks.gather(found) for number, answer in part.items()}
    return [replace(item, checker_probability=answers.get(number)) for number, item in enumerate(inputs)]


def _load_saved(config: StudentConfig, task: Task, place: str, ranks: Ranks) -> Student:
    with saved_student(place) as folder:
        return load_student(config.model_copy(update={"model": folder}), task, ranks.device)


def train_student(
    config: StudentConfig,
    task: Task,
    job: StudentJob,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> StudentResult:
    """Train a student, keep its best epoch on the selection part, save it, and answer the parts that the job names.

    All workers call this together and get the same result; the first one writes ``job.output``. Of epochs with equal
    scores the earliest is kept. With ``checkpoints``, a training that died continues after its last saved epoch. A
    student that is already trained is only loaded, and answers what is not on disk yet.

    Raises:
        InputError: the model cannot serve the task.
        TrainerError: there are no rows to train on.
        StoreError: what is on disk cannot be read, or nothing can be written.
    """
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    ranks = ranks or SingleProcess()
    clock = _Clock()
    with clock.measure("start"):
        trained = by_first(ranks, lambda: find_trained(job.output, training_id(config, job)))
    if trained is None:
        student, trained = _train(config, task, job, ranks, checkpoints, clock)
    else:
        with clock.measure("start"):
            student = agreed(ranks, lambda: _load_saved(config, task, job.output, ranks))
    with clock.measure("score"):
        mined = _read(job.mine_path, task) if job.mine_path else []
        answers = mine(student, mined, job.output, trained.block_rows, ranks)
        for name, path in job.probes.items():
            probe(student, name, path, job.output, ranks)
        test = _read(job.test_path, task) if job.test_path else []
        test_answers = predict(student, test, ranks) if job.test_path else []
    return StudentResult(
        round=job.round,
        num_rows=trained.num_rows,
        best_epoch=trained.best_epoch,
        epochs=tuple(trained.epochs),
        select=trained.select,
        mine=task.score(mined, answers) if job.mine_path else None,
        test=task.score(test, [answer.text for answer in test_answers]) if job.test_path else None,
        test_answers=tuple(_answer(task, *pair) for pair in zip(test, test_answers, strict=True)),
        seconds=dict(clock.seconds),
    )


def _train(
    config: StudentConfig, task: Task, job: StudentJob, ranks: Ranks, checkpoints: Checkpoints | None, clock: "_Clock"
) -> tuple[Student, Trained]:
    """Train a student and save it, together with the marker (``Trained``) that it is finished."""
    with clock.measure("start"):
        parts = agreed(ranks, lambda: _begin(config, task, job, ranks))
    inputs = parts.inputs
    if job.checker is not None:
        with clock.measure("train"):
            inputs = ask_checker(config, task, job.checker, inputs, parts.written, ranks)
    with clock.measure("start"):
        fit = Fit(parts.student, config, inputs, job.seed, ranks)
    _run(fit, parts, ranks, checkpoints, clock)

    def keep() -> Trained:
        trained = Trained(
            training_id=training_id(config, job),
            num_rows=parts.num_rows,
            best_epoch=fit.best.epoch,
            epochs=tuple(fit.reports),
            select=fit.best.select,
            block_rows=MISTAKE_BLOCK_ROWS,
        )
        save_student(parts.student, job.output, trained.as_dict())
        return trained

    with clock.measure("train"):
        return parts.student, by_first(ranks, keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The student and the data at the start of a training.

    ``questions`` are this worker's rows of the selection part, encoded once for all epochs. ``written`` holds the
    positions of the synthetic rows in ``inputs``.
    """

    student: Student
    num_rows: int
    inputs: Sequence[Encoded]
    written: Sequence[int]
    select: Sequence[Example]
    questions: Sequence[Encoded]


def _begin(config: StudentConfig, task: Task, job: StudentJob, ranks: Ranks) -> _Parts:
    torch.manual_seed(job.seed)  # the head is random
    student = load_student(config, task, ranks.device)
    examples = _read(job.train_path, task)
    select = _read(job.select_path, task)
    inputs = student.encode(examples)
    if inputs:
        try_step(student, inputs, config.model)
    return _Parts(
        student=student,
        num_rows=len(examples),
        inputs=inputs,
        written=[place for place, item in enumerate(inputs) if examples[item.row].origin.source is not Source.GOLD],
        select=select,
        questions=student.encode(select[ranks.rank :: ranks.world_size]),
    )


def _run(fit: Fit, parts: _Parts, ranks: Ranks, checkpoints: Checkpoints | None, clock: "_Clock") -> None:
    """Run all epochs that are left, then put the best epoch's weights into the student."""
    with clock.measure("start"):
        if checkpoints is not None and (state := checkpoints.load()) is not None:
            fit.restore(state)

    def score() -> Score:
        with clock.measure("score"):
            answers = predict(parts.student, parts.select, ranks, parts.questions)
            return parts.student.task.score(parts.select, [answer.text for answer in answers])

    while not fit.is_over:
        fit.run_epoch(score)
        clock.seconds["train"] += fit.reports[-1].seconds
        if checkpoints is not None:
            with clock.measure("train"):
                checkpoints.save(fit.state)
    fit.load_best()


class _Clock:
    """Adds up the seconds of each phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("start", "train", "score"), 0.0)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - start


def _read(path: str, task: Task) -> list[Example]:
    return examples_from_table(read_table(path, task.fields), task.fields)


def _answer(task: Task, example: Example, given: Prediction) -> Answer:
    """An answer with the main metric computed on this row alone, which is 1 or 0."""
    score = task.score([example], [given.text]).value
    return Answer(id=example.id, predicted=given.text, confidence=given.confidence, score=score)
