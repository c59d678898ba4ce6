"""LLM2LLM (arXiv 2403.15042): begin with gold, extrapolate what the student gets wrong, the wrong answer shown.

Mistakes are mined on gold alone, never on written rows, and the student is trained on gold and all additions. Near
copies are rejected from ROUGE-L 0.95 on (``curation.rouge_l``, the preset of this strategy), as in the authors' code.
"""

from collections.abc import Iterator, Mapping

from s3ray.strategies.base import RoundContext, StagePlan, Strategy, TrainingSet
from s3ray.strategies.gold import GOLD_ALONE
from s3ray.strategies.requests import Parent, mistakes_plan


class LLM2LLM(Strategy):
    """Round 0 writes nothing: its student learns from gold. Every later round writes from mistakes on gold."""

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Nothing shapes round 0."""
        return GOLD_ALONE

    @property
    def last_round(self) -> int:
        """The number of augmentations."""
        return self.config.rounds

    def training(self, round_: int) -> TrainingSet:
        """Gold and all additions so far."""
        return TrainingSet(gold=True, rounds=range(1, round_ + 1))

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """Nothing first, then the round's share of ``rows``, or ``per_mistake`` rows for each mistake."""
        if round_ == 0:
            return 0
        share = self._share(round_)
        return self.config.per_mistake * num_mistakes if share is None else share

    def in_words(self) -> str:
        """Gold, and what is added to it."""
        added = f"{self.config.rows} rows" if self.config.rows else f"{self.config.per_mistake} row(s) per mistake"
        return f"gold and {added}, {self.config.rounds} rounds of extrapolation"

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """Extrapolations, from round 1 on."""
        if context.round:
            yield mistakes_plan(
                context,
                self.config,
                self._share(context.round),
                lambda mistake: Parent(example=mistake.example, predicted=mistake.predicted),
            )

    def _share(self, round_: int) -> int | None:
        if self.config.rows is None:
            return None
        share, rest = divmod(self.config.rows, self.config.rounds)
        return share + (round_ <= rest)
