"""Phases of a benchmark without engines: records as a pool would have left them, and profiles made from them."""

from typing import Any

from s3ray.bench.measures import Measured, cell_profile
from s3ray.bench.profile import Cell, Identity, Profile, Sweep
from s3ray.bench.record import Life, PhaseRecord
from s3ray.generator.engines.base import Timing
from s3ray.rounds.journal import Tally
from s3ray.types import EngineLimits, EngineStats

START, DRY, END = 100.0, 120.0, 124.0


def reading(
    at: float, output: int = 0, busy_s: float = 0.0, prompt: int = 0, cached: int = 0, **more: Any
) -> tuple[float, EngineStats]:
    """What an engine said at a moment."""
    stats = EngineStats(
        num_output_tokens=output, busy_s=busy_s, num_prompt_tokens=prompt, num_cached_tokens=cached, **more
    )
    return at, stats


def two_engines() -> PhaseRecord:
    """24 s: both write 50 tokens/s; engine-0 has nothing to do from 121 s on, and engine-1 was idle for 2 s before.

    The counters begin at what the warm-up left: 500 output tokens and 10 s.
    """
    first = [
        reading(99.0, 500, 10.0, 1000, 200),
        reading(110.0, 1000, 20.0, 3000, 1200, kv_use=0.4, num_running=8),
        reading(120.0, 1500, 30.0, 5000, 2200, kv_use=0.6, num_running=4),
        reading(124.0, 1550, 31.0, 5000, 2200, kv_use=0.0),
    ]
    second = [
        reading(99.0, 500, 10.0, 1000, 200),
        reading(110.0, 1000, 18.0, 3000, 1200, kv_use=0.2, num_running=8),
        reading(120.0, 1500, 28.0, 5000, 2200, kv_use=0.8, num_running=8),
        reading(124.0, 1700, 32.0, 5000, 2200, kv_use=0.0),
    ]
    return PhaseRecord(
        lives=[
            Life(engine="engine-0", ready_at=99.0, readings=first),
            Life(engine="engine-1", ready_at=99.0, readings=second),
        ],
        started_at=START,
        dry_at=DRY,
        ended_at=END,
        timings=[
            Timing(queue_s=0.1 * place, first_token_s=0.2 * place, per_token_s=0.01 if place else None)
            for place in range(5)
        ],
    )


def tally(**changes: Any) -> Tally:
    """200 requests, 150 of them accepted; the tokens of ``two_engines``."""
    told: dict[str, Any] = {
        "requested": 200,
        "accepted": 150,
        "prompt_tokens": 8000,
        "cached_tokens": 4000,
        "output_tokens": 2250,
    }
    whole = Tally(**(told | {name: value for name, value in changes.items() if name not in ("rejected", "failed")}))
    whole.rejected.update(changes.get("rejected", {"truncated": 50}))
    whole.failed.update(changes.get("failed", {}))
    return whole


def limits(**changes: Any) -> EngineLimits:
    told: dict[str, Any] = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        "max_model_len": 768,
        "num_kv_tokens": 40000,
        "dtype": "bfloat16",
        "device": "gpu",
        "device_name": "NVIDIA H100 80GB HBM3",
    }
    return EngineLimits(**(told | changes))


def measured(**changes: Any) -> Measured:
    """What a cell of two engines on H100s left behind."""
    told: dict[str, Any] = {
        "cell": Cell(engines=2, max_num_seqs=8, prompts="seed", requests=200, repeat=0),
        "engine": "vllm",
        "record": two_engines(),
        "tally": tally(),
        "e2e_s": [1.0, 2.0, 3.0],
        "limits": [limits(), limits()],
        "starts_s": [20.0, 25.0],
        "restarts": 0,
        "work": "0123456789abcdef",
        "parameters": 1_000_000_000,
        "devices_per_engine": 1.0,
        "min_seconds": 10.0,
    }
    return Measured(**(told | changes))


IDENTITY = Identity(
    job="job",
    task="review_sentences",
    strategy="s3",
    fingerprint="f" * 16,
    engine="vllm",
    model="org/model",
    dtype="bfloat16",
    parameters=1_000_000_000,
    prompt_form="completion",
    sampling={"temperature": 0.9, "top_p": 0.9, "max_tokens": 64},
    tensor_parallel=1,
    pipeline_parallel=1,
    cluster="1 node, 16 CPU cores, 2 GPUs (H100)",
    nodes=1,
    cpus=16,
    gpus=2,
    device="gpu",
    device_name="NVIDIA H100 80GB HBM3",
    devices_per_engine=1.0,
    versions={"s3ray": "0.1.0", "python": "3.11.9", "ray": "2.60.0", "torch": "2.13.0", "vllm": "0.32.0"},
    commit="abc1234",
    command="s3ray bench job.yaml",
    created="2026-01-01T00:00:00+00:00",
)
SWEEP = Sweep(engines=(2,), max_num_seqs=(8,), prompts=("seed",), requests=200, repeats=1, min_seconds=10.0)


def profile(*cells: Measured, identity: Identity = IDENTITY) -> Profile:
    """A profile as the command makes it."""
    notes = ["scaling: one engine count was swept"]
    made = []
    for place, cell in enumerate(cells or (measured(),)):
        of_cell: list[str] = []
        made.append(cell_profile(cell, of_cell))
        notes += [f"cells.{place}.{note}" for note in of_cell]
    return Profile(
        complete=True, identity=identity, settings=SWEEP, cells=tuple(made), scaling=None, notes=tuple(notes)
    )
