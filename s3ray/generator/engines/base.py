"""What an engine is to its actor."""

from dataclasses import dataclass
from typing import Protocol

from s3ray.config import GeneratorConfig
from s3ray.types import EngineLimits, Generation, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """All that an actor needs to build its engine: the job's settings, and the device and cores that are its own."""

    engine: str
    config: GeneratorConfig
    device: str
    num_threads: int = 1


class Engine(Protocol):
    """Answers prompts one by one, many at a time.

    Contract: ``generate`` returns one generation or raises; ``RequestRefusedError`` concerns that request alone,
    ``EngineDeadError`` means that no request will ever be answered again. ``close`` may be called twice.
    """

    def __init__(self, spec: EngineSpec) -> None: ...

    async def start(self) -> EngineLimits:
        """Load the model; returns the limits that the engine resolved."""
        ...

    async def generate(self, request_id: str, prompt: Prompt, seed: int) -> Generation:
        """Complete one prompt with the job's sampling settings and this seed.

        Raises:
            RequestRefusedError: this prompt cannot be answered.
            EngineDeadError: the engine is gone.
        """
        ...

    async def check(self) -> None:
        """Do nothing while the engine lives; asked for every few seconds.

        Raises:
            EngineDeadError: the engine is gone, even if its open requests do not know it.
        """
        ...

    async def close(self) -> None:
        """Free what the engine holds."""
        ...
