"""S3's additions on another seed set (S3 paper, Table 5, "existing additions"): do they help there too?

The rounds are S3's. Then a ZeroGen seed set is written, and the last student learns from that set and from the
additions of S3's rounds, but not from S3's own seed set.
"""

from collections.abc import Iterator

from s3ray.strategies.base import NoteStage, RoundContext, StagePlan, TrainingSet
from s3ray.strategies.s3 import S3
from s3ray.strategies.seed import SeedSet, zero_shot


class Transfer(S3):
    """S3, then a last round that writes another seed set."""

    @property
    def _other_seeds(self) -> SeedSet:
        return zero_shot(self.config, self.config.seed_examples, two_stage=True)

    @property
    def last_round(self) -> int:
        """The round after S3's last one."""
        return self.config.rounds + 1

    def training(self, round_: int) -> TrainingSet:
        """All so far, but in the last round without S3's seed set."""
        first = 1 if round_ == self.last_round else 0
        return TrainingSet(gold=self.config.train_on_gold, rounds=range(first, round_ + 1))

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """As S3, and in the last round a seed set as large as S3's."""
        return super().num_rows(0 if round_ == self.last_round else round_, num_mistakes)

    def in_words(self) -> str:
        """As S3, and the last round."""
        return f"{super().in_words()}, then another seed set of {self.config.seed_examples} rows for the additions"

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """As S3, and in the last round subjects."""
        is_last = context.round == self.last_round
        return self._other_seeds.note_stages(context) if is_last else super().note_stages(context)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """As S3, and in the last round the other seed set."""
        is_last = context.round == self.last_round
        return self._other_seeds.example_stages(context) if is_last else super().example_stages(context)
