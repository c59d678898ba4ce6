"""A training that dies at any moment and is begun again ends in the student of one that was never disturbed."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.student.checkpoint import State, read_state, write_state
from s3ray.student.encode import Encoded
from s3ray.student.model import load_student
from s3ray.student.ranks import SingleProcess
from s3ray.student.session import train_student
from s3ray.student.train import Fit, row_losses, target_probabilities, weights
from s3ray.student.trained import training_id
from s3ray.tasks import Task
from s3ray.types import Example, Origin, Score, Source, StudentJob, StudentResult

Value = TypeVar("Value")
CPU = torch.device("cpu")
ROW = Example(id="one", fields={"text": "the film was lovely"}, label="positive", origin=Origin(source=Source.GOLD))


class Death(BaseException):
    """What nobody catches."""


class Mortal:
    """Dies at the so-manieth exchange between workers.

    There are two at the start, two in each epoch (after its steps and while it scores), and five from the end of the
    training to that of the student.
    """

    rank = 0
    world_size = 1
    device = CPU

    def __init__(self, exchanges: int) -> None:
        self._left = exchanges

    def share_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        return model

    def gather(self, value: Value) -> list[Value]:
        self._left -= 1
        if not self._left:
            raise Death
        return [value]


@dataclass
class OnDisk:
    """Keeps the last state in the files that a cluster's trainings use."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))

    def load(self) -> State | None:
        return read_state(self.folder) if any(self.folder.iterdir()) else None

    def save(self, make_state: Callable[[], State]) -> None:
        write_state(make_state(), self.folder)


