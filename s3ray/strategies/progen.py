"""ProGen (arXiv 2210.12329): the rows that helped the student most are shown in the prompts of the next ones.

Round 0 is zero-shot. Each later round ranks the written rows by influence on a held-out part of them (``influence``);
of each label the best 50 that help at all are the pool. Half of the prompts show 8 of the label's pool, half none. The
last student learns from all rows. As in the authors' code at most 1000 rows are held out; here they are a tenth, and
the student has seen them, since it is trained on all rows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from s3ray.probes import Probes
from s3ray.stage import StagePlan
from s3ray.strategies.base import NoteStage, RoundContext, Strategy
from s3ray.strategies.influence import helpfulness
from s3ray.strategies.requests import seed_plan
from s3ray.strategies.seedset import SeedSet, zero_shot
from s3ray.types import Example

POOL_SIZE = 50
"""Rows of each label that may be shown."""
NUM_SHOWN = 8
"""Rows shown in one prompt."""
_VALIDATION_SHARE = 0.1
_MAX_VALIDATION = 1000


class ProGen(Strategy):
    """A zero-shot set, then rounds in which helpful rows are examples for more of their label. Labels only."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, self.config.seed_examples, two_stage=False)

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Those of the zero-shot set."""
        return self._seeds.settings

    @property
    def last_round(self) -> int:
        """The number of times that feedback is taken."""
        return self.config.rounds

    @property
    def probes(self) -> tuple[str, ...]:
        """The written rows."""
        return ("train",)

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """The zero-shot set, then the round's share of ``rows``."""
        return (self._share(round_) or 0) if round_ else self._seeds.num

    @property
    def reads_rows(self) -> bool:
        """Prompts show them."""
        return True

    def in_words(self) -> str:
        """Rows in all."""
        return f"{self.config.rows} rows, {self.config.rounds} rounds of feedback"

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Subjects, where the job asks for two stages."""
        return self._seeds.note_stages(context)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """One stage a round."""
        if context.round == 0:
            yield from self._seeds.example_stages(context)
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
    place = {id_: number for number, id_ in enumerate(probes.ids)}
    seen = [place[row.id] for row in rows]
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
