"""GoldGen (S3 paper, section 3.2): the extrapolation prompt over gold rows whether or not the student errs on them.

It is the control that isolates what aiming at mistakes is worth. ``seed_examples`` rows are written as S3 would, so
that a comparison with S3 at the same seed size differs in the parents alone.
"""

from collections.abc import Iterator, Mapping

from s3ray.strategies.base import NoteStage, RoundContext, StagePlan, Strategy
from s3ray.strategies.requests import Parent, rewrite_plan
from s3ray.strategies.seed import SeedSet, with_rationales


class GoldGen(Strategy):
    """A seed set (possibly empty), then imitations of gold rows."""

    @property
    def _seeds(self) -> SeedSet:
        return with_rationales(self.config)

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

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Reasons, as S3 asks for them, if there is a seed set to use them."""
        return self._seeds.note_stages(context) if self._seeds.num else iter(())

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The seed set, then the imitations."""
        if self._seeds.num:
            yield from self._seeds.example_stages(context)
        parents = [Parent(example=example) for example in context.gold]
        yield rewrite_plan(context, "imitate", parents, self._num_imitated, self.config.candidates_per_row)
