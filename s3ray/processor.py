"""What this machine's CPU says that it can do. Linux only: elsewhere it says nothing."""

from collections.abc import Collection
from functools import cache
from pathlib import Path

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
