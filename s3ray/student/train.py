"""The epochs and steps of a training, and its loss: cross entropy with hard or soft labels, weighed by a checker.

All randomness of an epoch follows from seed, epoch and worker, so a training that continues from the state after any
epoch ends in the same student as one that was never interrupted.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import nan

import torch
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.parallel import DistributedDataParallel

from s3ray.config.job import StudentConfig
from s3ray.errors import TrainerError
from s3ray.student.checkpoint import State
from s3ray.student.encode import Encoded, plan_batches
from s3ray.student.model import Student, blaming_model
from s3ray.student.ranks import Ranks
from s3ray.types import EpochReport, Score

Logits = tuple[torch.Tensor, ...]
"""Labels' scores ``(batch, labels)``, or those of first and last token, ``(batch, longest)`` each."""


def row_losses(logits: Logits, batch: Sequence[Encoded], max_weight: float) -> torch.Tensor:
    """One loss per input, shape ``(batch,)``: cross entropy, averaged over first and last token for spans.

    With soft labels s it is ``- sum_k s_k log P_student(k | x)``. Each loss is multiplied by the input's weight.
    """
    parts = [cross_entropy(scores, _goal(scores, batch, part), reduction="none") for part, scores in enumerate(logits)]
    losses = torch.stack(parts).mean(dim=0)
    return (
        losses
        if all(item.checker_probability is None for item in batch)
        else losses * weights(logits, batch, max_weight)
    )


def weights(logits: Logits, batch: Sequence[Encoded], max_weight: float) -> torch.Tensor:
    """How much each input's loss counts, shape ``(batch,)``: the dynamic importance weights of DIMP (arXiv 2410.21526).

    ``w = min(max_weight, P_checker(y | x) / P_student(y | x))``, where y is the row's own label or answer. P_student is
    taken from the forward pass whose loss is weighed, and no gradient flows through it. Gold has weight 1: the checker
    is not asked about it. The weights are not normalised: a step minimises the mean over its rows of weight times loss.
    """
    asked = [nan if item.checker_probability is None else item.checker_probability for item in batch]
    checker = torch.tensor(asked, device=logits[0].device)
    own = target_probabilities(logits, batch).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(checker.isnan(), 1.0, (checker / own).clamp(max=max_weight))


@torch.no_grad()
def target_probabilities(logits: Logits, batch: Sequence[Encoded]) -> torch.Tensor:
    """The probability of each input's target, shape ``(batch,)``: of first times last token for spans."""
    targets = torch.tensor([item.target for item in batch], device=logits[0].device)
    parts = [scores.softmax(dim=-1).gather(1, targets[:, [part]])[:, 0] for part, scores in enumerate(logits)]
    return torch.stack(parts).prod(dim=0)


def try_step(student: Student, inputs: Sequence[Encoded], model: str) -> None:
    """Compute the loss of the longest input beside the shortest, so that one of them is padded; nothing is learned.

    Raises:
        InputError: the model called ``model`` fails at it, and would fail at every step.
    """
    batch = [max(inputs, key=lambda item: len(item.input_ids)), min(inputs, key=lambda item: len(item.input_ids))]
    student.model.train(mode=False)
    with blaming_model(model), torch.no_grad():
        row_losses(student.logits(batch), batch, max_weight=1.0)


def _goal(scores: torch.Tensor, batch: Sequence[Encoded], part: int) -> torch.Tensor:
    """Targets as numbers ``(batch,)``, or as probabilities ``(batch, labels)`` where one of them is soft."""
    goal = torch.tensor([item.target[part] for item in batch], device=scores.device)
    if not any(item.soft for item in batch):
        return goal
    shares = one_hot(goal, scores.shape[1]).to(scores.dtype)
    for row, item in enumerate(batch):
        if item.soft:
            shares[row] = torch.tensor(item.soft)
    return shares


MAX_GRADIENT_NORM = 1.0  # the usual clipping of fine-tuning
# Primes, so that no two pairs of epoch and worker give the same seed.
_RANK_STRIDE = 1_000_003
_EPOCH_STRIDE = 7_919


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a training: whole epochs, so that every input is used equally often."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best epoch so far: its number, its score on the selection part, and its weights (on the CPU)."""

    epoch: int
    select: Score
    weights: dict[str, torch.Tensor]


