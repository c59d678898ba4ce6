"""LLM2LLM (arXiv 2403.15042): begin with gold, then extrapolate mistakes with the student's wrong answer shown.

Mistakes are mined on gold alone, never on synthetic rows, and the student is trained on gold and all additions. As in
the authors' code, near copies are rejected from a ROUGE-L of 0.95 (``curation.rouge_l``, this strategy's preset).
"""

from collections.abc import Mapping

from s3ray.strategies.base import TrainingSet
from s3ray.strategies.gold import GOLD_ALONE
from s3ray.strategies.requests import Parent
from s3ray.strategies.s3 import S3
from s3ray.strategies.seed import SeedSet, zero_shot
from s3ray.types import Mistake


class LLM2LLM(S3):
    """S3 with an empty seed set: the first student learns from gold, and later rounds extrapolate mistakes on gold."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, 0, two_stage=False)

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """The same for all jobs: round 0 writes nothing."""
        return GOLD_ALONE

    def training(self, round_: int) -> TrainingSet:
        """Gold and all additions so far."""
        return TrainingSet(gold=True, rounds=range(1, round_ + 1))

    def in_words(self) -> str:
        """The size of what is added to gold."""
        added = f"{self.config.rows} rows" if self.config.rows else f"{self.config.per_mistake} row(s) per mistake"
        return f"gold and {added}, {self.config.rounds} rounds of extrapolation"

    def _parent(self, mistake: Mistake) -> Parent:
        return Parent(example=mistake.example, predicted=mistake.predicted)
