"""Engines that other tests name by import path: what they cannot do is the same at every start, or is not."""

from s3ray.errors import DeviceMemoryError, EngineStartError
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.fake import FakeEngine
from s3ray.types import EngineLimits


class NeverStarts(FakeEngine):
    """Fails in the same way each time."""

    async def start(self) -> EngineLimits:
        """Fail."""
        raise EngineStartError("the engine did not start: ValueError: No room", "Take more.", is_final=True)


class StartsLate(FakeEngine):
    """Finds its GPU taken at the first two starts."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._restarts = spec.restarts

    async def start(self) -> EngineLimits:
        """Fail twice."""
        if self._restarts < 2:
            raise DeviceMemoryError("engine-0 needs 30 GiB of GPU 0")
        return await super().start()
