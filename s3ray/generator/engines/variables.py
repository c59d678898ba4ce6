"""The environment in which vLLM is imported: what s3ray sets where the user has set nothing."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from s3ray.generator.engines.base import EngineSpec
from s3ray.redaction import secrets

_CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
    "TILELANG_CACHE_DIR": "tilelang",
}
"""Caches of compiled code that vLLM does not keep below its own, by the variables that move them."""
_NOT_CARRIED = "ray_non_carry_over_env_vars.json"
"""Where vLLM reads, in its folder of settings, which variables its Ray workers do not get."""


def variables(spec: EngineSpec, set_by_user: Mapping[str, str]) -> dict[str, str]:
    """The variables to set for an engine, besides those that are set."""
    wanted = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    if spec.device == "gpu":
        # FlashInfer's sampler is compiled by nvcc at the first start, which many nodes lack; with a seed for each
        # request, and for greedy ones, vLLM never uses it.
        wanted["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        if root := set_by_user.get("VLLM_CACHE_ROOT"):
            wanted |= {name: str(Path(root).expanduser() / folder) for name, folder in _CACHES.items()}
    if spec.device == "cpu" and spec.executor == "uni":
        # On CPUs vLLM would give the model a process of its own, to bind its threads, which no engine here does.
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    wanted = {name: value for name, value in wanted.items() if name not in set_by_user}
    if spec.device == "cpu":
        wanted["VLLM_CPU_KVCACHE_SPACE"] = str(spec.config.kv_cache_gib)
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        wanted["OMP_NUM_THREADS"] = str(spec.num_threads)
    return wanted


@contextlib.contextmanager
def secrets_kept_here() -> Iterator[None]:
    """While the block is open, vLLM does not hand this process's secrets to the Ray workers that it starts.

    It hands them the whole environment, as arguments of their actors. Workers have the environment of their own node
    and that of the job, so they miss nothing.
    """
    names = set(secrets())
    if not names:
        yield
        return
    before = os.environ.get("VLLM_CONFIG_ROOT")
    settings = Path(before or os.environ.get("XDG_CONFIG_HOME", "~/.config") + "/vllm").expanduser()
    with contextlib.suppress(OSError, ValueError):
        names |= set(json.loads((settings / _NOT_CARRIED).read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="s3ray-vllm-") as folder:
        for file in settings.glob("*") if settings.is_dir() else ():
            if file.name != _NOT_CARRIED:
                (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / _NOT_CARRIED).write_text(json.dumps(sorted(names)), encoding="utf-8")
        os.environ["VLLM_CONFIG_ROOT"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["VLLM_CONFIG_ROOT"]
            else:
                os.environ["VLLM_CONFIG_ROOT"] = before
