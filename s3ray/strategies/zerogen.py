"""ZeroGen (arXiv 2202.07922), with this run's generator: examples from labels (and contexts) alone, in one go."""

from collections.abc import Iterator

from s3ray.methods import StrategyConfig
from s3ray.stage import StagePlan
from s3ray.strategies.base import RoundContext, seed_plan


class ZeroGen:
    """All rows are written without reasons and without a look at any mistake."""

    last_round = 0
    trains_on_gold = False
    probes = ()
    seed_settings = ("name", "rows", "candidates_per_row")

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    def reason_stage(self, context: RoundContext) -> StagePlan | None:
        """ZeroGen asks for no reasons."""
        return None

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """One stage that writes all rows."""
        yield seed_plan(context, self.config, self.config.rows or 0)
