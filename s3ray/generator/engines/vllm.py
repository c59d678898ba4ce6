"""The real engine: vLLM's AsyncLLM. The only file that imports vllm.

Batch limits are always explicit, because the defaults of a hosted AsyncLLM do not depend on the card. Seeded requests
whose prompt is prefilled in chunks kill vLLM's CPU engine, so there chunked prefill is off and a step may hold a whole
prompt.
"""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from s3ray.errors import EngineDeadError, RequestRefusedError
from s3ray.generator.engines.base import EngineSpec
from s3ray.types import EngineLimits, Generation, Prompt
from s3ray.weights import resolve_model

_NOT_TEXT = "\"' \n\t"  # quotes and white space around what was written
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86 and Arm


class VLLMEngine:
    """One vLLM engine on the device that was planned for it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._engine: Any = None
        self._tokenizer: Any = None

    async def start(self) -> EngineLimits:
        """Load the model and warm it up; takes from seconds to minutes."""
        config = self._spec.config
        folder = await asyncio.to_thread(resolve_model, config.model)
        _set_environment(self._spec)
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        dtype = resolve_dtype(config.dtype, self._spec.device, read_cpu_flags())
        on_cpu = self._spec.device == "cpu"
        batched = max(config.max_num_batched_tokens, config.max_model_len) if on_cpu else config.max_num_batched_tokens
        arguments = AsyncEngineArgs(
            model=folder,
            dtype=dtype,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=batched,
            enable_prefix_caching=True,
            enable_chunked_prefill=False if on_cpu else None,
            enforce_eager=on_cpu,
            tensor_parallel_size=config.tensor_parallel,
            distributed_executor_backend="mp" if config.tensor_parallel > 1 else "uni",
            gpu_memory_utilization=config.gpu_memory_utilization,
            trust_remote_code=config.trust_remote_code,
            load_format="auto",
            seed=0,
        )
        self._engine = AsyncLLM.from_engine_args(arguments)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        resolved = self._engine.vllm_config
        blocks = resolved.cache_config.num_gpu_blocks or 0
        return EngineLimits(
            max_num_seqs=resolved.scheduler_config.max_num_seqs,
            max_num_batched_tokens=resolved.scheduler_config.max_num_batched_tokens,
            max_model_len=resolved.model_config.max_model_len,
            num_kv_tokens=blocks * resolved.cache_config.block_size,
            dtype=str(resolved.model_config.dtype).removeprefix("torch."),
            device=self._spec.device,
        )

    async def generate(self, request_id: str, prompt: Prompt, seed: int) -> Generation:
        """Complete one prompt; vLLM's errors are translated here, so that nobody else needs vLLM to read them."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError as VLLMEngineDeadError

        config = self._spec.config
        token_ids = self._tokenize(prompt)
        longest = config.max_model_len - config.sampling.max_tokens
        if len(token_ids) > longest:
            raise RequestRefusedError(f"the prompt has {len(token_ids)} tokens, {longest} fit (max_model_len)")
        sampling = SamplingParams(
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            max_tokens=config.sampling.max_tokens,
            stop=list(prompt.stop) or None,
            seed=seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompted = TokensPrompt(prompt_token_ids=token_ids)
        try:
            outputs = [output async for output in self._engine.generate(prompted, sampling, request_id)]
        except VLLMEngineDeadError as error:
            raise EngineDeadError(str(error)) from error
        except (VLLMClientError, ValueError) as error:
            raise RequestRefusedError(f"{type(error).__name__}: {error}") from error
        if not outputs:
            raise EngineDeadError("the engine closed a request without an answer")
        completion = outputs[-1].outputs[0]
        if completion.finish_reason not in ("stop", "length"):
            raise RequestRefusedError(f"the engine ended the request with {completion.finish_reason!r}")
        # vLLM leaves the stop string out; a full stop at which it stopped belongs to the sentence.
        stopped_at = completion.stop_reason if isinstance(completion.stop_reason, str) else ""
        return Generation(
            request_id=request_id,
            text=completion.text + stopped_at.strip(_NOT_TEXT),
            finish_reason=completion.finish_reason,
            num_prompt_tokens=len(token_ids),
            num_cached_tokens=outputs[-1].num_cached_tokens or 0,
            num_output_tokens=len(completion.token_ids),
        )

    def _tokenize(self, prompt: Prompt) -> list[int]:
        if prompt.text is not None:
            return list(self._tokenizer(prompt.text)["input_ids"])
        messages = [{"role": "user", "content": prompt.user}]
        if prompt.system:
            messages.insert(0, {"role": "system", "content": prompt.system})
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    async def check(self) -> None:
        """Ask vLLM: requests that are open when its process dies may otherwise wait for ever."""
        from vllm.v1.engine.exceptions import EngineDeadError as VLLMEngineDeadError

        try:
            await self._engine.check_health()
        except VLLMEngineDeadError as error:
            raise EngineDeadError(str(error)) from error

    async def close(self) -> None:
        """Stop the engine's process."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None


def resolve_dtype(dtype: str, device: str, cpu_flags: Collection[str]) -> str:
    """The number format to load a model in: on a CPU ``auto`` is bfloat16 only where the CPU computes with it.

    Emulated bfloat16 is several times slower than float32.
    """
    if dtype != "auto" or device != "cpu":
        return dtype
    return "float32" if _BFLOAT16_FLAGS.isdisjoint(cpu_flags) else "bfloat16"


def read_cpu_flags() -> frozenset[str]:
    """What this machine's CPU reports that it can do; nothing where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split())


def _set_environment(spec: EngineSpec) -> None:
    """What vLLM reads from the environment; must be set before it is imported."""
    if spec.device == "cpu":
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(spec.config.kv_cache_gib)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(spec.num_threads)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
