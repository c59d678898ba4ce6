"""What vLLM is told, and what is read of what it says, without vLLM: number format, arguments, room in its cache."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s3ray.config.job import GeneratorConfig
from s3ray.errors import InputError
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine, read_limits, resolve_dtype
from tests.test_adapters import make_adapter_files


@pytest.mark.parametrize(
    ("asked", "device", "flags", "resolved"),
    [
        ("auto", "cpu", {"avx2"}, "float32"),
        ("auto", "cpu", {"avx2", "avx512_bf16"}, "bfloat16"),
        ("auto", "cpu", {"asimd", "bf16"}, "bfloat16"),
        ("auto", "gpu", {"avx2"}, "auto"),
        ("float32", "cpu", {"avx512_bf16"}, "float32"),
    ],
)
def test_on_a_cpu_the_number_format_follows_what_it_can_do(
    asked: str, device: str, flags: set[str], resolved: str
) -> None:
    assert resolve_dtype(asked, device, flags) == resolved


def arguments(**settings: Any) -> dict[str, Any]:
    config = GeneratorConfig.model_validate({"model": "org/m", **settings})
    return VLLMEngine(EngineSpec(engine="engine-0", config=config, device="cpu"))._arguments("/models/m")


def test_arguments_of_the_job_are_handed_over_and_may_replace_what_s3ray_would_choose() -> None:
    given = {"kv_cache_dtype": "fp8", "enforce_eager": False}
    told = arguments(engine_args=given)
    assert told == arguments() | given
    assert arguments()["enforce_eager"] is True
    with pytest.raises(InputError, match="is set by s3ray"):
        arguments(engine_args={"max_num_seqs": 8})


def test_an_adapter_switches_lora_on_with_room_for_its_rank(tmp_path: Path) -> None:
    told = arguments(adapter=str(make_adapter_files(tmp_path / "it", {"r": 24})))
    assert (told["enable_lora"], told["max_loras"], told["max_lora_rank"]) == (True, 1, 32)
    assert "enable_lora" not in arguments()


@pytest.mark.parametrize(
    ("settings", "num_seqs"),
    [({}, 256), ({"max_num_seqs": 7}, 7), ({"max_num_batched_tokens": 100}, 100)],
)
def test_on_a_cpu_the_limit_is_the_job_s_or_256(settings: dict[str, Any], num_seqs: int) -> None:
    assert arguments(**settings)["max_num_seqs"] == num_seqs


@pytest.mark.parametrize(("said", "num_kv_tokens"), [(1000, 1000), (None, 64 * 16), (0, 64 * 16)])
def test_of_a_hybrid_model_s_cache_vllm_s_own_count_is_taken(said: int | None, num_kv_tokens: int) -> None:
    resolved = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=9),
        model_config=SimpleNamespace(max_model_len=10, dtype="torch.float32"),
        cache_config=SimpleNamespace(num_gpu_blocks=64, block_size=16, kv_cache_size_tokens=said),
    )
    limits = read_limits(resolved, "cpu")
    assert (limits.num_kv_tokens, limits.max_num_seqs, limits.dtype) == (num_kv_tokens, 8, "float32")
