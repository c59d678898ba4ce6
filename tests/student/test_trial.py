"""A student that cannot be trained is refused with the library's own words, in a process of its own or in this one."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.student.local_trainer import LocalStudentTrainer
from s3ray.student.model import load_student
from s3ray.student.trial import answer, asked, check_student, try_student
from s3ray.tasks import Task
from s3ray.types import Example, StudentJob
from tests.models import make_bert


def made_with(folder: Path, **settings: object) -> StudentConfig:
    """A model with other settings in its ``config.json``."""
    make_bert(folder)
    usual = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(usual | settings))
    return StudentConfig(model=str(folder), max_length=32)


def with_few_places(folder: Path) -> StudentConfig:
    """A model that says it reads longer texts than it does."""
    return made_with(folder, max_position_embeddings=4)


def test_what_went_well_is_not_tried_again_and_anything_else_is(
    config: StudentConfig,
    reviews: Task,
    toy_reviews: Callable[[range], list[Example]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("S3RAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bert").mkdir()
    rows, model = toy_reviews(range(4)), make_bert(tmp_path / "bert")
    config = config.model_copy(update={"model": str(model)})
    tried: list[int] = []
    monkeypatch.setattr("s3ray.student.trial.try_student", lambda *_: tried.append(0))

    def num_tried(config: StudentConfig = config, rows: list[Example] = rows) -> int:
        before = len(tried)
        assert check_student(config, reviews, rows) == ""
        return len(tried) - before

    assert [num_tried(), num_tried()] == [1, 0]
    assert num_tried(config.model_copy(update={"epochs": 99})) == 0, "says nothing about a trial"
    assert num_tried(config.model_copy(update={"max_length": 16})) == 1
    longer = replace(rows[0], fields={name: text * 99 for name, text in rows[0].fields.items()})
    assert num_tried(rows=[*rows, longer]) == 1
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert num_tried() == 1


def test_what_failed_is_tried_again(
    tmp_path: Path,
    reviews: Task,
    toy_reviews: Callable[[range], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("S3RAY_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(InputError):
            check_student(with_few_places(tmp_path), reviews, toy_reviews(range(8)))


def test_a_model_that_fails_at_the_longest_row_is_refused(
    tmp_path: Path, reviews: Task, toy_reviews: Callable[[range], list[Example]]
) -> None:
    with pytest.raises(InputError, match=r"student\.model: cannot be this task's student: (Runtime|Index)Error: "):
        check_student(with_few_places(tmp_path), reviews, toy_reviews(range(8)))


def test_a_fault_of_the_model_ends_a_training_as_the_users_error(
    tmp_path: Path, reviews: Task, job: StudentJob
) -> None:
    with pytest.raises(InputError, match="cannot be this task's student"):
        LocalStudentTrainer(with_few_places(tmp_path), reviews).train(job)


def test_a_broken_file_of_weights_is_a_fault_of_the_model(
    tmp_path: Path, reviews: Task, toy_reviews: Callable[[range], list[Example]]
) -> None:
    weights = make_bert(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="SafetensorError"):
        try_student(StudentConfig(model=str(tmp_path)), reviews, toy_reviews(range(2)))


def test_what_a_checkpoint_returns_besides_scores_is_switched_off(
    tmp_path: Path, reviews: Task, toy_reviews: Callable[[range], list[Example]]
) -> None:
    config = made_with(tmp_path, return_dict=False, output_attentions=True, output_hidden_states=True)
    student = load_student(config, reviews, torch.device("cpu"))
    assert student.logits(student.encode(toy_reviews(range(2))))[0].shape == (2, 2)
    student.model.config.save_pretrained(tmp_path)  # which refuses to output attentions


def test_a_setting_of_the_wrong_type_is_a_fault_of_the_model(
    tmp_path: Path, reviews: Task, toy_reviews: Callable[[range], list[Example]]
) -> None:
    with pytest.raises(InputError, match=r"cannot be this task's student: Strict.*hidden_size"):
        try_student(made_with(tmp_path, hidden_size="wide"), reviews, toy_reviews(range(2)))


def test_the_other_process_says_what_is_wrong_as_this_one_would(
    tmp_path: Path,
    reviews: Task,
    toy_reviews: Callable[[range], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, rows = with_few_places(tmp_path), toy_reviews(range(4))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(asked(config, reviews, rows))))
    answer()
    said = InputError(**json.loads(capsys.readouterr().out.splitlines()[-1]))
    with pytest.raises(InputError) as here:
        try_student(config, reviews, rows)
    assert str(said) == str(here.value)
