"""What a strategy is given and what it answers; the sequences of requests that several strategies share."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import xxhash

from s3ray.methods import StrategyConfig
from s3ray.mistakes import Mistakes
from s3ray.stage import ANY, StagePlan
from s3ray.tasks import NUM_REASONS, Task
from s3ray.tasks.gold import Context
from s3ray.types import NOT_YET, Example, GenerationRequest, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """What a strategy may look at in one round.

    ``gold`` is the extrapolation part; the other parts stay out of sight. ``contexts`` are what seed examples are
    written for, where the generator writes only one of several fields.
    ``fingerprint`` and ``seed`` make request ids and random draws repeatable; ``reasons`` are those kept per label.
    """

    round: int
    task: Task
    gold: Sequence[Example]
    contexts: Sequence[Context] = ()
    mistakes: Mistakes = field(default_factory=Mistakes)
    reasons: Mapping[str, Sequence[str]] = field(default_factory=dict)
    with_reasons: bool = False
    fingerprint: str
    seed: int

    def generator(self, *names: object) -> random.Random:
        """A random generator that depends on the run's seed, the round and ``names`` only."""
        return random.Random(xxhash.xxh64_intdigest(repr((self.seed, self.round, *names)).encode()))


class Strategy(Protocol):
    """Plans the stages of each round, lazily: a stage is asked for when the one before it has ended."""

    def __init__(self, config: StrategyConfig) -> None: ...

    @property
    def seed_settings(self) -> tuple[str, ...]:
        """The fields of ``strategy`` that shape round 0, beside task, gold, generator and curation."""
        ...

    @property
    def last_round(self) -> int:
        """Number of the last round; round 0 is the seed set, so the paper's R (equation in section 2.5)."""
        ...

    @property
    def trains_on_gold(self) -> bool:
        """Whether the training set is gold itself."""
        ...

    @property
    def probes(self) -> tuple[str, ...]:
        """What each student is to look at for the next round: ``gold`` (the extrapolation part), ``train``, both."""
        ...

    def reason_stage(self, context: RoundContext) -> StagePlan | None:
        """The stage that writes reasons behind labels (Algorithm 1, step 1), if this round begins with one."""
        ...

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The stages of a round that write examples."""
        ...


REASON_SETTINGS = ("rationales", "reasons_per_label", "reasons_per_prompt")


def make_request(
    context: RoundContext,
    stage: str,
    index: int,
    *,
    template: str,
    label: str | None = None,
    given: Mapping[str, str] | None = None,
    answer: Span | None = None,
    reasons: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
    parent: Example | None = None,
    variant: int = 0,
) -> GenerationRequest:
    """A request whose id and sampling seed come from its content, never from engines, order or time."""
    given, attributes = dict(given or {}), dict(attributes or {})
    parent_id = parent.id if parent else None
    content = (label, sorted(given.items()), answer, tuple(reasons), sorted(attributes.items()), parent_id, variant)
    identity = (context.fingerprint, context.round, stage, template, index, content)
    digest = xxhash.xxh128_hexdigest(repr(identity).encode())
    group = xxhash.xxh64_hexdigest(repr((stage, label, sorted(given.items()), parent_id)).encode())
    return GenerationRequest(
        id=digest,
        index=index,
        stage=stage,
        round=context.round,
        template=template,
        label=label,
        context=given,
        answer=answer,
        reasons=tuple(reasons),
        attributes=attributes,
        parent=parent,
        variant=variant,
        group=group,
        seed=int(digest[:8], 16) & 0x7FFFFFFF,
    )


def reason_plan(context: RoundContext, config: StrategyConfig) -> StagePlan:
    """Ask often enough for K reasons per label (Algorithm 1, step 1).

    Four times as many are asked for as are kept, because reasons repeat and small models list few.
    """
    num_each = 4 * math.ceil(config.reasons_per_label / NUM_REASONS)
    labels = [label for _ in range(num_each) for label in context.task.labels]
    requests = (
        make_request(
            context, "reasons", index, template="reasons", label=label, variant=index // len(context.task.labels)
        )
        for index, label in enumerate(labels)
    )
    return StagePlan(name="reasons", requests=requests)


def seed_plan(context: RoundContext, config: StrategyConfig, num: int) -> StagePlan:
    """Write ``num`` examples from labels (Algorithm 1) or from contexts and labels (paper, section 2.4)."""
    return StagePlan(
        name="seed",
        requests=_seed_requests(context, config),
        quota=_even_quota(context.task.labels, num),
        max_requests=math.ceil(num * config.candidates_per_row),
    )


def _even_quota(labels: Sequence[str], num: int) -> dict[str, int]:
    if not labels:
        return {ANY: num}
    share, rest = divmod(num, len(labels))
    return {label: share + (place < rest) for place, label in enumerate(labels)}


def _seed_requests(context: RoundContext, config: StrategyConfig) -> Iterator[GenerationRequest]:
    """An endless sequence; labels take turns, so that every prefix is as balanced as uniform draws are on average."""
    task, labels = context.task, context.task.labels
    draw = context.generator("seed")
    index = 0
    while True:
        label = labels[index % len(labels)] if labels else None
        given = draw.choice(context.contexts) if task.context_fields else None
        reasons = context.reasons.get(label or ANY, ())
        num_reasons = min(config.reasons_per_prompt, len(reasons))
        yield make_request(
            context,
            "seed",
            index,
            template="seed",
            label=label,
            given=given.fields if given else None,
            answer=given.answer if given else None,
            reasons=draw.sample(list(reasons), num_reasons),
            attributes={name: draw.choice(values) for name, values in task.attributes.items()},
            variant=index,
        )
        index += 1


def rewrite_each_plan(
    context: RoundContext, stage: str, blocks: Iterable[Sequence[Example] | None], per_parent: int
) -> StagePlan:
    """Write ``per_parent`` examples like each parent, with its label and context (Algorithms 2 and 3).

    A block that is None is not known yet. Parents are shuffled within their block, so that the sequence is the same
    whenever the blocks come.
    """
    return StagePlan(name=stage, requests=_each_once(context, stage, blocks, per_parent))


def rewrite_plan(
    context: RoundContext, stage: str, parents: Sequence[Example], num: int, candidates_per_row: float = 1.0
) -> StagePlan:
    """Write ``num`` examples like ``parents``, with their labels and contexts, going over them again and again."""
    if not parents:
        return StagePlan(name=stage, requests=iter(()), quota={ANY: num})
    each = max(1, num // len(parents))  # at most, so that every parent has its turn before the quota is full
    max_requests = math.ceil(num * candidates_per_row)
    num_passes = math.ceil(max_requests / (each * len(parents)))
    requests = _again_and_again(context, stage, parents, each, num_passes)
    return StagePlan(name=stage, requests=requests, quota={ANY: num}, max_requests=max_requests)


def _each_once(
    context: RoundContext, stage: str, blocks: Iterable[Sequence[Example] | None], per_parent: int
) -> Iterator[GenerationRequest]:
    index = num_block = 0
    for parents in blocks:
        if parents is None:
            yield NOT_YET
            continue
        yield from _rewrites(context, stage, parents, range(per_parent), context.generator(stage, num_block), index)
        index += len(parents) * per_parent
        num_block += 1


def _again_and_again(
    context: RoundContext, stage: str, parents: Sequence[Example], each: int, num_passes: int
) -> Iterator[GenerationRequest]:
    draw = context.generator(stage)
    for num_pass in range(num_passes):
        variants = range(num_pass * each, (num_pass + 1) * each)
        yield from _rewrites(context, stage, parents, variants, draw, num_pass * each * len(parents))


def _rewrites(
    context: RoundContext, stage: str, parents: Sequence[Example], variants: range, draw: random.Random, index: int
) -> Iterator[GenerationRequest]:
    """All variants of each parent, from a place of the sequence on; a parent's follow each other and share a prefix."""
    task = context.task
    for parent in draw.sample(list(parents), len(parents)):
        for variant in variants:
            yield make_request(
                context,
                stage,
                index,
                template="extrapolate",
                label=parent.label,
                given={name: parent.fields[name] for name in task.context_fields},
                answer=parent.answers[0] if parent.answers else None,
                attributes={name: draw.choice(values) for name, values in task.attributes.items()},
                parent=parent,
                variant=variant,
            )
            index += 1
