"""What is measured: the cells of a sweep, and the requests that each of them answers. Pure.

The requests are those that the job's own strategy makes, without a student to make mistakes. Stand-ins replace what a
student would predict: gold rows are its mistakes, each with a wrong label or answer, and its predictions on gold are
random. Prompts then have the wording and length of a run's; which rows they show has no meaning.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from s3ray.bench.profile import BatchLimit, Cell, Sweep, num_seqs
from s3ray.config.job import RunConfig, StrategyConfig
from s3ray.errors import InputError
from s3ray.strategies import make_strategy
from s3ray.strategies.base import RoundContext, Strategy
from s3ray.strategies.mistake_stream import MistakeStream
from s3ray.strategies.probes import Probes
from s3ray.tasks import Task
from s3ray.tasks.gold import GoldSplit
from s3ray.types import Example, GenerationRequest, Mistake

SEED, EXTRAPOLATE = "seed", "extrapolate"
PROMPTS = (SEED, EXTRAPOLATE)
"""Sets of prompts: those of a seed set, and those that are written from gold rows as if they were mistakes."""
_WAVES = 8
"""Requests by default: so many times what the largest cell decodes at once, so that batches are mostly full."""
_LEAST_REQUESTS = 256
VARIANTS = 4
"""Requests for each gold row, at least: they share the row, and so a prefix, as the variants of a mistake do."""
_WIDTH = 8  # of the stand-in features: enough for a strategy to cluster them


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the command line; None: as in the job."""

    engines: str | None = None
    max_num_seqs: str | None = None
    prompts: str | None = None
    requests: int | None = None
    repeats: int = 1
    min_seconds: float = 10.0


def cells_of(sweep: Sweep) -> list[Cell]:
    """In the order in which they are measured: one whole sweep after the other, so that drift affects all alike."""
    return [
        Cell(engines=engines, max_num_seqs=limit, prompts=prompts, requests=requests, repeat=repeat)
        for repeat in range(sweep.repeats)
        for engines in sweep.engines
        for limit in sweep.max_num_seqs
        for prompts in sweep.prompts
        for requests in sorted({sweep.requests, sweep.weak_requests(engines)})
    ]


def make_sweep(config: RunConfig, known: Sequence[str], options: Options) -> Sweep:
    """The sweep that the options ask for. ``known`` are the sets of prompts that the job's strategy writes.

    Raises:
        InputError: a list is wrong, or a limit does not fit the job's other ones.
    """
    generator = config.generator
    counts = read_numbers(str(generator.engines) if options.engines is None else options.engines, "--engines")
    asked = options.max_num_seqs
    limits: tuple[BatchLimit, ...] = (generator.max_num_seqs,)
    if asked is not None:
        limits = read_numbers(asked, "--max-num-seqs")
    most, largest = generator.max_num_batched_tokens, max(map(num_seqs, limits))
    if generator.engine == "vllm" and limits != ("auto",) and largest > most:
        hint = f"An engine step holds {most} tokens (generator.max_num_batched_tokens), one for each sequence at least."
        raise InputError("is more than a step can hold", where="--max-num-seqs", value=str(largest), hint=hint)
    names = tuple(known) if options.prompts is None else _read_names(options.prompts, known, config.strategy.name)
    requests = options.requests or max(_LEAST_REQUESTS, _WAVES * max(counts) * largest)
    return Sweep(
        engines=counts,
        max_num_seqs=limits,
        prompts=names,
        requests=requests,
        repeats=options.repeats,
        min_seconds=options.min_seconds,
    )


def read_numbers(text: str, option: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers, ascending.

    Raises:
        InputError: one of them is no whole number above 0, or stands there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    hint = "Whole numbers above 0 with commas between them, such as 1,2,4."
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**6 for part in parts):
        raise InputError("is no list of numbers", where=option, value=repr(text), hint=hint)
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise InputError("names a number twice", where=option, value=repr(text), hint="--repeat measures again.")
    return tuple(sorted(numbers))


def _read_names(text: str, known: Sequence[str], strategy: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in PROMPTS:
            hint = f"Known: {', '.join(PROMPTS)}."
            raise InputError("is no set of prompts", where="--prompts", value=repr(name), hint=hint)
        if name not in known:
            hint = f"It writes {' and '.join(known)} prompts."
            raise InputError(f"strategy {strategy} writes no such prompts", where="--prompts", value=name, hint=hint)
    if len(set(names)) < len(names):
        raise InputError("names a set twice", where="--prompts", value=repr(text), hint="--repeat measures again.")
    return tuple(name for name in PROMPTS if name in names)


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
            mistakes=MistakeStream([_as_mistake(row, task) for row in parents]),
            prompts=task.note_prompts(config.generator.prompt_form),
            probes=lambda _: _random_view(rows, task),
            synthetic=lambda: rows,
            fingerprint=fingerprint,
            seed=config.seed,
        )

    def requests(self, context: RoundContext) -> list[GenerationRequest]:
        """``total`` requests, or as many as the strategy makes. ``context`` has the round's notes."""
        found = _stage_of(self.strategy, context, self.name)
        return list(itertools.islice(found, self._total))


def known_prompts(config: RunConfig, task: Task, gold: GoldSplit) -> list[str]:
    """The sets of prompts that the job's strategy writes."""
    sources = [PromptSource(name, config, task, gold, "", 1) for name in PROMPTS]
    return [source.name for source in sources if source.requests(source.context)]


def split(
    requests: list[GenerationRequest], num: int, num_warm_up: int
) -> tuple[list[GenerationRequest], list[GenerationRequest]]:
    """The first ``num``, which are measured, and those after them, which warm the engines up."""
    return requests[:num], renumbered(requests[num : num + num_warm_up])


def renumbered(requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """Requests as a stage of their own, which counts from 0."""
    return [request._replace(index=place) for place, request in enumerate(requests)]


def _enough(config: StrategyConfig, total: int, each: int) -> StrategyConfig:
    """The strategy's settings, changed so that it makes ``total`` requests: ``each`` for a mistake, if it uses them."""
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
