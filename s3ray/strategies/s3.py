"""S3 (arXiv 2310.13671): a seed set with rationales (Algorithm 1), then error extrapolation (Algorithms 2 and 3)."""

from collections.abc import Iterable, Iterator, Sequence

from s3ray.methods import StrategyConfig
from s3ray.stage import StagePlan
from s3ray.strategies.base import REASON_SETTINGS, RoundContext, reason_plan, rewrite_each_plan, rewrite_plan, seed_plan
from s3ray.types import Example, Mistake


class S3:
    """Round 0 writes the seed set; every later round writes from the mistakes of the student before it."""

    trains_on_gold = False
    probes = ()
    seed_settings = ("name", "seed_examples", "candidates_per_row", *REASON_SETTINGS)

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    @property
    def last_round(self) -> int:
        """The paper's R."""
        return self.config.rounds

    def reason_stage(self, context: RoundContext) -> StagePlan | None:
        """Reasons behind each label, before the seed set, for tasks that have a prompt for them."""
        wanted = context.round == 0 and self.config.rationales and context.with_reasons
        return reason_plan(context, self.config) if wanted else None

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The seed set in round 0, extrapolations of mistakes afterwards."""
        config = self.config
        if context.round == 0:
            yield seed_plan(context, config, config.seed_examples)
            return
        if config.rows is None:
            yield rewrite_each_plan(context, "extrapolate", _examples(context.mistakes.blocks()), config.per_mistake)
            return
        # How often each mistake is shown depends on how many there are.
        parents = [mistake.example for mistake in context.mistakes.all()]
        num = self._share(config.rows - config.seed_examples, context.round)
        yield rewrite_plan(context, "extrapolate", parents, num=num, candidates_per_row=config.candidates_per_row)

    def _share(self, num: int, round_: int) -> int:
        """This round's part of ``num`` rows, shared evenly over the rounds."""
        share, rest = divmod(num, self.config.rounds)
        return share + (round_ <= rest)


def _examples(blocks: Iterable[Sequence[Mistake] | None]) -> Iterator[Sequence[Example] | None]:
    for block in blocks:
        yield None if block is None else [mistake.example for mistake in block]
