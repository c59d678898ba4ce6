"""A platform of vLLM for configurations alone: eight H100 that nobody has. Nothing can be computed on them.

vLLM finds it by the entry point in ``plugins``, where that folder is on PYTHONPATH and VLLM_PLUGINS names it.
"""

import sys
from functools import cache
from types import ModuleType
from typing import Any

NUM_GPUS = 8
_NAME = "FakeCudaPlatform"
_KERNELS = ("vllm._C_stable_libtorch", "vllm._moe_C_stable_libtorch")


def register() -> str:
    """The entry point: where vLLM finds the class."""
    return f"{__name__}.{_NAME}"


def __getattr__(name: str) -> Any:
    if name != _NAME:
        raise AttributeError(name)
    return _platform()


@cache
def _platform() -> type:
    """Make the class; vLLM cannot be imported before it has asked which platform there is."""
    sys.modules.update({name: ModuleType(name) for name in _KERNELS})  # a CPU package has none
    from vllm.platforms.cuda import CudaPlatformBase
    from vllm.platforms.interface import DeviceCapability

    class FakeCudaPlatform(CudaPlatformBase):  # type: ignore[misc]
        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> Any:
            return DeviceCapability(major=9, minor=0)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return "NVIDIA H100 80GB HBM3"

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return 80 * 2**30

        @classmethod
        def device_count(cls) -> int:
            return NUM_GPUS

        @classmethod
        def is_fully_connected(cls, device_ids: list[int]) -> bool:
            return True

        @classmethod
        def num_compute_units(cls, device_id: int = 0) -> int:
            return 132

        def is_cumem_allocator_available(self) -> bool:
            return True

    FakeCudaPlatform.__module__, FakeCudaPlatform.__qualname__ = __name__, _NAME
    return FakeCudaPlatform
