"""What a job sets of the engine reaches vLLM: an adapter, sampling, arguments of its engine. One start for all."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from s3ray.config.job import GeneratorConfig
from s3ray.errors import InputError
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.label_probabilities import shares
from s3ray.generator.engines.vllm import VLLMEngine, _import_vllm
from s3ray.types import Prompt
from tests.models import make_llama

pytestmark = pytest.mark.engine

RANK, ALPHA = 4, 16
STORY = "Once upon a time there was a"
QUESTION = Prompt(text=STORY, choices=("x", "q"))


def make_adapter(folder: Path, base: Path) -> Path:
    """Write a LoRA adapter of a tiny Llama with random weights, as PEFT saves it."""
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(base)
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(("q_proj", "v_proj", "down_proj")):
            weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, layer.in_features) * 0.3
            weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(layer.out_features, RANK) * 0.3
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    return folder


def merged(base: Path, adapter: Path | None) -> LlamaForCausalLM:
    """The model as transformers computes it, with the adapter added to its weights."""
    from safetensors.torch import load_file

    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    weights = load_file(adapter / "adapter_model.safetensors") if adapter is not None else {}
    for name, layer in model.named_modules():
        if (down := weights.get(f"base_model.model.{name}.lora_A.weight")) is not None:
            up = weights[f"base_model.model.{name}.lora_B.weight"]
            layer.weight.data += ALPHA / RANK * up @ down
    return model


@dataclass
class Running:
    """An engine that has started with an adapter, and the loop that it lives in."""

    engine: VLLMEngine
    loop: asyncio.AbstractEventLoop
    base: Path
    adapter: Path

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 120))

    def write(self, seed: int) -> str:
        return str(self.run(self.engine.generate(f"text-{seed}", Prompt(text=STORY), seed=seed, max_tokens=24)).text)


def config(base: Path, **settings: Any) -> GeneratorConfig:
    limits = {"max_model_len": 512, "max_num_batched_tokens": 512, "max_num_seqs": 4, "dtype": "float32"}
    return GeneratorConfig.model_validate({"model": str(base), "prompt_form": "completion", **limits, **settings})


def engine_of(generator: GeneratorConfig) -> VLLMEngine:
    return VLLMEngine(EngineSpec(engine="engine-0", config=generator, device="cpu", num_threads=2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def running(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    adapter = make_adapter(tmp_path_factory.mktemp("adapter"), base)
    arguments = {"block_size": 32, "long_prefill_token_threshold": 256}
    engine = engine_of(config(base, adapter=str(adapter), sampling={"top_k": 1}, engine_args=arguments))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.start())
    yield Running(engine, loop, base, adapter)
    loop.run_until_complete(engine.close())
    loop.close()


def test_an_adapter_answers_as_if_it_were_part_of_the_weights(running: Running) -> None:
    """Against transformers, with and without; the same engine serves the bare model where a request has no adapter."""
    tokenizer: Any = AutoTokenizer.from_pretrained(running.base)
    story = torch.tensor([tokenizer(STORY)["input_ids"]])
    # A choice counts with a small first letter and with a capital one.
    wanted = [
        [tokenizer(each)["input_ids"][0] for each in (choice, choice.capitalize())] for choice in QUESTION.choices
    ]
    requested = running.engine._adapter
    told, expected, texts = [], [], []
    for adapter in (running.adapter, None):
        running.engine._adapter = requested if adapter is not None else None
        told.append(running.run(running.engine.choose(f"choice-{adapter}", QUESTION)).probabilities)
        texts.append(running.write(1))
        with torch.inference_mode():
            likely = merged(running.base, adapter)(story).logits[0, -1].softmax(-1)
        expected.append(shares([sum(likely[token].item() for token in tokens) for tokens in wanted]))
    running.engine._adapter = requested
    assert told[0] == pytest.approx(expected[0], abs=1e-3)
    assert told[1] == pytest.approx(expected[1], abs=1e-3)
    assert told[0] != pytest.approx(told[1], abs=0.01)
    assert texts[0] != texts[1]


def test_the_likeliest_token_alone_is_drawn_where_the_job_says_so(running: Running) -> None:
    assert running.write(1) == running.write(2)


def test_arguments_of_the_engine_reach_it(running: Running) -> None:
    resolved = running.engine._engine.vllm_config
    assert resolved.cache_config.block_size == 32
    assert resolved.scheduler_config.long_prefill_token_threshold == 256
    assert resolved.lora_config.max_lora_rank == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kv_cache_dtype": "fp77"}, "fp77"),
        ({"quantization": "nonsense"}, "nonsense"),
        ({"compilation_config": {"nonsense": 1}}, "nonsense"),
        ({"speculative_config": {"method": "ngramm", "num_speculative_tokens": 3}}, "ngramm"),
        ({"quantisation": "fp8"}, "Did you mean `quantization`"),
    ],
)
def test_what_vllm_does_not_take_is_said_before_anything_is_loaded(
    base: Path, arguments: dict[str, Any], says: str
) -> None:
    engine = engine_of(config(base, engine_args=arguments))
    engine._api = _import_vllm()
    with pytest.raises(InputError, match=says) as refusal:
        engine._configure(engine._arguments(str(base)))
    assert refusal.value.field.startswith("generator.engine_args")
