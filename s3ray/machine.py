"""This machine: flags of its CPU (Linux only), Python's garbage collector, and waiting for GPU memory."""

import gc
import time
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from s3ray.errors import DeviceMemoryError

_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86 and Arm


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's flags; empty where Linux does not list them. Read once per process."""
    lines = _cpu_info()
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split())


def cpu_name() -> str:
    """The CPU's model name; empty where Linux does not say it (on Arm)."""
    return next((line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")), "")


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def has_bfloat16(flags: Collection[str]) -> bool:
    """Whether a CPU with these flags computes in bfloat16; emulation is several times slower than float32."""
    return not _BFLOAT16.isdisjoint(flags)


def collect_rarely() -> None:
    """Let Python look for cycles less often in this process.

    Requests and outcomes have no cycles, and by default the search takes a quarter of the time that the driver spends
    on a request. Objects that exist already are never searched again.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


LIMIT_S = 120.0
"""How long a student or an engine waits for the memory of its GPU."""
_POLL_S = 1.0
_ALL_FREE = 0.95  # the rest is held by contexts and drivers, not by an engine
_SETTLED = 0.01  # of the whole memory
_GIB = 2**30


def student_bytes(weights: int) -> int:
    """The least that training takes: weights, gradients and AdamW's two moments, and a GiB for CUDA and activations."""
    return 4 * weights + _GIB


def wait_for_memory(
    who: str,
    where: str,
    needed: int,
    read: Callable[[], tuple[int, int]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until ``read`` (free and total bytes) shows ``needed`` free bytes, and that their number no longer grows.

    ``who`` (the one that waits) and ``where`` (the GPU) are named in the error.

    Raises:
        DeviceMemoryError: there is not enough after ``LIMIT_S``.
    """
    started, last_free = clock(), None
    while True:
        free, total = read()
        is_late = clock() - started >= LIMIT_S
        is_settled = last_free is not None and abs(free - last_free) <= _SETTLED * total
        if free >= needed and (is_late or is_settled or free >= _ALL_FREE * total):
            return
        if is_late:
            raise DeviceMemoryError(
                f"{who} needs {needed / _GIB:.1f} GiB of {where}, and after {LIMIT_S:.0f} s only "
                f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB are free",
                "A process that should have left, or another program, holds the rest; `nvidia-smi` on that node names "
                "it. End it, lower generator.gpu_memory_utilization, or use placement.mode: split.",
            )
        last_free = free
        sleep(_POLL_S)
