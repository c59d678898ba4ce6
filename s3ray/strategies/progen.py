"""ProGen (arXiv 2210.12329): the rows that helped the student most are shown in the prompts of later rounds.

Round 0 is zero-shot. Each later round ranks the synthetic rows by their influence on a held-out part of them. The best
50 rows of each label, of those that help at all, are its pool. Half of the prompts show 8 rows of the label's pool, the
others none. The last student learns from all rows. As in the authors' code at most 1000 rows are held out; here they
are a tenth, and the student has seen them, since it is trained on all rows.

The influence of a training row z on the validation loss is ``-g_val . H^-1 . g_z`` (Koh and Liang, 2017), where g are
gradients of the loss and H is its Hessian. Validation labels are synthetic too and may be wrong, so ProGen takes the
reverse cross-entropy there, which is linear in the probability of the label and so bounded.

There are two simplifications. Gradients are those of the student's last layer alone. And H is left out: the authors'
code damps it by 50 (5e-3 times a scale of 1e4), so as long as the eigenvalues of H are small compared with 50, their
ranking too is that of the inner products ``g_val . g_z``.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from s3ray.strategies.base import NoteStage, RoundContext, StagePlan
from s3ray.strategies.probes import Probes
from s3ray.strategies.requests import seed_plan
from s3ray.strategies.seed import SeededStrategy, SeedSet, zero_shot
from s3ray.types import Example

Matrix = npt.NDArray[np.float64]


def helpfulness(
    probabilities: Matrix,
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    is_validation: npt.NDArray[np.bool_],
) -> Matrix:
    """How much a step on each row lowers the mean validation loss, to first order; above 0 it helps.

    Shapes: ``probabilities`` (rows, labels), ``features`` (rows, width) as the last layer reads them, ``labels`` (rows)
    as column numbers of ``probabilities``, ``is_validation`` (rows). Returns an array of shape (rows).

    For logits ``z = W f + b`` with probabilities q and label y, d CE/dz = q - e_y and d RCE/dz = q_y (q - e_y), up to
    a factor that is the same for all rows. The gradients of W and b are these times the features and times 1.
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    inputs = np.hstack([features.astype(np.float64), np.ones((len(features), 1))])
    errors = probabilities - one_hot
    of_truth = np.sum(probabilities * one_hot, axis=1, keepdims=True)
    held_out = np.flatnonzero(is_validation)
    validation = (of_truth * errors)[held_out].T @ inputs[held_out] / max(1, len(held_out))
    result: Matrix = np.einsum("nl,lw,nw->n", errors, validation, inputs, optimize=True)
    return result


POOL_SIZE = 50
"""Rows of each label that may be shown."""
NUM_SHOWN = 8
"""Rows shown in one prompt."""
_VALIDATION_SHARE = 0.1
_MAX_VALIDATION = 1000


class ProGen(SeededStrategy):
    """A zero-shot set, then rounds whose prompts show helpful rows of the same label. For tasks with labels only."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, self.config.seed_examples, two_stage=False)

    @property
    def last_round(self) -> int:
        """The number of rounds with feedback."""
        return self.config.rounds

    @property
    def probes(self) -> tuple[str, ...]:
        """The synthetic rows that it was trained on."""
        return ("train",)

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """The zero-shot set, then the round's share of ``rows``."""
        return (self._share(round_) or 0) if round_ else self._seeds.num

    @property
    def reads_rows(self) -> bool:
        """True, because prompts show them."""
        return True

    def in_words(self) -> str:
        """The number of all rows."""
        return f"{self.config.rows} rows, {self.config.rounds} rounds of feedback"

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Subjects in every round, if the job asks for two stages."""
        return self._seeds.note_stages(context)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """One stage a round."""
        if context.round == 0:
            yield from super().example_stages(context)
            return
        pool = best_rows(context, context.synthetic(), context.probes("train"))
        draw = context.generator("shown")

        def shown(index: int, label: str | None) -> Sequence[Example]:
            num_labels = len(context.task.labels)
            best = pool[label or ""] if index // num_labels % 2 == 0 else []
            return draw.sample(best, min(NUM_SHOWN, len(best)))

        yield seed_plan(context, self.config, self.num_rows(context.round, 0), shown)


def best_rows(context: RoundContext, rows: Sequence[Example], probes: Probes) -> dict[str, list[Example]]:
    """The rows of each label that helped most, the best first."""
    labels = context.task.labels
    held_out = min(_MAX_VALIDATION, math.ceil(_VALIDATION_SHARE * len(rows)))
    validation = set(context.generator("validation").sample(range(len(rows)), held_out))
    seen = probes.places(rows)
    scores = helpfulness(
        probes.probabilities[seen],
        probes.features[seen],
        np.array([labels.index(row.label or "") for row in rows], dtype=np.int64),
        np.array([number in validation for number in range(len(rows))]),
    )
    ranked = [int(number) for number in np.argsort(-scores, kind="stable") if scores[number] > 0]
    pool: dict[str, list[Example]] = {label: [] for label in labels}
    for number in ranked:
        best = pool[rows[number].label or ""]
        if number not in validation and len(best) < POOL_SIZE:
            best.append(rows[number])
    return pool
