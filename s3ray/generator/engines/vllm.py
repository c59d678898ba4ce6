"""The real engine: vLLM's AsyncLLM. The only file that imports vllm.

Batch limits are always explicit, because the defaults of a hosted AsyncLLM do not depend on the card. Seeded requests
whose prompt is prefilled in chunks kill vLLM's CPU engine, so there chunked prefill is off and a step may hold a whole
prompt. The path of a request is short, because it shares the cores with vLLM's own process: prompts go in as token ids
that need no rendering, answers come out once, and of vLLM's statistics only a few sums are kept.
"""

import asyncio
import gc
import math
import os
import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from s3ray.adapters import FIELD as ADAPTER
from s3ray.adapters import adapter_folder, check_adapter
from s3ray.errors import DeviceMemoryError, EngineDeadError, EngineStartError, RequestRefusedError, S3RayError
from s3ray.generator.engines.arguments import FIELD as ARGUMENTS
from s3ray.generator.engines.arguments import check_arguments, installed_arguments, refused_by_vllm
from s3ray.generator.engines.base import Choice, EngineSpec, Timing, kept_of_stop
from s3ray.generator.engines.batch_limit import auto_num_seqs, model_size
from s3ray.generator.engines.chat import ChatTemplate
from s3ray.generator.engines.counts import Counts, timing
from s3ray.generator.engines.gpus import Gpus, Turn, fitting_share
from s3ray.generator.engines.label_probabilities import first_tokens, shares
from s3ray.generator.engines.startup import Output, seconds_by_part, start_failure
from s3ray.generator.engines.variables import secrets_kept_here, variables
from s3ray.machine import LIMIT_S, cpu_flags, cpu_name, has_bfloat16
from s3ray.models import resolve_model
from s3ray.types import EngineLimits, EngineStats, Generation, Prompt

_END_ON_CPU_S = 0.5  # vLLM gives its process 5 s to give GPU memory back; on a CPU there is none, and they all pass
_ENDING = 48  # characters at the end of a prompt that decide how the text after it is tokenised


