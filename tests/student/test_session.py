"""A student learns, is the same for the same seed, keeps its best epoch and hands back exactly its mistakes."""

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from s3ray.config.job import StudentConfig
from s3ray.errors import TrainerError
from s3ray.storage.run_folder import RunStore
from s3ray.student.evaluate import Prediction, find_mistakes, mine, predict
from s3ray.student.local_trainer import LocalStudentTrainer
from s3ray.student.model import load_student, save_student
from s3ray.student.ranks import SingleProcess
from s3ray.student.session import ask_checker
from s3ray.student.train import plan_training
from s3ray.student.trained import TRAINED, training_id
from s3ray.tables import examples_from_table, table_from_mistakes
from s3ray.tasks import Task
from s3ray.tasks.spec import Metric
from s3ray.types import Example, Mistake, Origin, Source, Span, StudentJob
from tests.student.workers import mined, on_workers

Write = Callable[[str, Task, Sequence[Example]], str]
CPU = SingleProcess(device=torch.device("cpu"))


def read(path: str | None, task: Task) -> list[Example]:
    assert path is not None
    return examples_from_table(pq.read_table(path), task.fields)


def test_a_student_learns_a_separable_task(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    result = LocalStudentTrainer(config.model_copy(update={"epochs": 6}), reviews).train(job)
    assert result.test is not None
    assert result.test.value > 0.9
    assert result.test.num_examples == 40
    assert result.num_rows == 49
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert set(result.seconds) == {"start", "train", "score"}


def test_the_same_seed_gives_the_same_student(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    trainer = LocalStudentTrainer(config, reviews)
    first = [report.loss for report in trainer.train(job).epochs]
    again = replace(job, output=f"{job.output}-again")
    assert [report.loss for report in trainer.train(again).epochs] == first
    assert [report.loss for report in trainer.train(replace(job, seed=8)).epochs] != first


@pytest.mark.usefixtures("float32")
def test_the_saved_folder_loads_with_transformers_and_answers_alike(
    config: StudentConfig, reviews: Task, job: StudentJob
) -> None:
    LocalStudentTrainer(config, reviews).train(job)
    model = AutoModelForSequenceClassification.from_pretrained(job.output)
    tokenizer = AutoTokenizer.from_pretrained(job.output)
    assert [model.config.id2label[number] for number in range(2)] == list(reviews.labels)
    assert list(Path(job.output).glob("*.safetensors"))
    examples = read(job.mine_path, reviews)
    batch = tokenizer([example.fields["text"] for example in examples], padding=True, return_tensors="pt")
    predicted = [model.config.id2label[number] for number in model(**batch).logits.argmax(dim=-1).tolist()]
    wrong = [example.id for example, label in zip(examples, predicted, strict=True) if example.label != label]
    assert [mistake.example.id for mistake in mined(job, reviews)] == wrong


def test_a_student_learns_from_an_object_store_and_lies_there(
    config: StudentConfig, reviews: Task, job: StudentJob, tmp_path: Path
) -> None:
    files = fsspec.filesystem("memory")
    root = f"memory://{uuid.uuid4().hex}"

    def moved(path: str | None) -> str:
        assert path is not None
        files.put_file(path, f"{root}/{Path(path).name}")
        return f"{root}/{Path(path).name}"

    there = replace(
        job,
        train_path=moved(job.train_path),
        select_path=moved(job.select_path),
        mine_path=moved(job.mine_path),
        test_path=moved(job.test_path),
        output=f"{root}/students/1",
    )
    trainer = LocalStudentTrainer(config, reviews)
    here, result = trainer.train(job), trainer.train(there)
    assert (result.select, result.test) == (here.select, here.test)
    assert mined(there, reviews) == mined(job, reviews)
    files.get(f"{root}/students/1", str(tmp_path / "fetched"), recursive=True)
    ours, theirs = (load_file(Path(folder) / "model.safetensors") for folder in (job.output, tmp_path / "fetched"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert AutoTokenizer.from_pretrained(tmp_path / "fetched")


def test_no_trace_of_an_unfinished_student_stays(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    killed = Path(job.output).with_name(".1.tmp")
    killed.mkdir(parents=True)
    (killed / "model.safetensors").write_bytes(b"half")
    save_student(load_student(config, reviews, torch.device("cpu")), Path(job.output), {})
    assert [path.name for path in Path(job.output).parent.iterdir()] == ["1"]
    assert load_file(Path(job.output) / "model.safetensors")
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in Path(job.output).iterdir())


def test_parts_that_are_not_asked_for_are_not_scored(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    result = LocalStudentTrainer(config, reviews).train(replace(job, mine_path=None, test_path=None))
    assert (result.mine, result.test, result.test_answers) == (None, None, ())
    assert mined(job, reviews) == []


def test_mistakes_are_exactly_the_wrong_answers(reviews: Task, job: StudentJob) -> None:
    examples = read(job.mine_path, reviews)[:4]
    answers = [Prediction(text="positive", confidence=0.6 + number / 10) for number in range(4)]
    mistakes = find_mistakes(reviews, examples, answers)
    assert [mistake.example.label for mistake in mistakes] == ["negative", "negative"]
    assert [mistake.predicted for mistake in mistakes] == ["positive", "positive"]
    assert [mistake.confidence for mistake in mistakes] == [0.6, 0.8]


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_mining_by_blocks_finds_what_mining_at_once_finds(
    num_workers: int, config: StudentConfig, reviews: Task, job: StudentJob
) -> None:
    torch.manual_seed(3)
    student = load_student(config, reviews, torch.device("cpu"))
    examples = read(job.mine_path, reviews)
    whole = replace(job, output=f"{job.output}-at-once")
    texts = mine(student, examples, whole.output, len(examples), CPU)
    found = on_workers(num_workers, lambda ranks: mine(student, examples, job.output, 7, ranks))
    assert found == [texts] * num_workers
    files = sorted((Path(job.output) / "mistakes").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.parquet" for number in range(5)]  # 31 rows
    at_once = [(mistake.example, mistake.predicted) for mistake in mined(whole, reviews)]
    assert at_once
    assert [(mistake.example, mistake.predicted) for mistake in mined(job, reviews)] == at_once


@pytest.mark.usefixtures("float32")
def test_a_trained_student_is_not_trained_again_and_its_blocks_are_the_truth(
    config: StudentConfig, reviews: Task, job: StudentJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3ray.student.session.MISTAKE_BLOCK_ROWS", 10)
    config = config.model_copy(update={"epochs": 1})
    trainer = LocalStudentTrainer(config, reviews)
    first, found = trainer.train(job), mined(job, reviews)
    assert json.loads((Path(job.output) / TRAINED).read_text())["lineage"] == training_id(config, job)
    kept, lost = (Path(job.output) / f"mistakes/{number:06d}.parquet" for number in (0, 1))
    lost.unlink()
    # As if the device had computed something else: the next round may have been written from it.
    invented = Mistake(example=read(job.mine_path, reviews)[4], predicted="positive", confidence=0.25)
    pq.write_table(table_from_mistakes([invented], reviews.fields, reviews.has_labels), kept)
    monkeypatch.setattr("s3ray.student.session.MISTAKE_BLOCK_ROWS", 5)  # a later version's
    monkeypatch.delattr("s3ray.student.session.Fit")
    again = trainer.train(job)
    rows = [example.id for example in read(job.mine_path, reviews)]
    mistakes = mined(job, reviews)
    assert mistakes == [invented, *(mistake for mistake in found if mistake.example.id in rows[10:])]
    assert lost.is_file()
    assert again.mine is not None
    assert again.mine.values["accuracy"] == pytest.approx(1 - len(mistakes) / 31)
    for name in ("num_rows", "best_epoch", "epochs", "select", "test"):
        assert getattr(again, name) == getattr(first, name)
    assert (again.seconds["train"], again.seconds["score"] > 0) == (0.0, True)


def test_another_student_takes_the_place_of_one_with_all_its_mistakes(
    config: StudentConfig, reviews: Task, job: StudentJob, tmp_path: Path
) -> None:
    trainer = LocalStudentTrainer(config.model_copy(update={"epochs": 1}), reviews)
    for root in (str(tmp_path), f"memory://{uuid.uuid4().hex}"):
        there = replace(job, output=f"{root}/students/1")
        trainer.train(there)
        store = RunStore(there.output)
        store.write_table("mistakes/000007.parquet", store.read_table("mistakes/000000.parquet"))
        trainer.train(replace(there, seed=8))
        assert [name for name in store.files("") if name.startswith("mistakes")] == ["mistakes/000000.parquet"]
        assert trainer.train(replace(there, seed=8)).seconds["train"] == 0.0, "it is found where it lies"


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_every_answer_to_the_test_part_is_given_back_with_its_score(
    metric: Metric, config: StudentConfig, reviews: Task, job: StudentJob
) -> None:
    task = Task(reviews.spec.model_copy(update={"metric": metric}), reviews.data)
    result = LocalStudentTrainer(config.model_copy(update={"epochs": 1}), task).train(job)
    rows = read(job.test_path, task)
    assert result.test is not None
    assert [answer.id for answer in result.test_answers] == [row.id for row in rows]
    for row, answer in zip(rows, result.test_answers, strict=True):
        assert answer.score == (answer.predicted == row.label)
        assert 0.5 <= answer.confidence <= 1
    assert sum(answer.score for answer in result.test_answers) / 40 == result.test.values["accuracy"]


def test_a_student_learns_soft_labels_where_there_are_some(
    config: StudentConfig, reviews: Task, job: StudentJob, write: Write
) -> None:
    # Every label is wrong, and the soft labels know better.
    opposite = {"positive": "negative", "negative": "positive"}
    rows = read(job.train_path, reviews)
    soft = [tuple(0.9 if label == row.label else 0.1 for label in reviews.labels) for row in rows]
    wrong = [replace(row, label=opposite[row.label or ""]) for row in rows]
    told = [replace(row, soft=shares) for row, shares in zip(wrong, soft, strict=True)]
    trainer = LocalStudentTrainer(config.model_copy(update={"epochs": 12}), reviews)
    result = trainer.train(replace(job, train_path=write("soft", reviews, told)))
    assert result.test is not None
    assert result.test.value > 0.9
    assert sum(answer.confidence for answer in result.test_answers) / 40 < 0.96, "it learned certainty"


def test_the_best_epoch_is_kept(config: StudentConfig, reviews: Task, job: StudentJob, write: Write) -> None:
    # The selection part contradicts the training set: every epoch of learning makes the score worse.
    opposite = {"positive": "negative", "negative": "positive"}
    select = [replace(row, label=opposite[row.label or ""]) for row in read(job.select_path, reviews)]
    job = replace(job, select_path=write("opposite", reviews, select), test_path=write("again", reviews, select))
    result = LocalStudentTrainer(config.model_copy(update={"epochs": 6}), reviews).train(job)
    scores = [report.select for report in result.epochs]
    assert scores[-1] < max(scores)
    assert result.best_epoch == 1 + scores.index(max(scores))
    assert result.select.value == max(scores)
    assert result.test is not None
    assert result.test.value == max(scores)


def test_small_sets_get_more_epochs(config: StudentConfig) -> None:
    few = config.model_copy(update={"min_steps": 150, "batch_size": 16, "epochs": 4, "warmup": 0.1})
    plan = plan_training(few, 300)
    assert (plan.steps_per_epoch, plan.epochs, plan.steps, plan.warmup_steps) == (19, 8, 152, 15)
    assert plan_training(few, 3000).epochs == 4
    rates = [plan.rate(step) for step in range(plan.steps + 1)]
    assert rates[15] == max(rates) == 1.0
    assert rates[0] == rates[-1] == 0.0


def test_a_training_set_without_rows_is_refused(
    config: StudentConfig, reviews: Task, job: StudentJob, write: Write
) -> None:
    with pytest.raises(TrainerError, match="nothing to train"):
        LocalStudentTrainer(config, reviews).train(replace(job, train_path=write("none", reviews, [])))


@pytest.mark.usefixtures("float32")
def test_answers_come_in_the_order_of_the_rows(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    student = load_student(config, reviews, torch.device("cpu"))
    examples = read(job.test_path, reviews)
    together = predict(student, examples, CPU)
    alone = [predict(student, [example], CPU)[0] for example in examples]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.confidence for answer in together] == pytest.approx(
        [answer.confidence for answer in alone], abs=1e-5
    )
    assert all(0.5 <= answer.confidence <= 1 for answer in together)


def question(number: int) -> Example:
    words = ["the", "was", "and", "soup", "film"]
    padding = " ".join(words[(number + place) % 5] for place in range(3 + number % 12))
    code = f"{number % 10}{number % 7}"
    context = f"{padding} lovely {code} {padding}"
    return Example(
        id=f"q{number}",
        fields={"question": "lovely?", "context": context},
        answers=(Span(text=code, start=context.index(code)),),
        origin=Origin(source=Source.GOLD),
    )


def test_a_span_student_learns_to_point_at_the_answer(
    config: StudentConfig, questions: Task, job: StudentJob, write: Write
) -> None:
    train, rest = [question(number) for number in range(80)], [question(number) for number in range(200, 220)]
    path = write("rest", questions, rest)
    job = replace(job, train_path=write("spans", questions, train), select_path=path, mine_path=path, test_path=path)
    few = config.model_copy(update={"epochs": 8})
    result = LocalStudentTrainer(few, questions).train(job)
    assert result.select.value > 0.9
    assert result.num_rows == 80
    for mistake in mined(job, questions):
        assert mistake.predicted in mistake.example.fields["context"]
    assert result.test is not None
    assert sum(answer.score for answer in result.test_answers) / 20 == result.test.values["exact_match"]
    assert AutoModelForQuestionAnswering.from_pretrained(job.output).config.num_labels == 2


WriteRows = Callable[[str, Task, Sequence[Example]], str]
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

    monkeypatch.setattr("s3ray.student.session.load_student", load)


@pytest.mark.usefixtures("float32", "one_load_at_a_time")
def test_wrong_labels_are_doubted_the_same_by_one_worker_and_by_two(
    config: StudentConfig, reviews: Task, checker: str, rows: list[Example]
) -> None:
    inputs = load_student(config, reviews, torch.device("cpu")).encode(rows)
    (alone,) = on_workers(1, lambda ranks: ask_checker(config, reviews, checker, inputs, range(80), ranks))
    for together in on_workers(2, lambda ranks: ask_checker(config, reviews, checker, inputs, range(80), ranks)):
        assert [item.checker_probability for item in together] == [item.checker_probability for item in alone]
    assert [item.checker_probability for item in alone[80:]] == [None, None], "nobody asks about gold"
    believed = [item.checker_probability or 0.0 for item in alone[:80]]
    assert mean(believed[::4]) < 0.15
    assert mean(value for place, value in enumerate(believed) if place % 4) > 0.85


def test_a_student_with_a_checker_learns_less_from_wrong_labels(
    config: StudentConfig, reviews: Task, job: StudentJob, checker: str, rows: list[Example], write: WriteRows
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
        training_id(config, job),
        training_id(config, replace(job, checker=checker)),
        training_id(wide, replace(job, checker=checker)),
        training_id(config, replace(job, checker=other.output)),
    ]
    assert len(set(names)) == 4
    assert training_id(wide, job) == names[0], "without a checker nothing is weighed"
    with pytest.raises(TrainerError, match="no trained student"):
        training_id(config, replace(job, checker=f"{checker}-gone"))
