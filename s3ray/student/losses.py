"""What a row costs the student: cross entropy with hard or soft labels, weighed by what a checker thinks of the row."""

from collections.abc import Sequence
from math import nan

import torch
from torch.nn.functional import cross_entropy, one_hot

from s3ray.student.encode import Encoded

Logits = tuple[torch.Tensor, ...]
"""Labels' scores ``(batch, labels)``, or those of first and last token, ``(batch, longest)`` each."""


def row_losses(logits: Logits, batch: Sequence[Encoded], max_weight: float) -> torch.Tensor:
    """One loss per input, shape ``(batch,)``: cross entropy, averaged over first and last token for spans.

    With soft labels s it is ``- sum_k s_k log P_student(k | x)``. Each is multiplied by the input's weight.
    """
    parts = [cross_entropy(scores, _goal(scores, batch, part), reduction="none") for part, scores in enumerate(logits)]
    losses = torch.stack(parts).mean(dim=0)
    return losses if all(item.believed is None for item in batch) else losses * weights(logits, batch, max_weight)


def weights(logits: Logits, batch: Sequence[Encoded], max_weight: float) -> torch.Tensor:
    """How much each input's loss counts, shape ``(batch,)``: the dynamic importance weights of DIMP (arXiv 2410.21526).

    ``w = min(max_weight, P_checker(y | x) / P_student(y | x))``, where y is the row's own label or answer, P_student
    is of the very forward pass whose loss is weighed, and no gradient flows through it. Inputs that the checker was
    not asked about, gold's, have weight 1. The weights are not normalised: a step minimises the mean over its rows of
    weight times loss.
    """
    believed = torch.tensor([nan if item.believed is None else item.believed for item in batch])
    believed = believed.to(logits[0].device)
    own = target_probabilities(logits, batch).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(believed.isnan(), 1.0, (believed / own).clamp(max=max_weight))


@torch.no_grad()
def target_probabilities(logits: Logits, batch: Sequence[Encoded]) -> torch.Tensor:
    """The probability of each input's target, shape ``(batch,)``: of first times last token for spans."""
    targets = torch.tensor([item.target for item in batch], device=logits[0].device)
    parts = [scores.softmax(dim=-1).gather(1, targets[:, [part]])[:, 0] for part, scores in enumerate(logits)]
    return torch.stack(parts).prod(dim=0)


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
