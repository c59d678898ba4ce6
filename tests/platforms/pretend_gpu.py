"""A platform of vLLM that computes on the CPU and tells Ray that it needs GPUs: our whole GPU path runs, without one.

vLLM finds it by the entry point in ``plugins``, where that folder is on PYTHONPATH and VLLM_PLUGINS names it.
"""

import os
import sys
from functools import cache
from typing import Any

from tests.generator.engines.nvml import Nvml

_PLATFORM, _WORKER = "PretendGpuPlatform", "PretendGpuWorker"


def register() -> str:
    """The entry point: where vLLM finds the platform."""
    return f"{__name__}.{_PLATFORM}"


def __getattr__(name: str) -> Any:
    """Make a class when vLLM asks for it: nothing of vLLM can be imported before it knows its platform."""
    if name not in (_PLATFORM, _WORKER):
        raise AttributeError(name)
    made = _platform() if name == _PLATFORM else _worker()
    made.__module__, made.__qualname__ = __name__, name
    return made


@cache
def _platform() -> type:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.utils import import_utils

    import_utils.import_pynvml = NodeNvml

    class PretendGpuPlatform(CpuPlatform):  # type: ignore[misc]
        ray_device_key = "GPU"
        ray_noset_device_env_vars = ("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",)

        def is_cuda(self) -> bool:
            """For s3ray alone: vLLM's own code would look for CUDA."""
            return str(sys._getframe(1).f_globals["__name__"]).startswith("s3ray.")

        def is_sleep_mode_available(self) -> bool:
            return True

        @classmethod
        def device_id_to_physical_device_id(cls, device_id: int) -> int:
            return int(os.environ["CUDA_VISIBLE_DEVICES"].split(",")[device_id])

        @classmethod
        def check_and_update_config(cls, vllm_config: Any) -> None:
            before = os.environ.get("VLLM_WORKER_MULTIPROC_METHOD")
            vllm_config.parallel_config.worker_cls = f"{__name__}.{_WORKER}"
            super().check_and_update_config(vllm_config)
            # The CPU's runner makes the buffers of pipeline stages while it warms up, which it leaves out where nothing
            # is traced. With this backend the model is traced and not compiled.
            vllm_config.compilation_config.backend = "eager"
            if before is None:  # the CPU's platform sets it; on a GPU vLLM does, and RAY_ADDRESS with it
                os.environ.pop("VLLM_WORKER_MULTIPROC_METHOD", None)

    return PretendGpuPlatform


class NodeNvml(Nvml):
    """The GPUs of one node, whose raylet is the parent of this process: those of different nodes are different ones."""

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{os.getppid()}-{handle}"


@cache
def _worker() -> type:
    import torch
    from vllm.v1.worker.cpu_worker import CPUWorker

    class PretendGpuWorker(CPUWorker):  # type: ignore[misc]
        """Loses its weights and its KV cache when it sleeps, as a GPU's worker does; level 1 keeps a copy of them."""

        def sleep(self, level: int = 1) -> None:
            weights = dict(self.model_runner.model.named_parameters())
            self._kept = {name: weight.detach().clone() for name, weight in weights.items()} if level == 1 else {}
            with torch.no_grad():
                for each in (*weights.values(), *self.model_runner.kv_caches):
                    each.zero_()

        def wake_up(self, tags: list[str] | None = None) -> None:
            if tags is None or "weights" in tags:
                weights = dict(self.model_runner.model.named_parameters())
                with torch.no_grad():
                    for name, kept in self._kept.items():
                        weights[name].copy_(kept)

    return PretendGpuWorker
