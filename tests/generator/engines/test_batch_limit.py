"""How many sequences an engine decodes at once where the job leaves it to the card."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.config.job import GeneratorConfig
from s3ray.generator.engines.batch_limit import ModelSize, auto_num_seqs, model_size

GIB = 2**30
QWEN_14B = {"num_hidden_layers": 48, "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 8}
QWEN_32B = {"num_hidden_layers": 64, "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 8}


def config(**settings: Any) -> GeneratorConfig:
    return GeneratorConfig.model_validate({"model": "m", **settings})


def size_of(folder: Path, settings: object, generator: GeneratorConfig) -> ModelSize:
    (folder / "config.json").write_text(json.dumps(settings))
    return model_size(folder, generator)


@pytest.mark.parametrize(
    ("gib", "weights_gib", "kv_bytes", "num_seqs"),
    [
        (72, 28, 196_608, 1024),  # 14B on a H100 of 80 GiB: room for some 600 sequences, rounded up
        (72, 15, 57_344, 1024),  # 7B there
        (36, 28, 196_608, 128),  # 14B on 40 GiB: room for 71
        (43, 15, 57_344, 256),  # no card below 70 GiB gets more than vLLM gives it
        (35, 31, 131_072, 32),  # 32B on two cards of 40 GiB: hardly any room
        (20, 60, 131_072, 32),  # none at all: vLLM will say so
        (72, 28, None, 1024),  # nothing known of the model: by the card alone
        (36, 28, None, 256),
    ],
)
def test_the_memory_that_is_left_decides(gib: float, weights_gib: float, kv_bytes: int | None, num_seqs: int) -> None:
    size = ModelSize(num_bytes=int(weights_gib * GIB), kv_bytes_per_token=kv_bytes)
    assert auto_num_seqs(config(), int(gib * GIB), size) == num_seqs


def test_a_step_has_a_token_of_each_sequence() -> None:
    size = ModelSize(num_bytes=0, kv_bytes_per_token=None)
    assert auto_num_seqs(config(max_num_batched_tokens=300), 80 * GIB, size) == 300


def test_longer_texts_leave_room_for_fewer() -> None:
    size = ModelSize(num_bytes=28 * GIB, kv_bytes_per_token=196_608)
    assert auto_num_seqs(config(sampling={"max_tokens": 4096}, max_model_len=8192), 72 * GIB, size) == 128


@given(st.integers(0, 300 * GIB), st.integers(0, 300 * GIB), st.integers(1, 10**7), st.integers(1, 16384))
def test_the_limit_is_always_one_that_vllm_takes(memory: int, weights: int, kv_bytes: int, batched: int) -> None:
    size = ModelSize(num_bytes=weights, kv_bytes_per_token=kv_bytes)
    num = auto_num_seqs(config(max_num_batched_tokens=batched), memory, size)
    assert 1 <= num <= min(1024, batched)
    assert num == batched or (num >= 32 and num.bit_count() == 1)


@pytest.mark.parametrize(
    ("settings", "generator", "kv_bytes"),
    [
        (QWEN_14B, {}, 2 * 48 * 8 * 128 * 2),
        (QWEN_14B | {"head_dim": 64}, {}, 2 * 48 * 8 * 64 * 2),
        (QWEN_32B, {"tensor_parallel": 2}, 2 * 64 * 4 * 128 * 2),
        (QWEN_32B, {"tensor_parallel": 16}, 2 * 64 * 1 * 128 * 2),
        (QWEN_32B, {"tensor_parallel": 2, "pipeline_parallel": 2}, 2 * 64 * 4 * 128),
        (QWEN_14B, {"engine_args": {"kv_cache_dtype": "fp8_e4m3"}}, 2 * 48 * 8 * 128),
        ({"text_config": QWEN_14B}, {}, 2 * 48 * 8 * 128 * 2),
        (QWEN_14B | {"layer_types": ["linear_attention"] * 36 + ["full_attention"] * 12}, {}, 2 * 12 * 8 * 128 * 2),
        (QWEN_14B | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}, {"tensor_parallel": 8}, 48 * 576 * 2),
        ({"num_hidden_layers": 4}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_cache_of_a_token_is_read_from_the_model_s_config(
    tmp_path: Path, settings: dict[str, Any], generator: dict[str, Any], kv_bytes: int | None
) -> None:
    assert size_of(tmp_path, settings, config(**generator)).kv_bytes_per_token == kv_bytes


def test_weights_are_counted_by_their_files(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "other.bin"):
        (tmp_path / name).write_bytes(b"x" * 600)
    assert size_of(tmp_path, QWEN_14B, config(tensor_parallel=2)).num_bytes == 600
    (tmp_path / "config.json").write_text("{")
    assert model_size(tmp_path, config()) == ModelSize(num_bytes=1200, kv_bytes_per_token=None)
