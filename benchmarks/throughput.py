"""Does the pool lose anything against bare vLLM, and what does it win over Ray Data LLM?

    python -m benchmarks.throughput

A real model (SmolLM2-135M) in real vLLM on this machine's CPU, or on a GPU if it has one; the same engine settings,
the same prompts as token ids, limits and seeds. One engine at a time, each measurement in a fresh process, peers in
alternating order, medians. Two kinds of work (``benchmarks.workload``): requests with log-normal output limits, and 8
variants for each of 32 long contexts, handed over as a careless user has them. ``tok_s`` is output tokens per second
from the first request handed over to the last answer; start-up is reported apart. ``prefix_distinct_tokens`` of all
contexts stand against ``limits.num_kv_tokens``; ``prefix_ray_data_sorted_tok_s`` is what Ray Data LLM does for a user
who sorts the rows by context first. ``vllm`` is ``LLM`` as it comes, with its engine in processes of their own;
``vllm_in_process`` is ``LLM`` with all in one process, which no server and no pool can have, as they hear of new
requests while they compute. The last line is a JSON object.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.processes import run_peer
from benchmarks.provenance import keep_result
from benchmarks.workload import BATCH, NUM_VARIANTS, engine_environment, make_config

PARTS = {
    "pool": ("uneven", "prefix"),
    "vllm": ("uneven",),
    "vllm_in_process": ("uneven",),
    "ray_data": ("uneven", "prefix", "sorted"),
}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
TOLERANCE = 0.03  # of the output tokens: sums of bfloat16 depend on the batch, and so a few texts end elsewhere

Report = dict[str, Any]


def check(runs: dict[str, list[Report]]) -> None:
    """Refuse to compare peers that did not do the same work with the same engine."""
    limits = {json.dumps(run["limits"]) for reports in runs.values() for run in reports if run["limits"]}
    if len(limits) > 1:
        raise SystemExit(f"engines resolved different limits: {limits}")
    for part in ("uneven", "prefix"):
        done = [run["parts"][part] for reports in runs.values() for run in reports if part in run["parts"]]
        prompt_tokens = {measured["num_prompt_tokens"] for measured in done}
        output_tokens = {measured["num_output_tokens"] for measured in done}
        if len(prompt_tokens) > 1 or min(output_tokens) < (1 - TOLERANCE) * max(output_tokens):
            raise SystemExit(f"{part}: the work differs: {prompt_tokens} prompt tokens, {output_tokens} output tokens")


def tok_s(reports: Iterable[Report], part: str) -> list[float]:
    """Output tokens per second of each repetition."""
    return [run["parts"][part]["num_output_tokens"] / run["parts"][part]["seconds"] for run in reports]


def summarise(runs: dict[str, list[Report]]) -> dict[str, Any]:
    """Medians over the repetitions, and what is compared of them."""
    uneven = {peer: statistics.median(tok_s(runs[peer], "uneven")) for peer in PARTS}
    prefix = {peer: statistics.median(tok_s(runs[peer], "prefix")) for peer in ("pool", "ray_data")}
    hits = [run["parts"]["prefix"]["num_cached_tokens"] / run["parts"]["prefix"]["num_prompt_tokens"]
            for run in runs["pool"]]  # fmt: skip
    return {
        **{f"{peer}_tok_s": value for peer, value in uneven.items()},
        "pool_over_vllm": uneven["pool"] / uneven["vllm"],
        "pool_over_vllm_in_process": uneven["pool"] / uneven["vllm_in_process"],
        "pool_over_ray_data": uneven["pool"] / uneven["ray_data"],
        **{f"prefix_{peer}_tok_s": value for peer, value in prefix.items()},
        "prefix_pool_over_ray_data": prefix["pool"] / prefix["ray_data"],
        "prefix_hit_rate": statistics.median(hits),
        "prefix_distinct_tokens": runs["pool"][0]["parts"]["prefix"]["num_prompt_tokens"] // NUM_VARIANTS,
        "prefix_ray_data_sorted_tok_s": statistics.median(tok_s(runs["ray_data"], "sorted")),
        "start_s": {peer: statistics.median(run["start_s"] for run in runs[peer]) for peer in PARTS},
    }


def print_table(runs: dict[str, list[Report]]) -> None:
    """Every measurement, a line for each peer and part."""
    print(f"{'peer':<16}{'part':<8}{'start s':>8}{'requests':>10}{'prompt':>9}{'output':>8}  tok/s of each repetition")
    for peer, reports in runs.items():
        start_s = statistics.median(run["start_s"] for run in reports)
        for part in PARTS[peer]:
            first = reports[0]["parts"][part]
            counts = f"{first['num_requests']:>10}{first['num_prompt_tokens']:>9}{first['num_output_tokens']:>8}"
            speeds = "  ".join(f"{speed:.1f}" for speed in tok_s(reports, part))
            print(f"{peer:<16}{part:<8}{start_s:>8.1f}{counts}  {speeds}")


def main() -> None:
    """Measure all peers in turn, compare, and keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=256, help=f"with uneven output limits, a multiple of {BATCH}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/throughput.json"))
    options = parser.parse_args()
    if options.requests % BATCH:
        parser.error(f"--requests must be a multiple of {BATCH}")
    runs: dict[str, list[Report]] = {peer: [] for peer in PARTS}
    for repeat in range(options.repeats):
        order = [*PARTS][repeat % len(PARTS) :] + [*PARTS][: repeat % len(PARTS)]
        for peer in order:
            flags = [*PARTS[peer], "--requests", str(options.requests)]
            environment = engine_environment(make_config()) | (IN_PROCESS if peer == "vllm_in_process" else {})
            runs[peer].append(run_peer("benchmarks.peers", peer, flags, environment))
            speeds = ", ".join(f"{part} {tok_s(runs[peer][-1:], part)[0]:.1f} tok/s" for part in PARTS[peer])
            print(f"repetition {repeat + 1}, {peer}: {speeds}", flush=True)
    check(runs)
    print_table(runs)
    keep_result(options.results, {**summarise(runs), "limits": runs["pool"][0]["limits"], "runs": runs})


if __name__ == "__main__":
    main()
