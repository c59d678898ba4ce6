"""What the generator writes down before examples: reasons behind labels, subjects, patterns of mistakes."""

import math
from collections.abc import Mapping, Sequence

from s3ray.methods import StrategyConfig
from s3ray.stage import ANY, StagePlan
from s3ray.strategies.base import NoteStage, RoundContext
from s3ray.strategies.requests import make_request
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
