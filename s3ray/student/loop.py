"""Training one student from the base checkpoint, and everything that is asked of it afterwards.

Plain torch, without Ray: ``LocalStudentTrainer`` runs it in this process, ``student.trainer`` on a cluster. The
mathematics is the same for any number of workers: one global batch per step, its loss the mean over the batch's rows.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch.nn.functional import cross_entropy

from s3ray.config import StudentConfig
from s3ray.dataset import examples_from_table
from s3ray.errors import TrainerError
from s3ray.student.encode import Encoded, plan_batches
from s3ray.student.model import Student, load_student, save_student
from s3ray.student.predict import Prediction, predict
from s3ray.student.ranks import Ranks, SingleProcess
from s3ray.tasks import Task
from s3ray.types import EpochReport, Example, Mistake, Score, StudentJob, StudentResult

MAX_GRADIENT_NORM = 1.0
_RANK_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many steps a training takes: whole epochs, so that every input is used equally often."""

    epochs: int
    steps_per_epoch: int
    warmup_steps: int

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step: linear warm-up, then linear decay to zero."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        return max(0.0, (self.steps - step) / max(1, self.steps - self.warmup_steps))


def plan_training(config: StudentConfig, num_inputs: int) -> Plan:
    """As many epochs as asked for, or more where ``min_steps`` needs them."""
    if num_inputs == 0:
        raise TrainerError("there is nothing to train the student on", "The training set of this round has no rows.")
    steps = math.ceil(num_inputs / config.batch_size)
    epochs = max(config.epochs, math.ceil(config.min_steps / steps))
    return Plan(epochs=epochs, steps_per_epoch=steps, warmup_steps=round(config.warmup * epochs * steps))


def train_student(config: StudentConfig, task: Task, job: StudentJob, ranks: Ranks | None = None) -> StudentResult:
    """Train, choose the best epoch on the selection part, save, and answer the parts that the job names.

    All workers call this together and get the same result; the first one writes ``job.output``. Of epochs with equal
    scores the earliest is kept.

    Raises:
        InputError: the model cannot serve the task.
        TrainerError: there are no rows to train on.
    """
    ranks = ranks or SingleProcess()
    clock = _Clock()
    with clock.measure("start"):
        torch.manual_seed(job.seed)
        student = load_student(config, task, ranks.device)
        examples = _read(job.train_path, task)
        inputs = student.encode(examples)
        select = _read(job.select_path, task)
    epochs, best = _fit(student, config, inputs, select, job.seed, ranks, clock)
    with clock.measure("train"):
        if ranks.rank == 0:
            save_student(student, Path(job.output))
    with clock.measure("score"):
        mine = _read(job.mine_path, task) if job.mine_path else []
        answers = predict(student, mine, ranks)
        test = _score(student, _read(job.test_path, task), ranks) if job.test_path else None
    return StudentResult(
        round=job.round,
        num_rows=len(examples),
        best_epoch=best.epoch,
        epochs=tuple(epochs),
        select=best.select,
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
class _Best:
    epoch: int
    select: Score
    weights: dict[str, torch.Tensor]


class _Clock:
    """Adds up seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - start  # type: ignore[assignment]


def _read(path: str, task: Task) -> list[Example]:
    return examples_from_table(pq.read_table(path), task.fields)


def _score(student: Student, examples: Sequence[Example], ranks: Ranks) -> Score:
    return student.task.score(examples, [answer.text for answer in predict(student, examples, ranks)])


def _fit(
    student: Student,
    config: StudentConfig,
    inputs: Sequence[Encoded],
    select: Sequence[Example],
    seed: int,
    ranks: Ranks,
    clock: _Clock,
) -> tuple[list[EpochReport], _Best]:
    """Run all epochs and leave the best one's weights in the student."""
    plan = plan_training(config, len(inputs))
    model = ranks.share_gradients(student.model)
    optimiser = torch.optim.AdamW(_parameter_groups(student.model, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, plan.rate)
    # Every worker drops other units: with one seed for all, the rows of a batch would not be dropped independently.
    torch.manual_seed(seed + _RANK_STRIDE * ranks.rank)
    lengths = [len(item.input_ids) for item in inputs]
    reports: list[EpochReport] = []
    best: _Best | None = None
    for epoch in range(1, plan.epochs + 1):
        start = time.monotonic()
        with clock.measure("train"):
            student.model.train()
            total = torch.zeros((), device=ranks.device)
            for batch in plan_batches(lengths, config.batch_size, seed, epoch):
                total += _step(student, model, [inputs[place] for place in batch], ranks)
                torch.nn.utils.clip_grad_norm_(student.model.parameters(), MAX_GRADIENT_NORM)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
            loss = sum(ranks.gather(total.item())) / len(inputs)
        with clock.measure("score"):
            score = _score(student, select, ranks)
        reports.append(EpochReport(epoch=epoch, loss=loss, select=score.value, seconds=time.monotonic() - start))
        if best is None or score.value > best.select.value:
            weights = {name: tensor.cpu().clone() for name, tensor in student.model.state_dict().items()}
            best = _Best(epoch=epoch, select=score, weights=weights)
    assert best is not None  # a plan has at least one epoch
    student.model.load_state_dict(best.weights)
    return reports, best


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, biases and normalisation weights do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _step(student: Student, model: torch.nn.Module, batch: Sequence[Encoded], ranks: Ranks) -> torch.Tensor:
    """Compute this worker's share of a global batch and leave the batch's gradients in the model.

    Returns the sum of losses over this worker's rows. A worker without a row in the batch repeats the first row with
    weight zero: all workers must take part in the exchange of gradients.
    """
    share = batch[ranks.rank :: ranks.world_size]
    losses = _losses(student.logits(share or batch[:1], model), share or batch[:1])
    summed = losses.sum() * bool(share)
    # The exchange averages over the workers; the mean over the batch's rows is wanted.
    torch.autograd.backward(summed * (ranks.world_size / len(batch)))
    return summed.detach()


def _losses(logits: tuple[torch.Tensor, ...], batch: Sequence[Encoded]) -> torch.Tensor:
    """One loss per input: cross entropy, averaged over first and last token for spans."""
    targets = torch.tensor([item.target for item in batch], device=logits[0].device)
    parts = [cross_entropy(scores, targets[:, part], reduction="none") for part, scores in enumerate(logits)]
    return torch.stack(parts).mean(dim=0)
