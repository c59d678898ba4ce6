"""What is kept of vLLM's statistics: sums over its steps, and the times of a request."""

from typing import Any

from s3ray.generator.engines.base import Timing
from s3ray.types import EngineStats


class Counts:
    """Listens to vLLM's statistics (its interface ``StatLoggerBase``) and keeps sums."""

    def __init__(self) -> None:
        self.num_running = self.num_preemptions = 0
        self.num_prompt_tokens = self.num_cached_tokens = self.num_output_tokens = 0
        self.kv_use = 0.0

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Add what vLLM reports after each step of the engine."""
        if scheduler_stats is not None:
            self.num_running = scheduler_stats.num_running_reqs
            self.kv_use = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            prompts = iteration_stats.prompt_token_stats
            self.num_prompt_tokens += prompts.total
            self.num_cached_tokens += prompts.cached_tokens
            self.num_output_tokens += iteration_stats.num_generation_tokens
            self.num_preemptions += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        """Do nothing; vLLM calls it once."""

    def stats(self, num_open: int) -> EngineStats:
        """The state after vLLM's last step, of an engine with ``num_open`` requests."""
        # A request that ends at a stop string leaves vLLM between two steps.
        num_running = min(self.num_running, num_open)
        return EngineStats(
            num_running=num_running,
            num_waiting=num_open - num_running,
            kv_use=self.kv_use if num_open else 0.0,
            num_preemptions=self.num_preemptions,
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_output_tokens=self.num_output_tokens,
        )


def timing(stats: Any) -> Timing:
    """Read vLLM's ``RequestStateStats``."""
    num_later = stats.num_generation_tokens - 1
    return Timing(
        queue_s=stats.scheduled_ts - stats.queued_ts,
        first_token_s=stats.first_token_latency,
        per_token_s=(stats.last_token_ts - stats.first_token_ts) / num_later if num_later > 0 else None,
    )
