"""How a student sees a table: the same as it answers, whatever the number of workers, and written once."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.strategies.probes import Probes, probes_from_table
from s3ray.student.evaluate import head_of, predict, probe
from s3ray.student.local_trainer import LocalStudentTrainer
from s3ray.student.model import Student, load_student
from s3ray.student.ranks import SingleProcess
from s3ray.tables import PROBE_SCHEMA, examples_from_table
from s3ray.tasks import Task
from s3ray.types import Example, Origin, Source, Span, StudentJob
from tests.models import make_llama
from tests.student.workers import on_workers

Write = Callable[[str, Task, Sequence[Example]], str]
CPU = SingleProcess(device=torch.device("cpu"))


@pytest.fixture
def student(config: StudentConfig, reviews: Task) -> Student:
    torch.manual_seed(3)
    return load_student(config, reviews, torch.device("cpu"))


def probed(student: Student, path: str, output: Path, num_workers: int = 1) -> Probes:
    students = [student] + [replace(student, model=copy.deepcopy(student.model)) for _ in range(1, num_workers)]
    on_workers(num_workers, lambda ranks: probe(students[ranks.rank], "some", path, str(output), ranks))
    table = pq.read_table(output / "probes/some.parquet")
    assert table.schema == PROBE_SCHEMA
    return probes_from_table(table)


def assert_equal(some: Probes, others: Probes) -> None:
    assert (some.ids, some.predicted) == (others.ids, others.predicted)
    for name in ("target_probability", "probabilities", "features"):
        np.testing.assert_allclose(getattr(some, name), getattr(others, name), atol=1e-5)


@pytest.mark.usefixtures("float32")
def test_a_classifier_s_probes_are_its_answers(
    student: Student, job: StudentJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3ray.student.evaluate.PROBE_BLOCK_ROWS", 7)
    seen = probed(student, job.train_path, tmp_path / "one")
    rows = examples_from_table(pq.read_table(job.train_path), student.task.fields)
    answers = predict(student, rows, CPU)
    assert seen.ids == [row.id for row in rows]
    assert seen.predicted == [answer.text for answer in answers]
    assert seen.probabilities.max(axis=1) == pytest.approx([answer.confidence for answer in answers], abs=1e-5)
    own = [student.task.labels.index(row.label or "") for row in rows]
    assert seen.target_probability.tolist() == seen.probabilities[range(len(rows)), own].tolist()
    assert_equal(probed(student, job.train_path, tmp_path / "two", num_workers=2), seen)


def question(number: int, num_words: int) -> Example:
    context = " ".join(f"{number}{place}" for place in range(num_words))
    answer = f"{number}{num_words - 2}"
    return Example(
        id=f"q{number}",
        fields={"question": "lovely?", "context": context},
        answers=(Span(text=answer, start=context.index(answer)), Span(text=f"{number}0", start=0)),
        origin=Origin(source=Source.GOLD),
    )


@pytest.mark.usefixtures("float32")
def test_a_span_student_s_probes_are_of_its_first_answer_in_the_best_window(
    config: StudentConfig, questions: Task, write: Write, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    student = load_student(config, questions, torch.device("cpu"))
    long = Span(text=" ".join(f"1{place}" for place in range(15)), start=0)
    cut = replace(question(1, 16), id="cut", answers=(long,))  # longer than any window
    rows = [question(number, 4 + 6 * (number % 3)) for number in range(9)] + [cut]
    path = write("questions", questions, rows)
    seen = probed(student, path, tmp_path / "one")
    assert seen.predicted == [answer.text for answer in predict(student, rows, CPU)]
    assert seen.probabilities.shape == (10, 0)
    assert seen.features.shape == (10, 48)
    for row, probability, features in zip(rows, seen.target_probability, seen.features, strict=True):
        windows = student.encode([row])
        likely = []
        with torch.inference_mode():
            for window in windows:
                starts, ends = (scores.softmax(dim=-1)[0] for scores in student.logits([window]))
                first, last = window.target
                likely.append(float(starts[first] * ends[last]) if window.target != (0, 0) else 0.0)
        assert probability == pytest.approx(max(likely), abs=1e-6)
        with torch.inference_mode():
            scores = head_of(student)(torch.tensor(features))
            at_first = [torch.stack(student.logits([window]))[:, 0, 0] for window in windows]
        assert any(torch.allclose(scores, known, atol=1e-4) for known in at_first)
    assert seen.target_probability[-1] == 0.0
    assert_equal(probed(student, path, tmp_path / "two", num_workers=2), seen)


def make_encoder(kind: str, folder: Path, tiny_bert: str) -> str:
    """A tiny random model of another family."""
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    size = BertConfig.from_pretrained(tiny_bert).vocab_size
    torch.manual_seed(0)
    if kind == "distilbert":
        small = DistilBertConfig(vocab_size=size, dim=24, hidden_dim=32, n_layers=1, n_heads=2)
        DistilBertModel(small).save_pretrained(folder)
    elif kind == "roberta":
        tiny = RobertaConfig(
            vocab_size=size, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        RobertaModel(tiny).save_pretrained(folder)  # type: ignore[no-untyped-call]
    else:
        make_llama(folder)
    return str(folder)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("kind", ["distilbert", "roberta", "llama"])
def test_features_are_what_the_last_layer_multiplies(
    kind: str, tiny_bert: str, reviews: Task, job: StudentJob, tmp_path: Path
) -> None:
    (tmp_path / kind).mkdir()
    config = StudentConfig(model=make_encoder(kind, tmp_path / kind, tiny_bert), max_length=32)
    student = load_student(config, reviews, torch.device("cpu"))
    seen = probed(student, job.train_path, tmp_path / "seen")
    with torch.inference_mode():
        probabilities = head_of(student)(torch.tensor(seen.features)).softmax(dim=-1)
    np.testing.assert_allclose(probabilities.numpy(), seen.probabilities, atol=1e-5)


def test_a_model_without_a_linear_head_is_named(student: Student) -> None:
    student.model.classifier = torch.nn.Identity()
    with pytest.raises(InputError, match=r"student\.model.*bert"):
        head_of(student)


def test_probes_are_written_once_and_by_a_loaded_student_too(
    config: StudentConfig, reviews: Task, job: StudentJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job.mine_path is not None
    job = replace(job, probes={"train": job.train_path, "gold": job.mine_path})
    trainer = LocalStudentTrainer(config.model_copy(update={"epochs": 1}), reviews)
    trainer.train(job)
    kept, lost = (Path(job.output) / f"probes/{name}.parquet" for name in ("train", "gold"))
    before = probes_from_table(pq.read_table(lost))
    assert (len(before.ids), pq.read_table(kept).num_rows) == (31, 49)
    lost.unlink()
    pq.write_table(PROBE_SCHEMA.empty_table(), kept)
    monkeypatch.delattr("s3ray.student.session.Fit")
    trainer.train(job)
    assert_equal(probes_from_table(pq.read_table(lost)), before)
    nothing = probes_from_table(pq.read_table(kept))
    assert (nothing.ids, len(nothing.features)) == ([], 0), "what is there is not looked at again"
