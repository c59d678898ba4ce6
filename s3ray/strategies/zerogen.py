"""ZeroGen (arXiv 2202.07922), with this run's generator: examples from labels (and contexts) alone.

Single texts are written in two stages, as the authors write reviews: titles of films first, then reviews of each. Where
fields are given, they are the first stage, and ZeroGen too takes them from real data.
"""

from collections.abc import Iterator, Mapping

from s3ray.strategies.base import NoteStage, RoundContext, StagePlan, Strategy
from s3ray.strategies.seed import SeedSet, zero_shot


class ZeroGen(Strategy):
    """All rows are written without reasons and without a look at any mistake."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, self.config.rows or 0, two_stage=True)

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Those of the one set of rows."""
        return self._seeds.settings

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """All rows."""
        return self._seeds.num

    def in_words(self) -> str:
        """All rows."""
        return f"{self._seeds.num} rows"

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Subjects."""
        return self._seeds.note_stages(context)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """One stage that writes all rows."""
        return self._seeds.example_stages(context)
