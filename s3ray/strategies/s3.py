"""S3 (arXiv 2310.13671): a seed set with rationales (Algorithm 1), then error extrapolation (Algorithms 2 and 3).

Two rows of the paper's tables are special cases. "Seed only" (Table 3) is ``rounds: 0`` with as many ``seed_examples``
as S3 ends with. S3 on a ZeroGen seed set (Table 5) is ``rationales: false, two_stage: true``.
"""

from collections.abc import Iterator
from functools import partial

from s3ray.strategies.base import RoundContext, StagePlan
from s3ray.strategies.requests import Parent, ahead_plan, mistakes_plan
from s3ray.strategies.seed import SeededStrategy
from s3ray.types import Mistake


class S3(SeededStrategy):
    """Round 0 writes the seed set; every later round extrapolates the mistakes of the student before it."""

    @property
    def last_round(self) -> int:
        """The paper's R."""
        return self.config.rounds

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """The seed set, then ``per_mistake`` rows for each mistake or the round's share of ``rows``."""
        if round_ == 0:
            return self._seeds.num
        share = self._share(round_)
        return self.config.per_mistake * num_mistakes if share is None else share

    def in_words(self) -> str:
        """The number of all rows, or of seed rows if the number of mistakes decides the rest."""
        config = self.config
        size = f"{config.rows} rows" if config.rows else f"{config.seed_examples} seed rows"
        return size + (f", {config.rounds} rounds of extrapolation" if config.rounds else "")

    def num_ahead(self, round_: int, num_rows: int) -> int:
        """The share ``ahead`` of them, rounded down; none in round 1, which no student but the last precedes."""
        # 0.29 * 100 is a little less than 29.
        return int(self.config.ahead * num_rows + 1e-9) if 2 <= round_ <= self.config.rounds else 0

    def ahead_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """Extrapolations of the mistakes of the student before the last one, if the round has some (``ahead``)."""
        round_ = context.round
        if self.config.ahead and 2 <= round_ <= self.config.rounds:
            num, share = self._share(round_), partial(self.num_ahead, round_)
            plan = ahead_plan(context, self.config, num, self._parent, share)
            yield from [plan] if plan else []

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The seed set in round 0, extrapolations of mistakes afterwards."""
        if context.round == 0:
            yield from super().example_stages(context)
        else:
            num, share = self._share(context.round), partial(self.num_ahead, context.round)
            yield mistakes_plan(context, self.config, num, self._parent, share)

    def _parent(self, mistake: Mistake) -> Parent:
        """What the prompt for a mistake shows: the gold row, and not the student's wrong answer."""
        return Parent(example=mistake.example)
