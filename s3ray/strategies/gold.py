"""Gold only: the student learns from the gold rows that the other strategies may look at; nothing is generated."""

from collections.abc import Iterator, Mapping

from s3ray.strategies.base import RoundContext, StagePlan, Strategy, TrainingSet

GOLD_ALONE: Mapping[str, object] = {"train_on_gold": True}
"""The seed settings of a round 0 that writes nothing."""


class Gold(Strategy):
    """The gold-small baseline: the human-labelled rows, no generator."""

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Nothing shapes it."""
        return GOLD_ALONE

    def training(self, round_: int) -> TrainingSet:
        """Gold alone."""
        return TrainingSet(gold=True, rounds=())

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """None."""
        return 0

    def in_words(self) -> str:
        """Gold alone."""
        return "gold alone, no generator"

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """Gold writes nothing."""
        return iter(())
