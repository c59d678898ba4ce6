"""What an engine is to its actor."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from s3ray.config.job import GeneratorConfig
from s3ray.types import EngineLimits, EngineStats, Generation, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """All that an actor needs to build its engine: the job's settings, and what is this engine's own.

    ``number`` counts the engines of the pool from 0. On a CPU the engine computes with ``num_threads`` threads; on GPUs
    it takes ``memory_share`` of each one's memory and drives them through vLLM's ``executor``: ``uni`` (one GPU),
    ``mp`` (several of one node) or ``ray`` (several nodes, in the placement group of the actor). One that ``can_sleep``
    frees that memory while a student is trained there. One that is ``timed`` keeps the ``Timing`` of each answer.
    """

    engine: str
    config: GeneratorConfig
    device: str
    number: int = 0
    num_threads: int = 1
    executor: str = "uni"
    memory_share: float = 0.9
    can_sleep: bool = False
    timed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the seconds of one answer went in an engine.

    ``queue_s`` is from its arrival in the engine's queue until it was first computed, ``first_token_s`` from its
    arrival until its first token, ``per_token_s`` the mean of each later one; None where there was no later one.
    """

    queue_s: float
    first_token_s: float
    per_token_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How likely each of a prompt's choices is, in their order; they sum to 1. None of them: the engine cannot tell."""

    probabilities: tuple[float, ...]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int


_NOT_TEXT = "\"' \n\t"  # quotes and white space around what was written


def kept_of_stop(stop_reason: object) -> str:
    """What of the stop string that ended a text belongs to it: a full stop does, quotes and white space do not."""
    return stop_reason.strip(_NOT_TEXT) if isinstance(stop_reason, str) else ""


class Engine(Protocol):
    """Answers prompts one by one, many at a time.

    Contract: ``generate`` and ``choose`` return one answer or raise; ``RequestRefusedError`` concerns that request
    alone, ``EngineDeadError`` means that no request will ever be answered again. ``close`` may be called twice.

    A class that ``needs_devices`` is placed as vLLM is: each engine gets its GPUs, or cores of its own where there are
    none. For one that ``loads_model`` a job must name ``generator.model``, which is checked before anything starts.
    """

    needs_devices: ClassVar[bool]
    loads_model: ClassVar[bool]

    def __init__(self, spec: EngineSpec) -> None: ...

    async def start(self) -> EngineLimits:
        """Load the model; returns the limits that the engine resolved."""
        ...

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        """Complete one prompt with the job's sampling settings, this seed and at most ``max_tokens`` tokens.

        Cancelling the call gives the request up and frees what it holds.

        Raises:
            RequestRefusedError: this prompt cannot be answered.
            EngineDeadError: the engine is gone.
        """
        ...

    async def choose(self, request_id: str, prompt: Prompt) -> Choice:
        """Ask for one of ``prompt.choices``, of which the one that is hoped for comes first.

        Probabilities are the model's own (temperature 1, nothing cut off), among the choices alone.

        Raises:
            RequestRefusedError: this prompt cannot be answered, or its choices cannot be told apart.
            EngineDeadError: the engine is gone.
        """
        ...

    def stats(self) -> EngineStats:
        """What the engine can tell of itself at this moment (``busy_s`` is kept by the actor)."""
        ...

    def take_timings(self) -> list[Timing]:
        """Those of the texts that were answered since the last call; none unless ``timed``, or if it cannot tell."""
        ...

    async def check(self) -> None:
        """Do nothing while the engine lives; asked for every few seconds.

        Raises:
            EngineDeadError: the engine is gone, even if its open requests do not know it.
        """
        ...

    async def sleep(self, level: int) -> None:
        """Free the memory of the devices until ``wake``; called with no request under way.

        At level 1 the weights are kept in the host's memory, at level 2 they are dropped and will be read again.
        """
        ...

    async def wake(self) -> None:
        """Take the memory back; the engine answers as before."""
        ...

    async def close(self) -> None:
        """Free what the engine holds."""
        ...
