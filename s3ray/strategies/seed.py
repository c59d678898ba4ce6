"""Seed sets, and the notes that the generator writes before examples: reasons, subjects, patterns of mistakes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s3ray.config.job import StrategyConfig
from s3ray.strategies.base import ANY, NoteStage, RoundContext, StagePlan, Strategy
from s3ray.strategies.neighbours import Neighbours
from s3ray.strategies.requests import make_request, seed_plan
from s3ray.tasks import NUM_LISTED
from s3ray.types import Example

_ASKED_PER_KEPT = 4
"""Items asked for per item kept: they repeat, and small models list few."""
_ROWS_PER_SUBJECT = 32
"""As in ZeroGen's published script, which writes 32 texts per title."""
_MIN_SUBJECTS = 100
"""Fewest subjects, so that small seed sets are as varied as large ones."""
_PATTERN_TRIES = 3
_PHRASES_PER_PATTERN = 2


def _note_stage(
    context: RoundContext,
    name: str,
    keys: Sequence[str],
    num_requests: int,
    num_each: int,
    fields: Callable[[str], Mapping[str, Any]],
) -> NoteStage:
    """A note stage whose keys take turns; ``fields`` returns the arguments of ``make_request`` for a key."""
    requests = (
        make_request(context, name, index, template=name, variant=index // len(keys), **fields(keys[index % len(keys)]))
        for index in range(num_requests)
    )
    return NoteStage(plan=StagePlan(name=name, requests=requests), keys=keys, num_each=num_each)


def pattern_stage(context: RoundContext, members: Mapping[str, Sequence[Example]]) -> NoteStage:
    """Ask what the members of each cluster of mistakes have in common; one or two phrases are kept per cluster."""
    keys, num_requests = list(members), _PATTERN_TRIES * len(members)
    return _note_stage(
        context, "patterns", keys, num_requests, _PHRASES_PER_PATTERN, lambda key: {"shown": members[key]}
    )


def _num_requests(num_kept: int) -> int:
    return _ASKED_PER_KEPT * math.ceil(num_kept / NUM_LISTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSet:
    """``num`` examples written from labels or contexts.

    ``has_reasons``: prompts quote reasons for their label. ``has_subjects``: the generator lists subjects first, and
    prompts name one. ``has_near``: prompts get the context most similar to their own (``Neighbours``).
    """

    config: StrategyConfig
    num: int
    has_reasons: bool
    has_subjects: bool
    has_near: bool = False

    @property
    def settings(self) -> Mapping[str, object]:
        """All settings of a strategy that shape the seed set or the training set of its round."""
        config = self.config
        return {
            "examples": self.num,
            "reasons": (config.reasons_per_label, config.reasons_per_prompt) if self.has_reasons else None,
            "subjects": self.has_subjects,
            "candidates_per_row": config.candidates_per_row,
            "train_on_gold": config.train_on_gold,
        } | ({"near": True} if self.has_near else {})

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Reasons (Algorithm 1, step 1) and subjects (ZeroGen's first stage), if wanted and the task has prompts."""
        labels, num_reasons = context.task.labels, self.config.reasons_per_label
        if self.has_reasons and "reasons" in context.prompts:
            num_requests = _num_requests(num_reasons) * len(labels)
            yield _note_stage(context, "reasons", labels, num_requests, num_reasons, lambda label: {"label": label})
        if self.has_subjects and "subjects" in context.prompts:
            num_subjects = max(_MIN_SUBJECTS, math.ceil(self.num / _ROWS_PER_SUBJECT))
            draw = context.generator("subjects")

            def fields(key: str) -> Mapping[str, Any]:
                return {"attributes": {name: draw.choice(values) for name, values in context.task.attributes.items()}}

            yield _note_stage(context, "subjects", [ANY], _num_requests(num_subjects), num_subjects, fields)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The one stage that writes the seed set."""
        yield seed_plan(context, self.config, self.num, near=Neighbours(context).of if self.has_near else None)


def zero_shot(config: StrategyConfig, num: int, *, two_stage: bool) -> SeedSet:
    """A seed set from labels and contexts alone, as in ZeroGen. ``two_stage`` applies where the job's own is null."""
    wanted = two_stage if config.two_stage is None else config.two_stage
    return SeedSet(config=config, num=num, has_reasons=False, has_subjects=wanted)


class SeededStrategy(Strategy):
    """A strategy whose round 0 writes a seed set, by default as S3 does (Algorithm 1); there are no other rounds."""

    @property
    def _seeds(self) -> SeedSet:
        return SeedSet(
            config=self.config,
            num=self.config.seed_examples,
            has_reasons=self.config.rationales,
            has_subjects=bool(self.config.two_stage),
        )

    @property
    def seed_settings(self) -> Mapping[str, object]:
        """Those of the seed set."""
        return self._seeds.settings

    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """The seed set."""
        return self._seeds.num

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """Those of the seed set, unless it is empty."""
        return self._seeds.note_stages(context) if context.round == 0 and self._seeds.num else iter(())

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The seed set, unless it is empty."""
        return self._seeds.example_stages(context) if self._seeds.num else iter(())

    def _share(self, round_: int) -> int | None:
        """This round's equal share of the ``rows`` beyond the seed set; None without ``rows``.

        Where ``rows`` is given, it must exceed the size of the seed set.
        """
        if self.config.rows is None:
            return None
        share, rest = divmod(self.config.rows - self._seeds.num, self.config.rounds)
        return share + (round_ <= rest)
