"""What the generator writes down before examples: reasons behind labels, subjects, patterns of mistakes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from s3ray.config.job import StrategyConfig
from s3ray.strategies.base import ANY, NoteStage, RoundContext, StagePlan
from s3ray.strategies.neighbours import Neighbours
from s3ray.strategies.requests import make_request, seed_plan
from s3ray.tasks import NUM_LISTED
from s3ray.types import Example

_ASKED_PER_KEPT = 4
"""Items asked for per item kept: they repeat, and small models list few."""
_ROWS_PER_SUBJECT = 32
"""As in ZeroGen's published script, which writes so many texts per title."""
_MIN_SUBJECTS = 100
"""Fewest subjects, so that small seed sets are as varied as large ones."""
_PATTERN_TRIES = 3
_PHRASES_PER_PATTERN = 2


def reason_stage(context: RoundContext, config: StrategyConfig) -> NoteStage:
    """Ask often enough for K reasons per label (Algorithm 1, step 1)."""
    labels = context.task.labels
    num = _num_requests(config.reasons_per_label) * len(labels)
    requests = (
        make_request(
            context,
            "reasons",
            index,
            template="reasons",
            label=labels[index % len(labels)],
            variant=index // len(labels),
        )
        for index in range(num)
    )
    plan = StagePlan(name="reasons", requests=requests)
    return NoteStage(plan=plan, keys=labels, num_each=config.reasons_per_label)


def subject_stage(context: RoundContext, num_rows: int) -> NoteStage:
    """Ask often enough for the subjects of ``num_rows`` seed examples (ZeroGen, arXiv 2202.07922, its first stage)."""
    num_subjects = max(_MIN_SUBJECTS, math.ceil(num_rows / _ROWS_PER_SUBJECT))
    draw = context.generator("subjects")
    requests = (
        make_request(
            context,
            "subjects",
            index,
            template="subjects",
            attributes={name: draw.choice(values) for name, values in context.task.attributes.items()},
            variant=index,
        )
        for index in range(_num_requests(num_subjects))
    )
    plan = StagePlan(name="subjects", requests=requests)
    return NoteStage(plan=plan, keys=[ANY], num_each=num_subjects)


def pattern_stage(context: RoundContext, members: Mapping[str, Sequence[Example]]) -> NoteStage:
    """Ask what the members of each cluster of mistakes have in common; a pattern is one phrase or two."""
    keys = list(members)
    requests = (
        make_request(
            context,
            "patterns",
            index,
            template="patterns",
            shown=members[keys[index % len(keys)]],
            variant=index // len(keys),
        )
        for index in range(_PATTERN_TRIES * len(keys))
    )
    plan = StagePlan(name="patterns", requests=requests)
    return NoteStage(plan=plan, keys=keys, num_each=_PHRASES_PER_PATTERN)


def _num_requests(num_kept: int) -> int:
    return _ASKED_PER_KEPT * math.ceil(num_kept / NUM_LISTED)


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
