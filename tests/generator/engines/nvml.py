"""NVIDIA's management library, as far as s3ray asks it, over cards that are pretended."""

from collections.abc import Sequence
from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    free: int
    total: int


@dataclass
class Nvml:
    """Cards of 24 GiB, of which so many are free; a handle is the card's number."""

    free_gib: Sequence[float] = (23, 23)
    cuda: int = 13000
    capability: tuple[int, int] = (8, 0)
    calls: list[str] = field(default_factory=list)

    def nvmlInit(self) -> None:  # noqa: N802
        self.calls.append("init")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.calls.append("shutdown")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{9 - handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        return Memory(free=int(self.free_gib[handle] * GIB), total=24 * GIB)

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return self.cuda

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.86.10"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return self.capability
