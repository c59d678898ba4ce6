"""The sequences of requests that strategies share: seed sets, and texts that resemble gold rows."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import xxhash

from s3ray.config.job import StrategyConfig
from s3ray.strategies.base import ANY, RoundContext, StagePlan
from s3ray.tasks.spec import SUBJECT
from s3ray.types import AHEAD, NOT_YET, Example, GenerationRequest, Mistake, Span

Shown = Callable[[int, str | None], Sequence[Example]]
"""Returns the examples that a seed prompt shows, for the index of the request and its label."""
Near = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Returns the given fields of another row that are most similar to these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A gold row to imitate, and what else its prompt shows (see ``GenerationRequest``)."""

    example: Example
    predicted: str | None = None
    pattern: str = ""
    shown: tuple[Example, ...] = ()
    near: Mapping[str, str] = field(default_factory=dict)


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
    parent: Parent | None = None,
    shown: Sequence[Example] = (),
    near: Mapping[str, str] | None = None,
    variant: int = 0,
) -> GenerationRequest:
    """Make a request. Its id and sampling seed depend on its content alone, never on engines, order or time."""
    given, attributes = dict(given or {}), dict(attributes or {})
    parent_id = parent.example.id if parent else None
    predicted, pattern = (parent.predicted, parent.pattern) if parent else (None, "")
    shown = (*(parent.shown if parent else ()), *shown)
    near = dict(near or (parent.near if parent else {}))
    content = (label, sorted(given.items()), answer, tuple(reasons), sorted(attributes.items()), parent_id, variant)
    # Left out of the id where empty, so that requests without them keep the ids that earlier versions gave them.
    optional = (predicted, pattern, [example.id for example in shown])
    optional = (*(optional if any(optional) or near else ()), *([sorted(near.items())] if near else ()))
    identity = (context.fingerprint, context.round, stage, template, index, content, *optional)
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
        parent=parent.example if parent else None,
        predicted=predicted,
        pattern=pattern,
        shown=shown,
        near=near,
        variant=variant,
        group=group,
        seed=int(digest[:8], 16) & 0x7FFFFFFF,
    )


def seed_plan(
    context: RoundContext, config: StrategyConfig, num: int, shown: Shown | None = None, near: Near | None = None
) -> StagePlan:
    """Write ``num`` examples from labels (Algorithm 1) or from contexts and labels (paper, section 2.4).

    Prompts get reasons for their label and a subject, if the round's notes have some.
    """
    return StagePlan(
        name="seed",
        requests=_seed_requests(context, config, shown or (lambda index, label: ()), near or (lambda fields: {})),
        quota=_even_quota(context.task.labels, num),
        max_requests=math.ceil(num * config.candidates_per_row),
    )


def _even_quota(labels: Sequence[str], num: int) -> dict[str, int]:
    if not labels:
        return {ANY: num}
    share, rest = divmod(num, len(labels))
    return {label: share + (place < rest) for place, label in enumerate(labels)}


def _seed_requests(
    context: RoundContext, config: StrategyConfig, shown: Shown, near: Near
) -> Iterator[GenerationRequest]:
    """An endless sequence; labels take turns, so that every prefix is as balanced as uniform draws are on average."""
    task, labels = context.task, context.task.labels
    draw = context.generator("seed")
    all_reasons = context.notes.get("reasons", {})
    subjects = context.notes.get("subjects", {}).get(ANY, ())
    index = 0
    while True:
        label = labels[index % len(labels)] if labels else None
        given = draw.choice(context.contexts) if task.context_fields else None
        reasons = all_reasons.get(label or ANY, ())
        chosen = draw.sample(list(reasons), min(config.reasons_per_prompt, len(reasons)))
        attributes = {name: draw.choice(values) for name, values in task.attributes.items()}
        if subjects and task.spec.subjects:
            attributes[task.spec.subjects] = attributes[SUBJECT] = draw.choice(subjects)
        yield make_request(
            context,
            "seed",
            index,
            template="seed",
            label=label,
            given=given.fields if given else None,
            answer=given.answer if given else None,
            reasons=chosen,
            attributes=attributes,
            shown=shown(index, label),
            near=near(given.fields) if given else None,
            variant=index,
        )
        index += 1


AsParent = Callable[[Mistake], Parent]
"""Returns what the prompt for a mistake shows."""
NumAhead = Callable[[int], int]
"""Returns how many of so many rows, or mistakes, of a round belong to the stage ``AHEAD``."""


def mistakes_plan(
    context: RoundContext, config: StrategyConfig, num: int | None, as_parent: AsParent, num_ahead: NumAhead
) -> StagePlan:
    """Extrapolate mistakes: ``num`` rows in all, or (None) ``per_mistake`` for each, starting while they are mined.

    What ``num_ahead`` gives to ``ahead_plan`` is left out; of ``num`` rows, those that were not kept there are written
    here. Where only some mistakes get rows, those go last whose gold row has got some ahead.
    """
    if num is None:
        chosen = _mistakes_ahead(context, num_ahead)
        taken = frozenset(mistake.example.id for mistake in chosen)
        requests = _each_mistake(context, config.per_mistake, as_parent, num_ahead, taken)
        return StagePlan(name="extrapolate", requests=requests)
    # How often each mistake is shown depends on how many there are.
    parents = [as_parent(mistake) for mistake in context.mistakes.all()]
    if not num_ahead(num):
        return rewrite_plan(context, "extrapolate", parents, num, config.candidates_per_row)
    # The sequence must not depend on what was kept ahead, or `reparse` with another curation would not find it again.
    plan = rewrite_plan(context, "extrapolate", parents, max(1, num - num_ahead(num)), config.candidates_per_row)
    limit = math.ceil(num * config.candidates_per_row)
    return replace(plan, quota={ANY: num - context.num_ahead}, max_requests=limit)


