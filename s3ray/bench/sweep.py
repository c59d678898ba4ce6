"""What is measured: the cells of a sweep, from the command line and the job. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from s3ray.config import RunConfig
from s3ray.errors import InputError

SEED, EXTRAPOLATE = "seed", "extrapolate"
PROMPTS = (SEED, EXTRAPOLATE)
"""Sets of prompts: those of a seed set, and those that are written from gold rows as if they were mistakes."""
_WAVES = 8
"""Requests by default: so many times what the largest cell decodes at once, so that batches are mostly full."""
_LEAST_REQUESTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement. ``requests`` are measured; as many as the engines decode at once go before, to warm them up."""

    engines: int
    max_num_seqs: int
    prompts: str
    requests: int
    repeat: int

    @property
    def num_warm_up(self) -> int:
        """Requests that are answered before the clock starts."""
        return self.engines * self.max_num_seqs

    def config(self, config: RunConfig) -> RunConfig:
        """The job with this cell's engines and limit; all engines must fit."""
        changes = {"engines": self.engines, "min_engines": None, "max_num_seqs": self.max_num_seqs}
        return config.model_copy(update={"generator": config.generator.model_copy(update=changes)})

    def in_words(self) -> str:
        """For people."""
        engines = f"{self.engines} engine{'s' * (self.engines > 1)}"
        return f"{engines} x {self.max_num_seqs} sequences, {self.requests} {self.prompts} requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All engine counts with all limits and all sets of prompts, ``repeats`` times.

    Every cell has ``requests`` requests (strong scaling). Where several engine counts are swept, each larger one is
    also measured with so many more requests as it has more engines than the smallest (weak scaling).
    """

    engines: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    prompts: tuple[str, ...]
    requests: int
    repeats: int

    @property
    def base_engines(self) -> int:
        """The smallest engine count, to which the others are compared."""
        return min(self.engines)

    def weak_requests(self, engines: int) -> int:
        """As many for each engine as the smallest engine count has."""
        return self.requests * engines // self.base_engines

    def cells(self) -> list[Cell]:
        """In the order in which they are measured: whole sweeps one after the other, so that drift hits all alike."""
        return [
            Cell(engines=engines, max_num_seqs=limit, prompts=prompts, requests=requests, repeat=repeat)
            for repeat in range(self.repeats)
            for engines in self.engines
            for limit in self.max_num_seqs
            for prompts in self.prompts
            for requests in sorted({self.requests, self.weak_requests(engines)})
        ]


def make_sweep(
    config: RunConfig,
    known: Sequence[str],
    *,
    engines: str | None,
    max_num_seqs: str | None,
    prompts: str | None,
    requests: int | None,
    repeats: int,
) -> Sweep:
    """Read the command line; what it leaves out comes from the job. ``known`` are the sets that the strategy writes.

    Raises:
        InputError: a list is wrong, or a limit does not fit the job's other ones.
    """
    generator = config.generator
    counts = read_numbers(engines, "--engines") if engines is not None else (generator.engines,)
    limits = read_numbers(max_num_seqs, "--max-num-seqs") if max_num_seqs is not None else (generator.max_num_seqs,)
    most = generator.max_num_batched_tokens
    if generator.engine == "vllm" and max(limits) > most:
        hint = f"An engine step holds {most} tokens (generator.max_num_batched_tokens), one for each sequence at least."
        raise InputError("is more than a step can hold", where="--max-num-seqs", value=str(max(limits)), hint=hint)
    names = _read_names(prompts, known, config.strategy.name) if prompts is not None else tuple(known)
    default = max(_LEAST_REQUESTS, _WAVES * max(counts) * max(limits))
    return Sweep(engines=counts, max_num_seqs=limits, prompts=names, requests=requests or default, repeats=repeats)


def read_numbers(text: str, option: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers, ascending.

    Raises:
        InputError: one of them is no whole number above 0, or comes twice.
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
