"""What is set before vLLM is imported, and what of this process's secrets its Ray workers get."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from s3ray.config.job import GeneratorConfig
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.variables import secrets_kept_here, variables


def spec(device: str) -> EngineSpec:
    return EngineSpec(engine="engine-0", config=GeneratorConfig(model="m"), device=device, num_threads=3)


def test_on_a_gpu_nothing_is_compiled_by_nvcc_at_the_start() -> None:
    assert variables(spec("gpu"), {})["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in variables(spec("cpu"), {})


def test_what_the_user_has_set_stays() -> None:
    own = {"VLLM_USE_FLASHINFER_SAMPLER": "1", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_NO_USAGE_STATS": "0"}
    assert variables(spec("gpu"), own) == {}


def test_every_cache_of_compiled_code_moves_with_vllm_s() -> None:
    found = variables(spec("gpu"), {"VLLM_CACHE_ROOT": "/local/cache", "TRITON_CACHE_DIR": "/mine"})
    moved = {name: value for name, value in found.items() if value.startswith("/local/cache/")}
    assert set(moved) == {"FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH", "TILELANG_CACHE_DIR"}
    assert len(set(moved.values())) == len(moved)
    assert "TRITON_CACHE_DIR" not in found
    assert not any("CACHE" in name for name in variables(spec("gpu"), {}))


def test_a_cpu_engine_computes_with_its_own_threads_whatever_is_set() -> None:
    assert variables(spec("cpu"), {"OMP_NUM_THREADS": "64"})["OMP_NUM_THREADS"] == "3"


def test_a_cpu_engine_of_one_worker_takes_no_process_for_it() -> None:
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    assert variables(spec("cpu"), {})[name] == "0"
    assert name not in variables(spec("cpu"), {name: "1"})
    assert name not in variables(replace(spec("cpu"), executor="mp"), {})
    assert name not in variables(spec("gpu"), {})


def test_secrets_are_not_handed_to_vllm_s_ray_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "vllm"
    settings.mkdir()
    (settings / "ray_non_carry_over_env_vars.json").write_text('["MINE"]', encoding="utf-8")
    (settings / "do_not_track").touch()
    monkeypatch.setenv("VLLM_CONFIG_ROOT", str(settings))
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    with secrets_kept_here():
        there = Path(os.environ["VLLM_CONFIG_ROOT"])
        assert {"HF_TOKEN", "MINE"} <= set(json.loads((there / "ray_non_carry_over_env_vars.json").read_text()))
        assert (there / "do_not_track").exists()
    assert os.environ["VLLM_CONFIG_ROOT"] == str(settings)
    assert not there.exists()
    assert json.loads((settings / "ray_non_carry_over_env_vars.json").read_text()) == ["MINE"]
