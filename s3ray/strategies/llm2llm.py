"""LLM2LLM (arXiv 2403.15042): begin with gold, extrapolate what the student gets wrong, the wrong answer shown.

Mistakes are mined on gold alone, never on written rows, and the student is trained on gold and all additions. Near
copies are rejected from ROUGE-L 0.95 on (``curation.rouge_l``, the preset of this strategy), as in the authors' code.
"""

from collections.abc import Mapping

from s3ray.strategies.base import TrainingSet
from s3ray.strategies.gold import GOLD_ALONE
from s3ray.strategies.requests import Parent
from s3ray.strategies.s3 import S3
from s3ray.strategies.seed import SeedSet, zero_shot
from s3ray.types import Mistake


class LLM2LLM(S3):
    """As S3 with an empty seed set: the first student learns from gold, later rounds write from mistakes on gold."""

    @property
    def _seeds(self) -> SeedSet:
        return zero_shot(self.config, 0, two_stage=False)

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Nothing shapes round 0."""
        return GOLD_ALONE

    def training(self, round_: int) -> TrainingSet:
        """Gold and all additions so far."""
        return TrainingSet(gold=True, rounds=range(1, round_ + 1))

    def in_words(self) -> str:
        """Gold, and what is added to it."""
        added = f"{self.config.rows} rows" if self.config.rows else f"{self.config.per_mistake} row(s) per mistake"
        return f"gold and {added}, {self.config.rounds} rounds of extrapolation"

    def _parent(self, mistake: Mistake) -> Parent:
        return Parent(example=mistake.example, predicted=mistake.predicted)
