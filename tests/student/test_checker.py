"""A student of gold says what it thinks of written rows, and those that it doubts count less."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
import torch

from s3ray.config import StudentConfig
from s3ray.errors import TrainerError
from s3ray.student.checker import ask_checker
from s3ray.student.loop import LocalStudentTrainer
from s3ray.student.model import load_student
from s3ray.student.trained import lineage
from s3ray.tasks import Task
from s3ray.types import Example, Origin, Source, StudentJob
from tests.student.workers import on_workers

Write = Callable[[str, Task, Sequence[Example]], str]
OPPOSITE = {"positive": "negative", "negative": "positive"}


@pytest.fixture
def checker(config: StudentConfig, reviews: Task, job: StudentJob) -> str:
    """A folder with a student that is nearly always right."""
    alone = replace(job, output=f"{job.output}-checker", mine_path=None, test_path=None)
    LocalStudentTrainer(config.model_copy(update={"epochs": 15}), reviews).train(alone)
    return alone.output


@pytest.fixture
def rows(toy_reviews: Callable[[range], list[Example]]) -> list[Example]:
    """Written rows, every fourth with a wrong label, and two rows of gold."""
    right = [replace(row, origin=Origin(source=Source.SEED)) for row in toy_reviews(range(400, 480))]
    written = [
        replace(row, label=OPPOSITE[row.label or ""]) if place % 4 == 0 else row for place, row in enumerate(right)
    ]
    return [*written, *toy_reviews(range(500, 502))]


@pytest.fixture
def one_load_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading in transformers switches tying of weights off for all threads; two at once leave it off for ever."""
    lock = threading.Lock()

    def load(*parts: Any) -> Any:
        with lock:
            return load_student(*parts)

    monkeypatch.setattr("s3ray.student.checker.load_student", load)


@pytest.mark.usefixtures("float32", "one_load_at_a_time")
def test_wrong_labels_are_doubted_the_same_by_one_worker_and_by_two(
    config: StudentConfig, reviews: Task, checker: str, rows: list[Example]
) -> None:
    inputs = load_student(config, reviews, torch.device("cpu")).encode(rows)
    (alone,) = on_workers(1, lambda ranks: ask_checker(config, reviews, checker, inputs, range(80), ranks))
    for together in on_workers(2, lambda ranks: ask_checker(config, reviews, checker, inputs, range(80), ranks)):
        assert [item.believed for item in together] == [item.believed for item in alone]
    assert [item.believed for item in alone[80:]] == [None, None], "nobody asks about gold"
    believed = [item.believed or 0.0 for item in alone[:80]]
    assert mean(believed[::4]) < 0.15
    assert mean(value for place, value in enumerate(believed) if place % 4) > 0.85


def test_a_student_with_a_checker_learns_less_from_wrong_labels(
    config: StudentConfig, reviews: Task, job: StudentJob, checker: str, rows: list[Example], write: Write
) -> None:
    # Half of what is negative is called positive.
    job = replace(job, train_path=write("written", reviews, rows), mine_path=None)
    trainer = LocalStudentTrainer(config.model_copy(update={"weigh": "dimp", "epochs": 15}), reviews)

    def certainty(job: StudentJob) -> float:
        """Mean probability that the student gives to the right label of the test part."""
        answers = trainer.train(job).test_answers
        return mean(answer.confidence if answer.score else 1 - answer.confidence for answer in answers)

    assert certainty(replace(job, checker=checker)) > certainty(replace(job, output=f"{job.output}-plain")) + 0.05


def test_gold_alone_is_learned_as_without_a_checker(
    config: StudentConfig, reviews: Task, job: StudentJob, checker: str
) -> None:
    trainer = LocalStudentTrainer(config, reviews)
    plain = trainer.train(replace(job, output=f"{job.output}-plain"))
    weighed = trainer.train(replace(job, checker=checker))
    assert [report.loss for report in weighed.epochs] == [report.loss for report in plain.epochs]


def test_the_checker_and_how_it_weighs_are_part_of_what_shapes_a_student(
    config: StudentConfig, reviews: Task, job: StudentJob, checker: str
) -> None:
    other = replace(job, output=f"{job.output}-other", seed=8, mine_path=None, test_path=None)
    LocalStudentTrainer(config.model_copy(update={"epochs": 1}), reviews).train(other)
    wide = config.model_copy(update={"max_weight": 3.0})
    names = [
        lineage(config, job),
        lineage(config, replace(job, checker=checker)),
        lineage(wide, replace(job, checker=checker)),
        lineage(config, replace(job, checker=other.output)),
    ]
    assert len(set(names)) == 4
    assert lineage(wide, job) == names[0], "without a checker nothing is weighed"
    with pytest.raises(TrainerError, match="no trained student"):
        lineage(config, replace(job, checker=f"{checker}-gone"))