class Fit:
    """One training: model, optimiser, schedule, and the reports of the epochs so far."""

    def __init__(
        self, student: Student, config: StudentConfig, inputs: Sequence[Encoded], seed: int, ranks: Ranks
    ) -> None:
        self.reports: list[EpochReport] = []
        self._best: Best | None = None
        self._student = student
        self._config = config
        self._inputs = inputs
        self._lengths = [len(item.input_ids) for item in inputs]
        self._seed = seed
        self._ranks = ranks
        self._plan = plan_training(config, len(inputs))
        self._model = ranks.share_gradients(student.model)
        groups = _parameter_groups(student.model, config.weight_decay)
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._plan.rate)

    @property
    def best(self) -> Best:
        """The best epoch so far, of equal ones the earliest; at least one must be finished."""
        assert self._best is not None
        return self._best

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or ``patience`` epochs brought nothing better."""
        done, patience = len(self.reports), self._config.patience
        return done >= self._plan.epochs or (patience is not None and done > 0 and done - self.best.epoch >= patience)

    def run_epoch(self, score: Callable[[], Score]) -> None:
        """Train one more epoch and score it with ``score``. All workers call this together."""
        start = time.monotonic()
        epoch = len(self.reports) + 1
        # The seed depends on the epoch, so that a repeated epoch is the same, and on the worker: with one seed for all,
        # dropout would drop the same units for rows that different workers compute.
        torch.manual_seed(self._seed + _EPOCH_STRIDE * epoch + _RANK_STRIDE * self._ranks.rank)
        self._student.model.train()
        total = torch.zeros((), device=self._ranks.device)
        for batch in plan_batches(self._lengths, self._config.batch_size, self._seed, epoch):
            total += self._step([self._inputs[place] for place in batch])
        loss = sum(self._ranks.gather(total.item())) / len(self._inputs)
        seconds = time.monotonic() - start
        select = score()
        self.reports.append(EpochReport(epoch=epoch, loss=loss, select=select.value, seconds=seconds))
        if self._best is None or select.value > self._best.select.value:
            self._best = Best(epoch=epoch, select=select, weights=_on_cpu(self._student.model.state_dict()))

    def load_best(self) -> None:
        """Put the best epoch's weights into the student."""
        self._student.model.load_state_dict(self.best.weights)

    def _step(self, batch: Sequence[Encoded]) -> torch.Tensor:
        """One optimiser step on a global batch; returns the sum of losses over this worker's rows.

        Gradients are exchanged once, with the last part of ``rows_at_once`` rows. All workers must take part: a worker
        that has no row of the batch computes the batch's first row with weight zero.
        """
        share = batch[self._ranks.rank :: self._ranks.world_size]
        size = self._config.rows_at_once or len(batch)
        parts = [share[first : first + size] for first in range(0, len(share), size)] or [batch[:1]]
        # Averaging over the workers, as the exchange does, must give the mean over the rows of the whole batch.
        weight = self._ranks.world_size / len(batch) if share else 0.0
        total = torch.zeros((), device=self._ranks.device)
        for number, part in enumerate(parts, start=1):
            with self._kept_local() if number < len(parts) else contextlib.nullcontext():
                logits = self._student.logits(part, self._model)
                summed = row_losses(logits, part, self._config.max_weight).sum()
                torch.autograd.backward(summed * weight)
            total += summed.detach() if share else 0.0
        torch.nn.utils.clip_grad_norm_(self._student.model.parameters(), MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._schedule.step()
        self._optimiser.zero_grad()
        return total

    def _kept_local(self) -> contextlib.AbstractContextManager[None]:
        """Add gradients up in this worker without exchanging them yet."""
        if isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return contextlib.nullcontext()

    def state(self) -> State:
        """All that a training needs to continue; a few times the size of the model."""
        best = self.best
        weights = _on_cpu(self._student.model.state_dict())
        return {
            "reports": [asdict(report) for report in self.reports],
            "model": weights,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "best": {
                "epoch": best.epoch,
                "select": asdict(best.select),
                "weights": weights if best.epoch == len(self.reports) else best.weights,
            },
        }

    def restore(self, state: State) -> None:
        """Continue from a ``state``."""
        self.reports = [EpochReport(**report) for report in state["reports"]]
        self._student.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        best = state["best"]
        self._best = Best(epoch=best["epoch"], select=Score(**best["select"]), weights=best["weights"])


def _on_cpu(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, biases and normalisation weights do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
