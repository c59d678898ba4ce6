"""Gold only: the student learns from the gold rows that the other strategies may look at; nothing is generated."""

from collections.abc import Iterator

from s3ray.methods import StrategyConfig
from s3ray.stage import StagePlan
from s3ray.strategies.base import RoundContext


class Gold:
    """The gold-small baseline: the human-labelled rows, no generator."""

    last_round = 0
    trains_on_gold = True
    probes = ()
    seed_settings = ("name",)

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    def reason_stage(self, context: RoundContext) -> StagePlan | None:
        """Gold asks for no reasons."""
        return None

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """Gold writes nothing."""
        return iter(())
