"""The engine around vLLM, without vLLM: what it is told, what is read of what it says, and the memory of its GPU."""

import asyncio
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s3ray.config.job import GeneratorConfig
from s3ray.errors import InputError
from s3ray.generator.engines import vllm as vllm_module
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.gpus import Gpus
from s3ray.generator.engines.vllm import VLLMEngine, read_limits, resolve_dtype
from s3ray.types import Prompt
from tests.generator.engines.nvml import Nvml
from tests.generator.engines.test_chat import DEEPSEEK_AS_IT_WAS, EMPTY, Tokenizer
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


@dataclass
class Sleeper:
    """An engine in vLLM's place: it sleeps to 23 of 24 GiB free; the last one holds its context, and stays its own."""

    nvml: Nvml

    async def sleep(self, level: int) -> None:
        self.nvml.free_gib = [23.0]

    async def wake_up(self) -> None:
        self.nvml.free_gib = [0.5]


def test_an_engine_that_wakes_does_not_wait_for_what_it_kept_itself() -> None:
    spec = EngineSpec(engine="engine-0", config=GeneratorConfig(model="m"), device="gpu", memory_share=0.97)
    engine, nvml = VLLMEngine(spec), Nvml(free_gib=[0.5])
    engine._gpus, engine._engine = Gpus(nvml, [0]), Sleeper(nvml)

    async def nap() -> None:
        await engine.sleep(1)
        # 0.97 of the card never comes free while the sleeper lives, so this would end after two minutes.
        await asyncio.wait_for(engine.wake(), 5.0)

    asyncio.run(nap())
    assert nvml.free_gib == [0.5]


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


class Hosted(VLLMEngine):
    """Its model was loaded by something else than vLLM, which says of it what vLLM would."""

    async def _build(self, folder: str) -> dict[str, float]:
        resolved = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=9),
            model_config=SimpleNamespace(max_model_len=10, dtype="torch.float32"),
            cache_config=SimpleNamespace(num_gpu_blocks=64, block_size=16, kv_cache_size_tokens=1000),
        )
        self._engine = SimpleNamespace(logger_manager=SimpleNamespace(stat_loggers=[]), vllm_config=resolved)
        return {}


class Slow(Tokenizer):
    """The tokenizer of a model whose chat template shows thoughts, and knows no switch for them."""

    is_fast = False

    @classmethod
    def from_pretrained(cls, folder: str, **_: Any) -> "Slow":
        return cls(DEEPSEEK_AS_IT_WAS)


@pytest.mark.parametrize(("thinking", "end"), [("auto", ""), ("off", EMPTY)])
def test_a_hosted_model_thinks_as_the_job_says(
    thinking: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    vllm = SimpleNamespace(PrometheusStatLogger=object, enable_envs_cache=lambda: None)
    monkeypatch.setattr(vllm_module, "_import_vllm", lambda: vllm)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=Slow))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(gc, "freeze", lambda: None)
    config = GeneratorConfig.model_validate({"model": str(tmp_path), "prompt_form": "chat", "thinking": thinking})
    engine = Hosted(EngineSpec(engine="engine-0", config=config, device="cpu"))
    asyncio.run(engine.start())
    assert engine._text_of(Prompt(user="Tell!")) == (f"Tell!<|Assistant|>{end}", True)
