"""The GPUs of an engine before it starts: whether they can run it, whose turn it is on them, and their free memory.

NVML is asked, because CUDA would keep memory of its own in the process that asks. It is handed in, as the caller has it
from vLLM, or from a test.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s3ray.errors import DeviceMemoryError, EngineStartError
from s3ray.machine import wait_for_memory

_CONTEXT_BYTES = int(0.7 * 2**30)
"""What CUDA and the kernels of a process take of a GPU, besides the share that vLLM counts."""
_USABLE = 0.98
"""The part of a GPU that engines can take together; the driver keeps the rest."""
_LEAST_CAPABILITY = (7, 5)
"""Of GPUs that CUDA 13 has code for: Turing (T4, RTX 20) or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU of this node: its name in messages, NVML's ``uuid`` and ``handle``, and its memory in bytes."""

    name: str
    uuid: str
    handle: Any
    total: int


class Gpus:
    """The GPUs of one engine. ``close`` lets go of NVML."""

    def __init__(self, nvml: Any, indexes: Sequence[int]) -> None:
        nvml.nvmlInit()
        self._nvml = nvml
        self._all = [self._gpu(index) for index in indexes]

    def _gpu(self, index: int) -> Gpu:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        return Gpu(
            name=f"GPU {index} on {platform.node()}",
            uuid=_text(self._nvml.nvmlDeviceGetUUID(handle)),
            handle=handle,
            total=self._nvml.nvmlDeviceGetMemoryInfo(handle).total,
        )

    def close(self) -> None:
        """Let go of NVML."""
        self._nvml.nvmlShutdown()

    @property
    def uuids(self) -> list[str]:
        """Their names for locks."""
        return [gpu.uuid for gpu in self._all]

    @property
    def totals(self) -> list[int]:
        """The memory of each, in bytes."""
        return [gpu.total for gpu in self._all]

    def free(self) -> list[int]:
        """Free bytes of each."""
        return [self._read(gpu)[0] for gpu in self._all]

    def _read(self, gpu: Gpu) -> tuple[int, int]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(gpu.handle)
        return memory.free, memory.total

    def check(self, cuda: str | None) -> None:
        """Refuse a driver older than the ``cuda`` ("13.0") that torch was built with, and GPUs that it has no code for.

        Raises:
            EngineStartError: that of a start that can never succeed on this node.
        """
        major = int(cuda.partition(".")[0]) if cuda else 0
        offered = self._nvml.nvmlSystemGetCudaDriverVersion()  # 13000 for 13.0
        if offered // 1000 < major:
            driver = _text(self._nvml.nvmlSystemGetDriverVersion())
            raise EngineStartError(
                f"the NVIDIA driver {driver} of {platform.node()} is made for CUDA {offered // 1000}."
                f"{offered % 1000 // 10}, and the installed torch needs CUDA {major}",
                "Install a newer driver on that node (R580 or later for CUDA 13), or take nodes that have one.",
                is_final=True,
            )
        for gpu in self._all:
            capability = tuple(self._nvml.nvmlDeviceGetCudaComputeCapability(gpu.handle))
            if major >= 13 and capability < _LEAST_CAPABILITY:
                raise EngineStartError(
                    f"{gpu.name} has compute capability {capability[0]}.{capability[1]}, and CUDA {major} has no code "
                    f"for GPUs below {_LEAST_CAPABILITY[0]}.{_LEAST_CAPABILITY[1]}",
                    "Take newer GPUs (T4, RTX 20 or later; generator.accelerator chooses among nodes).",
                    is_final=True,
                )

    def wait(self, who: str, needed: Sequence[int], wait: Callable[..., None] = wait_for_memory) -> None:
        """Wait until so many bytes of each are free; raises as ``wait_for_memory`` does."""
        for gpu, num in zip(self._all, needed, strict=True):
            wait(who, gpu.name, num, partial(self._read, gpu))


def fitting_share(memory_share: float, gpu_share: float, total: int) -> float:
    """The part of a GPU's memory (``total`` bytes) that an engine takes, at most ``memory_share``.

    Where engines share a GPU, each also needs room for its CUDA context, which vLLM does not count.
    """
    if gpu_share >= 1:
        return memory_share
    return min(memory_share, _USABLE * gpu_share - _CONTEXT_BYTES / total)


class Turn:
    """An engine's turn on GPUs: from the wait for their memory until it is ready, no other engine starts on them.

    vLLM sizes its KV cache by how the free memory of the whole GPU changes while it starts; a neighbour that loads or
    leaves meanwhile would count as its own. ``seconds`` are those waited for others.
    """

    def __init__(self, who: str, limit_s: float, folder: Path | None = None) -> None:
        """``folder`` holds the locks of this node, by default one of this user among temporary files."""
        self._who = who
        self._deadline = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._folder = folder or Path(tempfile.gettempdir()) / f"s3ray-locks-{os.getuid()}"
        self._held = ExitStack()
        self._marker: Path | None = None
        self.seconds = 0.0

    def take(self, uuids: Sequence[str], first: Path) -> None:
        """Wait for the turn. One engine of this node at a time makes the first start, after which ``first`` exists.

        What the first start compiles is read by the later ones from the cache that ``first`` lies in.

        Raises:
            DeviceMemoryError: others started on these GPUs all the time.
        """
        began = time.monotonic()
        # In this order everywhere, so that no two engines wait for each other.
        if not first.exists():
            lock = self._acquire(f"first-{first.name}", "the first start of this configuration")
            if first.exists():
                lock.release()
            else:
                self._held.callback(lock.release)
                self._marker = first
        for uuid in sorted(uuids):
            self._held.callback(self._acquire(uuid, uuid).release)
        self.seconds = time.monotonic() - began

    def _acquire(self, name: str, what: str) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Taken in a thread, given back in another.
        lock = FileLock(self._folder / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(timeout=max(0.0, self._deadline - time.monotonic()))
        except Timeout:
            raise DeviceMemoryError(
                f"{self._who} waited {self._limit_s:.0f} s (half of generator.ready_s) for {what} on "
                f"{platform.node()}, which another engine has",
                "Raise generator.ready_s, or let fewer engines share a GPU (generator.gpu_share).",
            ) from None
        return lock

    def end(self, *, is_ready: bool) -> None:
        """Let the next one start; calling it twice is safe."""
        if is_ready and self._marker is not None:
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        self._held.close()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