def ahead_plan(
    context: RoundContext, config: StrategyConfig, num: int | None, as_parent: AsParent, num_ahead: NumAhead
) -> StagePlan | None:
    """As ``mistakes_plan``, but ``num_ahead`` of the rows, or of the mistakes, of the student before the last one.

    None if there are none.
    """
    if num is not None:
        parents = [as_parent(mistake) for mistake in context.earlier.all()]
        num = num_ahead(num)
        return rewrite_plan(context, AHEAD, parents, num, config.candidates_per_row) if num and parents else None
    chosen = [as_parent(mistake) for mistake in _mistakes_ahead(context, num_ahead)]
    turns = _turns(context, chosen, range(config.per_mistake), context.generator(AHEAD, "turns"))
    requests = (_rewrite(context, AHEAD, index, turn) for index, turn in enumerate(turns))
    return StagePlan(name=AHEAD, requests=requests) if chosen else None


def _mistakes_ahead(context: RoundContext, num_ahead: NumAhead) -> list[Mistake]:
    """The mistakes of the student before the last one that are extrapolated ahead, in a random order."""
    mistakes = context.earlier.all()
    return context.generator(AHEAD).sample(mistakes, num_ahead(len(mistakes)))


def rewrite_plan(
    context: RoundContext,
    stage: str,
    parents: Sequence[Parent],
    num: int | Mapping[str, int],
    candidates_per_row: float = 1.0,
    variants: int = 1,
) -> StagePlan:
    """Write ``num`` examples that resemble ``parents``, with their labels and contexts, going over these repeatedly.

    ``num`` may be given by label; every label in it must have parents. Each parent gets at least ``variants`` requests
    in a row, and more if there are too few parents for the number of rows.
    """
    quota = {ANY: num} if isinstance(num, int) else dict(num)
    total = sum(quota.values())
    if not parents or not total:
        return StagePlan(name=stage, requests=iter(()), quota=quota)
    groups = {key: [p for p in parents if key in (ANY, p.example.label)] for key in quota if quota[key]}
    sequences = {
        # Requests per parent in a row: few enough that every parent has its turn before the quota is full.
        key: _again_and_again(context, stage, key, group, max(variants, quota[key] // len(group)))
        for key, group in groups.items()
    }
    requests = _merged(sequences, quota) if len(sequences) > 1 else next(iter(sequences.values()))
    return StagePlan(
        name=stage,
        requests=(_rewrite(context, stage, index, turn) for index, turn in enumerate(requests)),
        quota=quota,
        max_requests=math.ceil(total * candidates_per_row),
    )


_Turn = tuple[Parent, int, dict[str, str]]
"""A parent, the number of the variant, and the attributes drawn for it."""


def _merged(sequences: Mapping[str, Iterator[_Turn]], quota: Mapping[str, int]) -> Iterator[_Turn]:
    """Labels take turns in proportion to their quotas, so that all quotas are full at about the same time."""
    num_drawn = dict.fromkeys(sequences, 0)
    while True:
        key = min(sequences, key=lambda key: num_drawn[key] / quota[key])
        num_drawn[key] += 1
        yield next(sequences[key])


def _each_mistake(
    context: RoundContext, num_each: int, as_parent: AsParent, num_ahead: NumAhead, taken: Set[str]
) -> Iterator[GenerationRequest]:
    """Requests from each mistake, and ``NOT_YET`` while the next block is not mined (Algorithms 2 and 3).

    Parents are shuffled within their block only, so that the sequence does not depend on when the blocks arrive. As
    many mistakes as ``num_ahead`` says are passed over, first those of gold rows in ``taken``.
    """
    index = num_block = num_seen = 0
    for block in context.mistakes.blocks():
        if block is None:
            yield NOT_YET
            continue
        num_passed = num_ahead(num_seen + len(block)) - num_ahead(num_seen)
        num_seen += len(block)
        if num_passed:
            shuffled = context.generator("rest", num_block).sample(block, len(block))
            shuffled.sort(key=lambda mistake: mistake.example.id in taken)
            block = shuffled[: len(block) - num_passed]
        draw = context.generator("extrapolate", num_block)
        for turn in _turns(context, [as_parent(mistake) for mistake in block], range(num_each), draw):
            yield _rewrite(context, "extrapolate", index, turn)
            index += 1
        num_block += 1


def _again_and_again(
    context: RoundContext, stage: str, key: str, parents: Sequence[Parent], each: int
) -> Iterator[_Turn]:
    draw = context.generator(stage, *([key] if key != ANY else []))
    num_pass = 0
    while True:
        yield from _turns(context, parents, range(num_pass * each, (num_pass + 1) * each), draw)
        num_pass += 1


def _turns(context: RoundContext, parents: Sequence[Parent], variants: range, draw: random.Random) -> Iterator[_Turn]:
    """All variants of each parent, in a random order of parents; the variants of a parent share a prompt prefix."""
    for parent in draw.sample(list(parents), len(parents)):
        for variant in variants:
            yield parent, variant, {name: draw.choice(values) for name, values in context.task.attributes.items()}


def _rewrite(context: RoundContext, stage: str, index: int, turn: _Turn) -> GenerationRequest:
    parent, variant, attributes = turn
    example = parent.example
    return make_request(
        context,
        stage,
        index,
        template="extrapolate",
        label=example.label,
        given={name: example.fields[name] for name in context.task.context_fields},
        answer=example.answers[0] if example.answers else None,
        attributes=attributes,
        parent=parent,
        variant=variant,
    )