class VLLMEngine:
    """One vLLM engine on the device that was planned for it."""

    needs_devices = loads_model = True

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._sampling = spec.config.sampling
        self._switched_on = self._sampling.switched_on
        self._max_model_len = spec.config.max_model_len
        self._sleep_level = 0
        self._gpus: Gpus | None = None
        self._slept_off: list[int] = []
        self._notes: tuple[str, ...] = ()
        self._counts = Counts()
        self._timings: list[Timing] = []
        self._api: Any = None
        self._engine: Any = None
        self._adapter: Any = None  # vLLM's LoRARequest, which goes with each request
        self._tokenizer: Any = None
        self._chat: ChatTemplate
        self._encoder: Any = None
        self._first_tokens = lru_cache(maxsize=1024)(partial(first_tokens, partial(self._encode, is_whole=True)))

    async def start(self) -> EngineLimits:
        """Load the model and warm it up; takes from seconds to minutes."""
        config = self._spec.config
        folder = await asyncio.to_thread(resolve_model, config.model)
        os.environ.update(variables(self._spec, os.environ))
        from transformers import AutoTokenizer

        try:
            self._api = _import_vllm()
        except ImportError as error:
            raise start_failure(error, "") from error
        start_s = await self._build(folder)
        # vLLM also keeps Prometheus metrics, a histogram entry per token, which no one collects there.
        loggers = self._engine.logger_manager.stat_loggers
        loggers[:] = [kept for kept in loggers if type(kept) is not self._api.PrometheusStatLogger]
        await self._load_adapter()
        self._api.enable_envs_cache()  # vLLM asks for a variable at each token
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        self._chat = ChatTemplate(self._tokenizer, config.thinking)
        # Takes half the time of calling the tokenizer, which also computes offsets and word numbers that no one reads.
        self._encoder = self._tokenizer.backend_tokenizer if self._tokenizer.is_fast else None
        # Without this each full garbage collection walks through all of torch, which takes tenths of a second.
        gc.collect()
        gc.freeze()
        limits = read_limits(self._engine.vllm_config, self._spec.device)
        self._max_model_len = limits.max_model_len
        return replace(limits, notes=(*limits.notes, *self._notes), start_s=start_s)

    async def _build(self, folder: str) -> Mapping[str, float]:
        """Build vLLM's engine when its turn on the GPUs has come; returns the seconds of the parts of its start.

        Raises:
            EngineStartError: with the cause that vLLM's processes printed.
            DeviceMemoryError: the memory of a GPU did not become free.
            InputError: vLLM does not take these settings.
        """
        api, spec = self._api, self._spec
        waited_s: dict[str, float] = {}
        turn = Turn(spec.engine, spec.config.ready_s / 2)  # the other half is for the start itself
        spans_nodes = spec.executor == "ray"
        if spans_nodes:
            waited_s = await _wait_on_nodes(spec)
        elif spec.device == "gpu":
            self._gpus = _gpus_of(spec)
        output = Output()
        try:
            if self._gpus is not None:
                self._leave_room_for_contexts(self._gpus)
            arguments = await asyncio.to_thread(self._arguments, folder)  # which may fetch an adapter
            if self._gpus is not None:
                waited_s = await asyncio.to_thread(self._take_turn, self._gpus, turn, arguments)
            with output, secrets_kept_here() if spans_nodes else nullcontext():
                self._engine = api.AsyncLLM.from_vllm_config(
                    self._configure(arguments), stat_loggers=self._listeners(), disable_log_stats=True
                )
        except S3RayError:
            raise
        except Exception as error:
            raise start_failure(error, output.last_words()) from error
        finally:
            turn.end(is_ready=self._engine is not None)
        return {**waited_s, **seconds_by_part(output.text())}

    def _leave_room_for_contexts(self, gpus: Gpus) -> None:
        share = fitting_share(self._spec.memory_share, self._spec.config.gpu_share, min(gpus.totals))
        if share < self._spec.memory_share:
            self._notes = (
                f"takes {share:.3f} of its GPU's memory, not {self._spec.memory_share:.3f}: the CUDA contexts of the "
                "engines that share it need the rest",
            )
            self._spec = replace(self._spec, memory_share=share)

    def _take_turn(self, gpus: Gpus, turn: Turn, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Wait for the turn, then for the memory; returns the seconds of both."""
        turn.take(gpus.uuids, _first_start(arguments))
        began = time.monotonic()
        gpus.wait(self._spec.engine, [int(self._spec.memory_share * total) for total in gpus.totals])
        return {"turn": turn.seconds, "memory": time.monotonic() - began}

    def _listeners(self) -> list[Any]:
        """What listens to vLLM's statistics."""
        exports = [_ray_metrics()] if self._spec.config.engine_metrics else []
        return [lambda *_: self._counts, *exports]

    async def _load_adapter(self) -> None:
        """Have the LoRA adapter loaded now, since vLLM would otherwise do it at the first request.

        Raises:
            InputError: vLLM cannot serve it.
        """
        name = self._spec.config.adapter
        if not name:
            return
        folder = await asyncio.to_thread(adapter_folder, name)
        self._adapter = self._api.LoRARequest(name, 1, folder)
        try:
            await self._engine.add_lora(self._adapter)
        except self._api.EngineDeadError:
            raise
        except Exception as error:  # vLLM passes on only the words of what its other process raised
            raise refused_by_vllm(error, ADAPTER) from None

    def _configure(self, arguments: Mapping[str, Any]) -> Any:
        """Let vLLM put its configuration together (a ``VllmConfig``), which loads nothing yet.

        Raises:
            InputError: it does not take these settings.
        """
        try:
            return self._api.AsyncEngineArgs(**arguments).create_engine_config()
        except (ValueError, TypeError, AssertionError, NotImplementedError, ImportError) as error:
            raise refused_by_vllm(error, ARGUMENTS if self._spec.config.engine_args else "generator") from None

    def _arguments(self, folder: str) -> dict[str, Any]:
        config = self._spec.config
        check_arguments(config.engine_args, installed_arguments() if config.engine_args else None)
        on_cpu = self._spec.device == "cpu"
        batched = max(config.max_num_batched_tokens, config.max_model_len) if on_cpu else config.max_num_batched_tokens
        memory = {} if on_cpu else {"gpu_memory_utilization": self._spec.memory_share}
        rank = check_adapter(adapter_folder(config.adapter)).max_rank if config.adapter else None
        lora = {} if rank is None else {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        return {
            "model": folder,
            "served_model_name": config.model,  # in its metrics
            "dtype": resolve_dtype(config.dtype, self._spec.device, cpu_flags()),
            "max_model_len": config.max_model_len,
            "max_num_seqs": self._num_seqs(folder),
            "max_num_batched_tokens": batched,
            "enable_prefix_caching": True,
            "enable_chunked_prefill": False if on_cpu else None,
            "enforce_eager": on_cpu,
            "tensor_parallel_size": config.tensor_parallel,
            "pipeline_parallel_size": config.pipeline_parallel,
            "distributed_executor_backend": self._spec.executor,
            "trust_remote_code": config.trust_remote_code,
            "load_format": "safetensors",  # auto would read pickles where a model has nothing else
            "disable_log_stats": True,  # the statistics go to ``Counts`` alone, not to the log as well
            "seed": 0,
            "enable_sleep_mode": self._spec.can_sleep,
            **memory,
            **lora,
            **config.engine_args,
        }

    def _num_seqs(self, folder: str) -> int:
        config = self._spec.config
        if config.max_num_seqs != "auto":
            return config.max_num_seqs
        memory = _gpu_memory() if self._spec.device == "gpu" else None
        if memory is None:
            return min(config.num_seqs, config.max_num_batched_tokens)
        return auto_num_seqs(config, int(self._spec.memory_share * memory), model_size(Path(folder), config))

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        """Complete one prompt. vLLM's errors are translated, so that no other process needs vLLM to unpickle them."""
        token_ids = self._encode(*self._text_of(prompt))
        output = await self._complete(
            request_id,
            token_ids,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=max_tokens,
            **self._switched_on,
            stop=list(prompt.stop) or None,
            seed=seed,
            # The marks around thoughts and turns are needed to tell the answer from them (``read_answer``).
            skip_special_tokens=False,
        )
        completion = output.outputs[0]
        if self._spec.timed:
            self._timings.append(timing(output.metrics))
        return Generation(
            request_id=request_id,
            text=completion.text + kept_of_stop(completion.stop_reason),  # vLLM leaves the stop string out
            finish_reason=completion.finish_reason,
            num_prompt_tokens=len(token_ids),
            num_cached_tokens=output.num_cached_tokens or 0,
            num_output_tokens=len(completion.token_ids),
        )

    async def choose(self, request_id: str, prompt: Prompt) -> Choice:
        """Read the probabilities of the choices' first tokens from one decoding step; its sampled token is ignored."""
        text, is_whole = self._text_of(prompt, at_once=True)
        begins = self._first_tokens(text[-_ENDING:], prompt.choices)
        token_ids = self._encode(text, is_whole)
        wanted = [token for tokens in begins for token in tokens]
        output = await self._complete(request_id, token_ids, temperature=0.0, max_tokens=1, logprob_token_ids=wanted)
        completion = output.outputs[0]
        logprobs = completion.logprobs[0]
        return Choice(
            probabilities=shares([sum(math.exp(logprobs[token].logprob) for token in tokens) for tokens in begins]),
            num_prompt_tokens=len(token_ids),
            num_cached_tokens=output.num_cached_tokens or 0,
            num_output_tokens=len(completion.token_ids),
        )

    async def _complete(self, request_id: str, token_ids: list[int], *, max_tokens: int, **sampling: Any) -> Any:
        """Wait for vLLM's whole answer to a prompt."""
        api = self._api
        longest = self._max_model_len - max_tokens
        if len(token_ids) > longest:
            raise RequestRefusedError(f"the prompt has {len(token_ids)} tokens, {longest} fit (max_model_len)")
        # skip_clone: no one else holds these, and a deep copy costs more than all the rest of this method.
        params = api.SamplingParams(max_tokens=max_tokens, output_kind=api.FINAL_ONLY, skip_clone=True, **sampling)
        output: Any = None
        try:
            tokens = api.tokens_input(token_ids)
            async for answer in self._engine.generate(tokens, params, request_id, lora_request=self._adapter):
                output = answer
        except api.EngineDeadError as error:
            raise EngineDeadError(str(error)) from error
        except (api.VLLMClientError, ValueError) as error:
            raise RequestRefusedError(f"{type(error).__name__}: {error}") from error
        if output is None:
            raise EngineDeadError("the engine closed a request without an answer")
        finish_reason = output.outputs[0].finish_reason
        if finish_reason not in ("stop", "length"):
            raise RequestRefusedError(f"the engine ended the request with {finish_reason!r}")
        return output

    def _text_of(self, prompt: Prompt, *, at_once: bool = False) -> tuple[str, bool]:
        """The text for the model, and whether it has its special tokens already; see ``ChatTemplate.render``."""
        if prompt.text is not None:
            return prompt.text, False
        return self._chat.render(prompt.messages, at_once=at_once), True

    def _encode(self, text: str, is_whole: bool) -> list[int]:
        """Token ids; special tokens are added unless the text ``is_whole``."""
        if self._encoder is None:
            return list(self._tokenizer(text, add_special_tokens=not is_whole)["input_ids"])
        (encoding,) = self._encoder.encode_batch_fast([text], add_special_tokens=not is_whole)
        return list(encoding.ids)

    def stats(self) -> EngineStats:
        """VLLM's statistics after its last step."""
        return self._counts.stats(self._engine.get_num_unfinished_requests() if self._engine is not None else 0)

    def take_timings(self) -> list[Timing]:
        """The times that vLLM's own process measured."""
        timings, self._timings = self._timings, []
        return timings

    async def check(self) -> None:
        """Ask vLLM: requests that are open when its process dies may otherwise wait for ever."""
        try:
            await self._engine.check_health()
        except self._api.EngineDeadError as error:
            raise EngineDeadError(str(error)) from error

    async def sleep(self, level: int) -> None:
        """Free the GPU's memory; the prefix cache goes with it."""
        before = self._gpus.free() if self._gpus is not None else []
        await self._engine.sleep(level)
        after = self._gpus.free() if self._gpus is not None else []
        self._slept_off = [max(0, now - then) for then, now in zip(before, after, strict=True)]
        self._sleep_level = level

    async def wake(self) -> None:
        """Wait until the memory that it gave up is free again, and take it; dropped weights are read from disk."""
        if self._gpus is not None:
            await asyncio.to_thread(self._gpus.wait, self._spec.engine, self._slept_off)
        if self._sleep_level > 1:
            await self._engine.wake_up(["weights"])
            await self._engine.collective_rpc("reload_weights")
            await self._engine.wake_up(["kv_cache"])
            if self._adapter is not None:  # vLLM drops it when it reads the model's weights again
                await self._engine.add_lora(self._adapter)
        else:
            await self._engine.wake_up()

    async def close(self) -> None:
        """Stop the engine's process."""
        if self._engine is not None:
            self._engine.shutdown(timeout=_END_ON_CPU_S if self._spec.device == "cpu" else None)
            self._engine = None
        if self._gpus is not None:
            self._gpus.close()
            self._gpus = None


def _import_vllm() -> SimpleNamespace:
    """Import vLLM, which reads the environment at that moment; returns all of its names that are used here."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.envs import enable_envs_cache
    from vllm.exceptions import VLLMClientError
    from vllm.inputs.engine import tokens_input
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    return SimpleNamespace(
        AsyncEngineArgs=AsyncEngineArgs,
        AsyncLLM=AsyncLLM,
        EngineDeadError=EngineDeadError,
        LoRARequest=LoRARequest,
        FINAL_ONLY=RequestOutputKind.FINAL_ONLY,
        PrometheusStatLogger=PrometheusStatLogger,
        SamplingParams=SamplingParams,
        VLLMClientError=VLLMClientError,
        enable_envs_cache=enable_envs_cache,
        tokens_input=tokens_input,
    )


def _ray_metrics() -> Any:
    """The listener that exports vLLM's metrics through Ray's, from this actor."""
    from ray.util import metrics
    from vllm.v1.metrics import ray_wrappers

    # vLLM takes Ray's metrics only where Ray Serve is installed too, of which nothing is used outside of a replica.
    ray_wrappers.ray_metrics = metrics
    return ray_wrappers.RayPrometheusStatLogger


def _gpu_memory() -> int | None:
    """Bytes of memory of this process's first GPU; None if that is not known."""
    from vllm.platforms import current_platform

    try:
        return int(current_platform.get_device_total_memory())
    except Exception:  # platforms raise what they like, and NVML errors of its own
        return None


def _gpus_of(spec: EngineSpec) -> Gpus | None:
    """The GPUs that this process may use, checked; None on other accelerators than NVIDIA's."""
    import torch
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import import_pynvml

    if not current_platform.is_cuda():
        return None
    num = 1 if spec.executor == "ray" else spec.config.world_size
    gpus = Gpus(import_pynvml(), [current_platform.device_id_to_physical_device_id(number) for number in range(num)])
    # NVIDIA's compatibility libraries let newer CUDA run on an older driver.
    if not os.environ.get("VLLM_ENABLE_CUDA_COMPATIBILITY"):
        gpus.check(torch.version.cuda)
    return gpus


def _first_start(arguments: Mapping[str, Any]) -> Path:
    """The file beside vLLM's caches that says that an engine with these arguments has started before."""
    from vllm import __version__, envs

    told = repr((__version__, _gpu_name(), sorted(arguments.items())))
    return Path(envs.VLLM_CACHE_ROOT) / "s3ray-started" / sha256(told.encode()).hexdigest()[:16]


async def _wait_on_nodes(spec: EngineSpec) -> dict[str, float]:
    """Wait for the memory of each GPU of the placement group, on its node; vLLM's Ray workers will take them.

    Raises:
        EngineStartError: a node cannot run it.
        DeviceMemoryError: the memory of a GPU did not become free.
    """
    from vllm.platforms import current_platform

    from s3ray.cluster import head_address, on_each_bundle

    # vLLM does it too, but not where VLLM_WORKER_MULTIPROC_METHOD is set; its process would start a Ray of its own.
    os.environ["RAY_ADDRESS"] = head_address()
    if not current_platform.is_cuda():
        return {}
    began = time.monotonic()
    look = partial(_memory_problem, spec)
    for problem in await asyncio.to_thread(on_each_bundle, look, spec.config.world_size, 2 * LIMIT_S):
        if problem is not None:
            raise problem
    return {"memory": time.monotonic() - began}


def _memory_problem(spec: EngineSpec) -> EngineStartError | DeviceMemoryError | None:
    """Wait for the memory of the one GPU of this Ray task; returns what prevents the engine from starting there."""
    try:
        gpus = _gpus_of(spec)
        if gpus is not None:
            gpus.wait(spec.engine, [int(spec.memory_share * total) for total in gpus.totals])
            gpus.close()
    except (EngineStartError, DeviceMemoryError) as error:
        return error
    return None


def resolve_dtype(dtype: str, device: str, flags: Collection[str]) -> str:
    """The number format to load a model in: on a CPU ``auto`` is bfloat16 only where the CPU computes with it."""
    if dtype != "auto" or device != "cpu":
        return dtype
    return "bfloat16" if has_bfloat16(flags) else "float32"


def read_limits(resolved: Any, device: str) -> EngineLimits:
    """The limits in a ``VllmConfig`` that a running engine has resolved."""
    return EngineLimits(
        max_num_seqs=resolved.scheduler_config.max_num_seqs,
        max_num_batched_tokens=resolved.scheduler_config.max_num_batched_tokens,
        max_model_len=resolved.model_config.max_model_len,
        num_kv_tokens=_kv_tokens(resolved.cache_config),
        dtype=str(resolved.model_config.dtype).removeprefix("torch."),
        device=device,
        device_name=_gpu_name() if device == "gpu" else cpu_name(),
    )


def _kv_tokens(cache: Any) -> int:
    """Tokens that the KV cache holds; of hybrid models that is less than the product of its blocks and their size."""
    return int(cache.kv_cache_size_tokens or (cache.num_gpu_blocks or 0) * cache.block_size)


def _gpu_name() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.get_device_name())
