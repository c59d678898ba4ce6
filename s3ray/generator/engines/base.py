"""The interface between an engine and its actor."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from s3ray.config.job import GeneratorConfig
from s3ray.types import EngineLimits, EngineStats, Generation, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """All that an actor needs to build its engine: the job's settings, and those of this engine alone.

    ``number`` counts the engines of the pool from 0. On a CPU the engine computes with ``num_threads`` threads. On GPUs
    it takes ``memory_share`` of the memory of each, and runs through vLLM's ``executor``: ``uni`` (one GPU), ``mp``
    (several of one node) or ``ray`` (several nodes, in the placement group of the actor). With ``can_sleep`` it can
    free that memory while a student is trained there. With ``timed`` it keeps the ``Timing`` of each answer.
    ``trials`` are prompts of the shapes that the job's have, for engines that try out a server. ``restarts`` counts how
    often the engine was started before.
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
    trials: tuple[Prompt, ...] = ()
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the seconds of one answer went in an engine.

    ``queue_s`` is the time from arrival until the request was first computed, ``first_token_s`` from arrival until its
    first token, and ``per_token_s`` the mean time of each later token (None if there was only one).
    """

    queue_s: float
    first_token_s: float
    per_token_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The probabilities of a prompt's choices, in their order. They sum to 1, or are empty if the engine has none."""

    probabilities: tuple[float, ...]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int


_NOT_TEXT = "\"' \n\t"  # quotes and white space around a text


def kept_of_stop(stop_reason: object) -> str:
    """Part of the matched stop string to keep: punctuation, without quotes and whitespace."""
    return stop_reason.strip(_NOT_TEXT) if isinstance(stop_reason, str) else ""


def configured_limits(config: GeneratorConfig, *, dtype: str, device: str, notes: tuple[str, ...] = ()) -> EngineLimits:
    """The limits of an engine that takes them from the job unchanged."""
    return EngineLimits(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        num_kv_tokens=config.max_num_seqs * config.max_model_len,
        dtype=dtype,
        device=device,
        notes=notes,
    )


class Engine(Protocol):
    """Answers prompts one by one, many at a time.

    Contract: ``generate`` and ``choose`` return one answer or raise. ``RequestRefusedError`` concerns that request
    alone; after ``EngineDeadError`` the engine answers no request any more. ``close`` may be called twice.

    A class that ``needs_devices`` is placed like vLLM: each engine gets GPUs of its own, or CPU cores if there are no
    GPUs. If it ``loads_model``, a job must name ``generator.model``, which is checked before anything starts.
    """

    needs_devices: ClassVar[bool]
    loads_model: ClassVar[bool]

    def __init__(self, spec: EngineSpec) -> None: ...

    async def start(self) -> EngineLimits:
        """Load the model; returns the limits that the engine resolved.

        Raises:
            InputError: the engine cannot do what the job asks of it, however often it is started.
            EngineStartError: it did not start; never will, on devices of this kind, if that ``is_final``.
            DeviceMemoryError: other processes hold the memory of its device; it may be tried again.
            EngineDeadError: it did not start this time.
        """

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        """Complete one prompt with the job's sampling settings, this seed and at most ``max_tokens`` tokens.

        Cancelling the call gives the request up and frees what it holds.

        Raises:
            RequestRefusedError: this prompt cannot be answered.
            EngineDeadError: the engine is gone.
        """

    async def choose(self, request_id: str, prompt: Prompt) -> Choice:
        """The probabilities of ``prompt.choices``, of which the expected one comes first.

        They are the model's own (temperature 1, no truncation), normalised over the choices.

        Raises:
            RequestRefusedError: this prompt cannot be answered, or its choices cannot be told apart.
            EngineDeadError: the engine is gone.
        """

    def stats(self) -> EngineStats:
        """The engine's statistics at this moment (the actor adds ``busy_s``)."""

    def take_timings(self) -> list[Timing]:
        """Timings of the texts answered since the last call; empty unless ``timed``, or if the engine has none."""

    async def check(self) -> None:
        """Raise if the engine is dead; called every few seconds.

        Raises:
            InputError: it cannot do what the job asks of it, as has only come out now.
            EngineDeadError: the engine is gone, even if its open requests have not failed yet.
        """

    async def sleep(self, level: int) -> None:
        """Free the memory of the devices until ``wake``; called with no request under way.

        At level 1 the weights are kept in the host's memory, at level 2 they are dropped and will be read again.
        """

    async def wake(self) -> None:
        """Take the memory back; the engine answers as before."""

    async def close(self) -> None:
        """Free what the engine holds."""
