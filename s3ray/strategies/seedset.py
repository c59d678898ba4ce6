"""The seed set with which most strategies begin: its settings, its notes and its examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from s3ray.methods import StrategyConfig
from s3ray.stage import StagePlan
from s3ray.strategies.base import NoteStage, RoundContext
from s3ray.strategies.neighbours import Neighbours
from s3ray.strategies.notes import reason_stage, subject_stage
from s3ray.strategies.requests import seed_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSet:
    """``num`` examples from labels or contexts, with reasons behind them, in two stages, both or neither.

    With ``has_near`` prompts get the context most like their own (``Neighbours``).
    """

    config: StrategyConfig
    num: int
    has_reasons: bool
    has_subjects: bool
    has_near: bool = False

    @property
    def settings(self) -> Mapping[str, object]:
        """All of a strategy that shapes it, and the training set that is kept beside it."""
        config = self.config
        return {
            "examples": self.num,
            "reasons": (config.reasons_per_label, config.reasons_per_prompt) if self.has_reasons else None,
            "subjects": self.has_subjects,
            "candidates_per_row": config.candidates_per_row,
            "train_on_gold": config.train_on_gold,
        } | ({"near": True} if self.has_near else {})

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Reasons and subjects, where they are wanted and the task has prompts for them."""
        if self.has_reasons and "reasons" in context.prompts:
            yield reason_stage(context, self.config)
        if self.has_subjects and "subjects" in context.prompts:
            yield subject_stage(context, self.num)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The one stage that writes it."""
        yield seed_plan(context, self.config, self.num, near=Neighbours(context).of if self.has_near else None)


def zero_shot(config: StrategyConfig, num: int, *, two_stage: bool) -> SeedSet:
    """As ZeroGen writes them, from labels and contexts alone. ``two_stage`` is what null means in the job."""
    wanted = two_stage if config.two_stage is None else config.two_stage
    return SeedSet(config=config, num=num, has_reasons=False, has_subjects=wanted)


def with_rationales(config: StrategyConfig) -> SeedSet:
    """As S3 writes them (Algorithm 1), unless the job leaves out its reasons."""
    return SeedSet(
        config=config, num=config.seed_examples, has_reasons=config.rationales, has_subjects=bool(config.two_stage)
    )
