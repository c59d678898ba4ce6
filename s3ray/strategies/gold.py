"""Gold only: the student learns from the gold rows that other strategies extrapolate; nothing is generated."""

from collections.abc import Mapping

from s3ray.strategies.base import TrainingSet
from s3ray.strategies.seed import SeededStrategy, SeedSet, zero_shot

GOLD_ALONE: Mapping[str, object] = {"train_on_gold": True}
"""The seed settings of a round 0 that writes nothing."""


class Gold(SeededStrategy):
    """The gold-small baseline: the human-labelled rows, an empty seed set, no generator."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, 0, two_stage=False)

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """The same for all jobs."""
        return GOLD_ALONE

    def training(self, round_: int) -> TrainingSet:
        """Gold alone."""
        return TrainingSet(gold=True, rounds=())

    def in_words(self) -> str:
        """Gold alone."""
        return "gold alone, no generator"
