"""GoldGen (S3 paper, section 3.2): the extrapolation prompt over gold rows whether or not the student errs on them.

It is the control that isolates what aiming at mistakes is worth. ``seed_examples`` rows are written as ZeroGen would,
so that a comparison with S3 at the same seed size differs in the parents alone.
"""

from collections.abc import Iterator

from s3ray.methods import StrategyConfig
from s3ray.stage import StagePlan
from s3ray.strategies.base import REASON_SETTINGS, RoundContext, reason_plan, rewrite_plan, seed_plan


class GoldGen:
    """A seed set (possibly empty), then imitations of gold rows."""

    last_round = 0
    trains_on_gold = False
    probes = ()
    seed_settings = ("name", "rows", "seed_examples", "candidates_per_row", *REASON_SETTINGS)

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    def reason_stage(self, context: RoundContext) -> StagePlan | None:
        """Reasons, as S3 asks for them, if there is a seed set to use them."""
        wanted = self.config.rationales and self.config.seed_examples and context.with_reasons
        return reason_plan(context, self.config) if wanted else None

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The seed set, then the imitations."""
        config = self.config
        if config.seed_examples:
            yield seed_plan(context, config, config.seed_examples)
        num = (config.rows or 0) - config.seed_examples
        yield rewrite_plan(context, "imitate", context.gold, num=num, candidates_per_row=config.candidates_per_row)
