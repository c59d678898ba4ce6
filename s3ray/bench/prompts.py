"""The requests of a benchmark: those that the job's own strategy makes, without a student to make mistakes.

What a student would tell is stood in for: gold rows are the mistakes, with another label or answer as the wrong one,
and a random view of gold takes the place of the student's. Prompts then have the words and the length of a run's; which
rows they show has no meaning.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from s3ray.bench.sweep import PROMPTS, SEED
from s3ray.config import RunConfig
from s3ray.methods import StrategyConfig
from s3ray.mistakes import Mistakes
from s3ray.probes import Probes
from s3ray.strategies import make_strategy
from s3ray.strategies.base import RoundContext, Strategy
from s3ray.tasks import Task
from s3ray.tasks.gold import GoldSplit
from s3ray.types import Example, GenerationRequest, Mistake

VARIANTS = 4
"""Requests for each gold row, at least: they share the row, and so a prefix, as the variants of a mistake do."""
_WIDTH = 8


class PromptSource:
    """Makes one set of prompts of a job, up to ``total`` requests; any first part of them is the same for all cells."""

    def __init__(self, name: str, config: RunConfig, task: Task, gold: GoldSplit, fingerprint: str, total: int) -> None:
        """``fingerprint`` makes the request ids, as in a run (``preflight.Job.requests``)."""
        self.name = name
        self._total = total
        rows = gold.extrapolate
        each = max(VARIANTS, config.strategy.per_mistake, math.ceil(total / len(rows)))
        parents = rows[: math.ceil(total / each)]
        is_seed = name == SEED
        self.strategy = make_strategy(config.strategy if is_seed else _enough(config.strategy, total, each))
        is_first = is_seed or self.strategy.last_round == 0
        self.context = RoundContext(
            round=0 if is_first else 1,
            task=task,
            gold=parents if is_first and not is_seed else rows,  # goldgen imitates whatever gold there is
            contexts=gold.contexts,
            mistakes=Mistakes([_as_mistake(row, task) for row in parents]),
            prompts=task.note_prompts(config.generator.prompt_form),
            probes=lambda _: _random_view(rows, task),
            synthetic=lambda: rows,
            fingerprint=fingerprint,
            seed=config.seed,
        )

    def requests(self, context: RoundContext) -> list[GenerationRequest]:
        """``total`` of them; fewer, even none, where the strategy makes no more. ``context`` has the round's notes."""
        found = _stage_of(self.strategy, context, self.name)
        return list(itertools.islice(found, self._total))


def known_prompts(config: RunConfig, task: Task, gold: GoldSplit) -> list[str]:
    """The sets that the job's strategy writes."""
    sources = [PromptSource(name, config, task, gold, "", 1) for name in PROMPTS]
    return [source.name for source in sources if source.requests(source.context)]


def split(
    requests: list[GenerationRequest], num: int, num_warm_up: int
) -> tuple[list[GenerationRequest], list[GenerationRequest]]:
    """The first ``num``, which are measured, and those after them, which warm the engines up."""
    warm_up = requests[num : num + num_warm_up]
    return requests[:num], [request._replace(index=place) for place, request in enumerate(warm_up)]


def _enough(config: StrategyConfig, total: int, each: int) -> StrategyConfig:
    """The strategy's settings with enough rows to write; from mistakes, so many for each."""
    is_by_mistake = config.name in ("s3", "s3plus", "transfer", "llm2llm")
    rows = None if is_by_mistake else config.seed_examples + total
    return config.model_copy(update={"rows": rows, "per_mistake": each})


def _stage_of(strategy: Strategy, context: RoundContext, name: str) -> Iterator[GenerationRequest]:
    """The requests of the first stage whose prompts are of this set."""
    for plan in strategy.example_stages(context):
        first = next(plan.requests, None)
        if first is not None and first.template == name:
            return itertools.chain([first], plan.requests)
    return iter(())


def _as_mistake(row: Example, task: Task) -> Mistake:
    wrong = next((label for label in task.labels if label != row.label), None)
    return Mistake(example=row, predicted=wrong or row.answers[0].text, confidence=0.5)


def _random_view(rows: tuple[Example, ...], task: Task) -> Probes:
    draw = np.random.default_rng(0)
    return Probes(
        ids=[row.id for row in rows],
        predicted=[row.label or row.answers[0].text for row in rows],
        target_probability=np.full(len(rows), 0.5),
        probabilities=draw.dirichlet(np.ones(max(1, len(task.labels))), len(rows)),
        features=draw.normal(size=(len(rows), _WIDTH)).astype(np.float32),
    )
