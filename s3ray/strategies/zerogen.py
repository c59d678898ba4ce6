"""ZeroGen (arXiv 2202.07922), with this run's generator: examples from labels (and contexts) alone.

Single texts are written in two stages, as the authors write reviews: first titles of films, then reviews of each. Where
fields are given, these replace the first stage; ZeroGen takes them from real data too.
"""

from s3ray.strategies.seed import SeededStrategy, SeedSet, zero_shot


class ZeroGen(SeededStrategy):
    """All rows are written without reasons and without regard to mistakes."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, self.config.rows or 0, two_stage=True)

    def in_words(self) -> str:
        """All rows."""
        return f"{self._seeds.num} rows"
