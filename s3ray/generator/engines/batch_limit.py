"""``max_num_seqs: auto``: how many sequences an engine on a GPU decodes at once. Pure.

vLLM's own defaults go by the card alone: 1024 sequences from 70 GiB on, 256 below (``get_batch_defaults`` in
engine/arg_utils.py); a hosted engine does not even get those. Here what the card has left for the KV cache counts too:
a limit above it only takes memory, for the sampler's buffers. It is rounded up, because a limit that is too high costs
little: vLLM preempts, and the pool learns from it how much an engine holds. CUDA graphs, which an engine that sleeps
keeps in the host's memory, hardly grow with it: vLLM captures none above 512 sequences (1024 on Blackwell).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3ray.config.job import AUTO_NUM_SEQS, GeneratorConfig
from s3ray.generator.scheduling.estimates import PRIOR_PROMPT_TOKENS, PRIOR_RATIO

_GIB = 2**30
_LARGE = 60 * _GIB  # of a card that vLLM calls large (70 GiB) an engine takes 0.9 at the most
_MOST, _LEAST = 1024, 32
_OTHER_USE = 3 * _GIB  # CUDA graphs, the activations of a step, the sampler: guessed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Bytes of a model's weights, and of the KV cache that one token takes (None: not known), on one GPU of it."""

    num_bytes: int
    kv_bytes_per_token: int | None


def auto_num_seqs(config: GeneratorConfig, memory: int, size: ModelSize) -> int:
    """Sequences that an engine with ``memory`` bytes of each of its GPUs decodes at once."""
    most = _MOST if memory >= _LARGE else AUTO_NUM_SEQS
    if size.kv_bytes_per_token:
        num_tokens = max(0, memory - size.num_bytes - _OTHER_USE) / size.kv_bytes_per_token
        num_seqs = num_tokens / (PRIOR_PROMPT_TOKENS + PRIOR_RATIO * config.sampling.max_tokens)
        most = min(most, max(_LEAST, 2 ** math.ceil(math.log2(max(1.0, num_seqs)))))
    return min(most, config.max_num_batched_tokens)  # a step has a token of each sequence


def model_size(folder: Path, config: GeneratorConfig) -> ModelSize:
    """The size of a model by its files, with the cache type and the parallelism that a job asks for."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    is_narrow = str(config.engine_args.get("kv_cache_dtype", "")).startswith("fp8")
    values = _kv_values(settings.get("text_config", settings), config.tensor_parallel)
    of_token = values and values * (1 if is_narrow else 2) // config.pipeline_parallel
    return ModelSize(num_bytes=weights // config.world_size, kv_bytes_per_token=of_token)


def _kv_values(settings: Mapping[str, Any], tensor_parallel: int) -> int | None:
    """Numbers in the KV cache for one token, over all layers; None where the settings do not tell."""
    try:
        kinds = settings.get("layer_types") or ["full_attention"] * settings["num_hidden_layers"]
        layers = sum("attention" in kind and "linear" not in kind for kind in kinds)
        if latent := settings.get("kv_lora_rank"):  # of latent attention each GPU keeps all
            return layers * (int(latent) + int(settings.get("qk_rope_head_dim") or 0))
        heads = settings["num_attention_heads"]
        width = settings.get("head_dim") or settings["hidden_size"] // heads
        return int(2 * layers * max(1, (settings.get("num_key_value_heads") or heads) // tensor_parallel) * width)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