@pytest.fixture(scope="session")
def dropping_bert(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny BERT with dropout: what it computes depends on the state of torch's random numbers."""
    folder = tmp_path_factory.mktemp("dropping") / "bert"
    shutil.copytree(tiny_bert, folder)
    settings = json.loads((folder / "config.json").read_text())
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    (folder / "config.json").write_text(json.dumps(settings | dict.fromkeys(names, 0.2)))
    return str(folder)


@pytest.fixture
def config(dropping_bert: str) -> StudentConfig:
    return StudentConfig(model=dropping_bert, learning_rate=2e-3, batch_size=8, epochs=4, max_length=32)


def essence(result: StudentResult, job: StudentJob) -> tuple[object, ...]:
    weights = {name: tensor.tolist() for name, tensor in load_file(Path(job.output) / "model.safetensors").items()}
    losses = [(report.loss, report.select) for report in result.epochs]
    return losses, result.best_epoch, result.select, result.mine, result.test, weights


@pytest.mark.parametrize("exchanges", range(1, 16))
def test_a_training_that_dies_and_begins_again_ends_in_the_same_student(
    exchanges: int, config: StudentConfig, reviews: Task, job: StudentJob, tmp_path: Path
) -> None:
    calm = replace(job, output=str(tmp_path / "calm" / "1"))
    undisturbed = train_student(config, reviews, calm, SingleProcess(device=CPU))
    checkpoints = OnDisk()
    with pytest.raises(Death):
        train_student(config, reviews, job, Mortal(exchanges), checkpoints)
    torch.manual_seed(exchanges)  # another process would start with other random numbers
    again = train_student(config, reviews, job, SingleProcess(device=CPU), checkpoints)
    assert essence(again, job) == essence(undisturbed, calm)


def test_no_finished_epoch_is_trained_twice(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    checkpoints = OnDisk()
    with pytest.raises(Death):
        train_student(config, reviews, job, Mortal(7), checkpoints)  # in the third epoch

    class Counting(SingleProcess):
        def gather(self, value: Value) -> list[Value]:
            exchanged.append(value)
            return [value]

    exchanged: list[object] = []
    train_student(config, reviews, job, Counting(device=CPU), checkpoints)
    losses = [value for value in exchanged if isinstance(value, float)]
    assert len(losses) == 2


def test_training_stops_when_patience_is_spent(
    config: StudentConfig, reviews: Task, job: StudentJob, write: Callable[[str, Task, Sequence[Example]], str]
) -> None:
    # One row of the selection part: its score is 0 or 1, and cannot be better than 1.
    job = replace(job, select_path=write("one", reviews, [ROW]))
    patient = config.model_copy(update={"epochs": 30, "patience": 3})
    result = train_student(patient, reviews, job, SingleProcess(device=CPU))
    assert result.select.value == 1.0
    assert len(result.epochs) == result.best_epoch + 3 < 30


@pytest.mark.usefixtures("float32")
def test_gradients_of_parts_of_a_batch_add_up_to_the_gradient_of_the_batch(
    tiny_bert: str, reviews: Task, toy_reviews: Callable[[range], list[Example]]
) -> None:
    def loss_after_training(rows_at_once: int | None) -> float:
        few = StudentConfig(model=tiny_bert, batch_size=10, learning_rate=2e-3, epochs=2, rows_at_once=rows_at_once)
        torch.manual_seed(0)
        student = load_student(few, reviews, CPU)
        fit = Fit(student, few, student.encode(toy_reviews(range(25))), 0, SingleProcess(device=CPU))
        rows: list[int] = []
        student.model.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        score = Score(main="accuracy", values={"accuracy": 0.5}, num_examples=1)
        fit.run_epoch(lambda: score)
        fit.run_epoch(lambda: score)
        assert max(rows) == (rows_at_once or 10)
        return fit.reports[-1].loss

    assert loss_after_training(3) == pytest.approx(loss_after_training(None), rel=1e-4)


def test_a_training_goes_on_from_checkpoints_of_the_same_training_only(
    config: StudentConfig, reviews: Task, job: StudentJob, write: Callable[[str, Task, Sequence[Example]], str]
) -> None:
    name = training_id(config, job)
    assert (
        training_id(config.model_copy(update={"workers": 8, "rows_at_once": 2}), replace(job, output="there")) == name
    )
    others = [
        training_id(config.model_copy(update={"learning_rate": 1e-3}), job),
        training_id(config, replace(job, seed=8)),
        training_id(config, replace(job, select_path=job.test_path or "")),
        training_id(config, replace(job, train_path=write("fewer", reviews, [ROW]))),
    ]
    assert len({name, *others}) == 5


def test_what_one_worker_finds_wrong_ends_all(config: StudentConfig, reviews: Task, job: StudentJob) -> None:
    class Beside(SingleProcess):
        """This worker is fine; the other one has not got the model."""

        def gather(self, value: Value) -> list[Value]:
            return [value, InputError("is nowhere", field="student.model", value="x")]  # type: ignore[list-item]

    with pytest.raises(InputError, match="is nowhere"):
        train_student(config, reviews, job, Beside(device=CPU))


def item(target: tuple[int, ...], soft: tuple[float, ...] = (), checker_probability: float | None = None) -> Encoded:
    return Encoded(
        row=0, input_ids=[1], token_type_ids=None, target=target, soft=soft, checker_probability=checker_probability
    )


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows).log().requires_grad_()


def test_soft_and_hard_rows_of_a_batch_each_cost_what_they_should() -> None:
    logits = (logits_of([0.2, 0.8], [0.2, 0.8], [0.5, 0.5]),)
    batch = [item((0,)), item((0,), soft=(0.75, 0.25)), item((1,), soft=(0.0, 1.0))]
    expected = [-log(0.2), -0.75 * log(0.2) - 0.25 * log(0.8), -log(0.5)]
    assert row_losses(logits, batch, 2.0).tolist() == pytest.approx(expected)


def test_a_span_costs_the_mean_of_its_ends() -> None:
    logits = (logits_of([0.2, 0.7, 0.1]), logits_of([0.1, 0.4, 0.5]))
    assert row_losses(logits, [item((1, 2))], 2.0).tolist() == pytest.approx([-(log(0.7) + log(0.5)) / 2])
    assert target_probabilities(logits, [item((1, 2))]).tolist() == pytest.approx([0.7 * 0.5])


def test_weights_are_what_the_checker_believes_by_what_the_student_does() -> None:
    logits = (logits_of([0.2, 0.8], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8]),)
    batch = [
        item((0,), checker_probability=0.3),
        item((0,), checker_probability=0.9),
        item((1,), checker_probability=0.2),
        item((1,)),
    ]
    assert weights(logits, batch, 2.0).tolist() == pytest.approx([1.5, 2.0, 0.25, 1.0]), "gold weighs 1"
    assert row_losses(logits, batch, 2.0).tolist() == pytest.approx(
        [-1.5 * log(0.2), -2 * log(0.2), -0.25 * log(0.8), -log(0.8)]
    )


def test_a_span_s_weight_is_of_both_ends_together() -> None:
    logits = (logits_of([0.2, 0.7, 0.1]), logits_of([0.1, 0.4, 0.5]))
    assert weights(logits, [item((1, 2), checker_probability=0.14)], 2.0).tolist() == pytest.approx([0.14 / 0.35])


def test_a_soft_row_is_weighed_by_its_own_label() -> None:
    batch = [item((0,), soft=(0.5, 0.5), checker_probability=0.1)]
    assert row_losses((logits_of([0.2, 0.8]),), batch, 2.0).tolist() == pytest.approx(
        [0.5 * (-0.5 * log(0.2) - 0.5 * log(0.8))]
    )


def test_no_gradient_flows_through_a_weight() -> None:
    logits = logits_of([0.2, 0.8])
    torch.autograd.backward(row_losses((logits,), [item((0,), checker_probability=0.3)], 2.0).sum())
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([1.5 * (0.2 - 1), 1.5 * 0.8])


def test_an_answer_that_the_student_rules_out_still_has_a_weight() -> None:
    logits = torch.tensor([[-1e4, 0.0]])
    assert weights((logits,), [item((0,), checker_probability=0.5)], 2.0).tolist() == [2.0]
    assert weights((logits,), [item((0,), checker_probability=0.0)], 2.0).tolist() == [0.0]
