"""What this machine's CPU says that it can do. Linux only: elsewhere it says nothing."""

import gc
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from s3ray.errors import DeviceMemoryError

_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86 and Arm


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's flags; none where Linux does not tell them. Read once in a process."""
    lines = _told()
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split())


def cpu_name() -> str:
    """The CPU's model as its maker calls it; empty where Linux does not tell it (on Arm)."""
    return next((line.partition(":")[2].strip() for line in _told() if line.startswith("model name")), "")


def _told() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def has_bfloat16(flags: Collection[str]) -> bool:
    """Whether a CPU with these flags computes with bfloat16; emulated it is several times slower than float32."""
    return not _BFLOAT16.isdisjoint(flags)


def collect_rarely() -> None:
    """Let Python look for cycles less often in this process.

    Requests and outcomes have no cycles, and by default the search takes a quarter of the time that the driver spends
    on a request. What is there already is not looked at again.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


LIMIT_S = 120.0
"""How long a student or an engine waits for the memory of its GPU."""
_POLL_S = 1.0
_ALL_FREE = 0.95  # what is missing then are contexts and drivers, not an engine
_SETTLED = 0.01  # of the whole memory
_GIB = 2**30


@dataclass(slots=True, kw_only=True)
class MemoryWatch:
    """Memory suffices once there is enough and no more of it comes free.

    ``needed`` and readings are in bytes, times in seconds of the caller's clock; ``who`` and ``where`` are for people.
    """

    who: str
    where: str
    needed: int
    started: float
    limit_s: float = LIMIT_S
    _last_free: int | None = None

    def suffices(self, free: int, total: int, now: float) -> bool:
        """Whether the waiting is over.

        Raises:
            DeviceMemoryError: the limit has passed and there is still not enough.
        """
        last, self._last_free = self._last_free, free
        is_settled = last is not None and abs(free - last) <= _SETTLED * total
        if free >= self.needed and (is_settled or free >= _ALL_FREE * total):
            return True
        if now - self.started < self.limit_s:
            return False
        if free >= self.needed:
            return True
        raise DeviceMemoryError(
            f"{self.who} needs {self.needed / _GIB:.1f} GiB of {self.where}, and after {self.limit_s:.0f} s only "
            f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB are free",
            "A process that should have left, or another program, holds the rest; `nvidia-smi` on that node names it. "
            "End it, lower generator.gpu_memory_utilization, or use placement.mode: split.",
        )


def student_bytes(weights: int) -> int:
    """What training surely takes: weights, gradients and AdamW's two moments, and a GiB for CUDA and activations."""
    return 4 * weights + _GIB


def wait_for_memory(
    watch: MemoryWatch,
    read: Callable[[], tuple[int, int]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when ``read`` (free and total bytes) shows that the memory suffices.

    Raises:
        DeviceMemoryError: it does not within the limit of ``watch``.
    """
    while not watch.suffices(*read(), clock()):
        sleep(_POLL_S)
