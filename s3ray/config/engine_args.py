"""Arguments of vLLM's engine that a job hands through: who sets them, and which of them change what is written. Pure.

The names are those of vLLM 0.32 (``AsyncEngineArgs``). Whether the installed vLLM has an argument is checked elsewhere.
"""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import JsonValue


class Effect(StrEnum):
    """What an argument decides."""

    OWN = "set by s3ray"
    SPEED = "how fast texts are written"
    DATA = "which texts are written"


_SAME = ("dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "trust_remote_code")
"""What ``generator`` has by the same name."""

_GROUPS: tuple[tuple[Effect, str, str], ...] = (
    # -- set by s3ray: the reason says what to use instead -----------------------------------------------------------
    *((Effect.OWN, f"Set generator.{name}.", name) for name in _SAME),
    (Effect.OWN, "Set generator.model.", "model model_weights served_model_name"),
    (Effect.OWN, "Name it in generator.model: `org/name@REVISION`.", "revision code_revision"),
    (Effect.OWN, "The model's own tokenizer is used, since s3ray counts tokens with it too.",
     "tokenizer tokenizer_mode tokenizer_revision skip_tokenizer_init"),
    (Effect.OWN, "Set generator.gpu_memory_utilization, and generator.gpu_share for several engines on one GPU.",
     "gpu_memory_utilization"),
    (Effect.OWN, "Set generator.tensor_parallel.", "tensor_parallel_size"),
    (Effect.OWN, "Set generator.pipeline_parallel.", "pipeline_parallel_size"),
    (Effect.OWN, "An engine has generator.tensor_parallel x generator.pipeline_parallel GPUs.",
     "prefill_context_parallel_size"),
    (Effect.OWN, "Set generator.engines: each is a replica of its own.",
     "data_parallel_size data_parallel_rank data_parallel_start_rank data_parallel_size_local data_parallel_address "
     "data_parallel_rpc_port data_parallel_hybrid_lb data_parallel_external_lb data_parallel_multi_port_external_lb "
     "data_parallel_backend"),
    (Effect.OWN, "s3ray places engines itself (docs/placement.md).",
     "distributed_executor_backend nnodes node_rank master_addr master_port device_ids worker_cls"),
    (Effect.OWN, "s3ray restarts engines itself (docs/pool.md).", "enable_fault_tolerance fault_tolerance_config"),
    (Effect.OWN, "The pool holds the queue: an engine that refuses requests would lose them.",
     "max_num_queued_reqs max_num_queued_tokens"),
    (Effect.OWN, "Keys belong into no file: export HF_TOKEN.", "hf_token"),
    (Effect.OWN, "Set `seed`: each request has a seed of its own, which is made from it.", "seed"),
    (Effect.OWN, "Set placement.leave.", "enable_sleep_mode"),
    (Effect.OWN, "Set generator.adapter.", "enable_lora max_lora_rank max_loras default_mm_loras"),
    (Effect.OWN, "It is on where it is safe: on a CPU seeded requests end an engine that prefills in chunks.",
     "enable_chunked_prefill"),
    (Effect.OWN, "Engines write texts, which the pool takes whole.",
     "runner convert pooler_config tokens_only enable_prompt_embeds stream_interval"),
    (Effect.OWN, "s3ray keeps the statistics; vLLM's log has the level of VLLM_LOGGING_LEVEL.",
     "disable_log_stats aggregate_engine_logging enable_log_requests log_level log_config_file logging_config"),
    # -- how fast ----------------------------------------------------------------------------------------------------
    (Effect.SPEED, "The same arithmetic by other kernels: results differ by rounding, as between two batches.",
     "attention_backend compilation_config cudagraph_capture_sizes max_cudagraph_capture_size enforce_eager "
     "optimization_level performance_mode kernel_config enable_flashinfer_autotune moe_backend linear_backend "
     "ir_op_priority all2all_backend disable_custom_all_reduce disable_cascade_attn gdn_prefill_backend "
     "kda_prefill_backend kda_decode_backend mamba_backend enable_shm_tensor_arena jit_monitor_mode "
     "jit_monitor_verbose"),
    (Effect.SPEED, "Lossless: what is drafted is kept or replaced so that texts have the distribution that they have "
     "without it (rejection sampling).", "speculative_config spec_method spec_model spec_tokens"),
    (Effect.SPEED, "Where weights and KV cache lie and how large they are, not what is in them.",
     "kv_cache_memory_bytes block_size num_gpu_blocks_override enable_prefix_caching prefix_caching_hash_algo "
     "prefix_cache_retention_interval cpu_offload_gb cpu_offload_params offload_backend offload_group_size "
     "offload_num_in_group offload_prefetch_step offload_params kv_offloading_size kv_offloading_backend "
     "kv_transfer_config kv_events_config sleep_mode_offload_cudagraph enable_cumem_allocator "
     "enable_nccl_comm_suspend disable_hybrid_kv_cache_manager max_cpu_loras fully_sharded_loras"),
    (Effect.SPEED, "Which request is computed when.",
     "max_num_scheduled_tokens max_num_active_seqs long_prefill_token_threshold long_prefill_token_threshold_adaptive "
     "scheduler_reserve_full_isl prefill_schedule_interval watermark scheduling_policy async_scheduling"),
    (Effect.SPEED, "How the GPUs of an engine share the work.",
     "enable_expert_parallel enable_ep_weight_filter enable_dbo ubatch_size dbo_decode_token_threshold "
     "dbo_prefill_token_threshold enable_eplb eplb_config expert_placement_strategy decode_context_parallel_size "
     "dcp_comm_backend dcp_q_replicate dcp_kv_cache_interleave_size cp_kv_cache_interleave_size numa_bind "
     "numa_bind_nodes numa_bind_cpus distributed_timeout_seconds cpu_distributed_timeout_seconds "
     "ray_workers_use_nsight"),
    (Effect.SPEED, "How weights are read.",
     "load_format download_dir safetensors_load_strategy safetensors_prefetch_num_threads "
     "safetensors_prefetch_block_size max_parallel_loading_workers use_tqdm_on_load"),
    (Effect.SPEED, "What is observed.",
     "otlp_traces_endpoint collect_detailed_traces per_request_spec_decode_metrics kv_cache_metrics "
     "kv_cache_metrics_sample custom_histogram_buckets cudagraph_metrics enable_layerwise_nvtx_tracing "
     "enable_mfu_metrics enable_logging_iteration_details show_hidden_metrics_for_version profiler_config "
     "fail_on_environ_validation"),
    # -- which texts -------------------------------------------------------------------------------------------------
    (Effect.DATA, "Weights in another number format, or another model.",
     "quantization quantization_config allow_deprecated_quantization hf_overrides hf_config_path config_format "
     "model_class_overrides model_impl lora_dtype"),
    (Effect.DATA, "What the model reads again from its cache is rounded, or left out.",
     "kv_cache_dtype kv_cache_dtype_skip_layers mamba_cache_dtype mamba_ssm_cache_dtype kv_sharing_fast_prefill "
     "enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds disable_sliding_window"),
    (Effect.DATA, "How tokens are drawn, or when a text ends.",
     "generation_config override_generation_config logits_processors logprobs_mode use_fp64_gumbel watermark_config "
     "diffusion_config structured_outputs_config reasoning_config reasoning_parser"),
)  # fmt: skip

_ARGUMENTS = {name: (effect, reason) for effect, reason, names in _GROUPS for name in names.split()}
_UNKNOWN = (Effect.DATA, "Nobody has found that it changes nothing but the speed.")

VALUES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "load_format": (
        ("safetensors", "fastsafetensors", "instanttensor", "runai_streamer"),
        "Other formats may hold pickles, which run code when they are read (docs/security.md).",
    )
}
"""Arguments of which some values are refused: those that are taken, and why only these."""

SPECULATION = ("speculative_config", "spec_method")
"""The arguments of which one switches speculation on."""

_LOSSY_METHOD = "synthetic"  # accepts drafts at a rate that is asked for, whatever the model thinks of them


def effect_of(name: str) -> tuple[Effect, str]:
    """What an argument decides, and the reason; one that is not known is taken to change the texts."""
    return _ARGUMENTS.get(name, _UNKNOWN)


def known_arguments() -> frozenset[str]:
    """The arguments whose effect is known."""
    return frozenset(_ARGUMENTS)


def shaping_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Those of the arguments that shape the data."""
    return {name: value for name, value in arguments.items() if _shapes(name, value)}


def _shapes(name: str, value: JsonValue) -> bool:
    if name == "speculative_config" and isinstance(value, dict):
        return value.get("rejection_sample_method") == _LOSSY_METHOD
    return effect_of(name)[0] is Effect.DATA
