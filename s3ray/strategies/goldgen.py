"""GoldGen (S3 paper, section 3.2): the extrapolation prompt for gold rows, whether the student errs on them or not.

It is the control that shows how much aiming at mistakes helps. ``seed_examples`` rows are written as S3 writes them, so
that the parents are the only difference from S3 with a seed set of the same size.
"""

from collections.abc import Iterator, Mapping

from s3ray.strategies.base import RoundContext, StagePlan
from s3ray.strategies.requests import Parent, rewrite_plan
from s3ray.strategies.seed import SeededStrategy


class GoldGen(SeededStrategy):
    """A seed set (possibly empty), then imitations of gold rows."""

    @property
    def _num_imitated(self) -> int:
        return (self.config.rows or 0) - self.config.seed_examples

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Those of the seed set, and how many imitations there are."""
        return {**self._seeds.settings, "imitated": self._num_imitated}

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """Seed set and imitations."""
        return self.config.rows or 0

    def in_words(self) -> str:
        """All rows."""
        return f"{self.config.rows} rows, {self.config.seed_examples} of them seed rows"

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The seed set, then the imitations."""
        yield from super().example_stages(context)
        parents = [Parent(example=example) for example in context.gold]
        yield rewrite_plan(context, "imitate", parents, self._num_imitated, self.config.candidates_per_row)
