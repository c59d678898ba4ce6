"""The engine around vLLM, without vLLM: number formats, and the memory of a GPU that it leaves and takes again."""

import asyncio
from dataclasses import dataclass

import pytest

from s3ray.config.job import GeneratorConfig
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.gpus import Gpus
from s3ray.generator.engines.vllm import VLLMEngine, resolve_dtype
from tests.generator.engines.nvml import Nvml


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
def test_dtype(asked: str, device: str, flags: set[str], resolved: str) -> None:
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
