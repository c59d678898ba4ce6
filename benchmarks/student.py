"""How fast is a student trained, against Hugging Face's Trainer and the paper's recipe, and is it as good?

    python -m benchmarks.student

The same model, rows as token ids, epochs, batch size and learning rate for all (``benchmarks.student_peers``): this
loop on Ray Train with one worker and with two, ``Trainer`` with its defaults (random order, padding to the longest row
of a batch), and a plain loop that pads every row to 512. Each training in a fresh process, peers in alternating order,
a seed for each repetition; ``samples_s`` is the median of training rows per second of training steps, without start,
scoring and files, and without the first epoch, in whose first steps torch prepares its kernels. ``scores`` are the
accuracy on test of the epoch that was best on the selection part.

What the comparison does not say: on a CPU one worker computes with all cores and two share them, so ``ours2`` shows
what the exchange of gradients costs and not what a second machine brings; with a single GPU the two share it through
Gloo. What grouping by length saves depends on how the lengths of the rows differ; here they are single sentences.
On a GPU the paper's recipe computes in float32 and the others in bfloat16; on a CPU that has bfloat16, ours alone does.
The last line is a JSON object.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.processes import run_peer
from benchmarks.provenance import keep_result
from benchmarks.student_peers import MODEL, PEERS, TASK


def samples_s(run: dict[str, Any], num_rows: int) -> float:
    """Training rows per second of training steps, from the second epoch on."""
    measured: list[float] = run["epoch_s"][1:]
    return num_rows * len(measured) / sum(measured)


def summarise(runs: dict[str, list[dict[str, Any]]], num_rows: int) -> dict[str, Any]:
    """Medians of the speeds, what is compared of them, and the scores over the seeds."""
    speed = {peer: statistics.median(samples_s(run, num_rows) for run in runs[peer]) for peer in PEERS}
    scores = {peer: [run["test"] for run in runs[peer]] for peer in PEERS}
    return {
        **{f"{peer}_samples_s": value for peer, value in speed.items()},
        "ours_over_trainer": speed["ours"] / speed["trainer"],
        "ours_over_paper": speed["ours"] / speed["paper"],
        "ours2_over_ours": speed["ours2"] / speed["ours"],
        "scores": {
            peer: {"mean": statistics.mean(own), "std": statistics.stdev(own) if len(own) > 1 else None}
            for peer, own in scores.items()
        },
    }


def main() -> None:
    """Train all peers in turn, compare, and keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=128, help="training rows, of 1488")
    parser.add_argument("--epochs", type=int, default=3, help="at least 2")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/student.json"))
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: the first one is not measured")
    settings = {"rows": options.rows, "epochs": options.epochs, "batch-size": options.batch_size}
    runs: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
    for seed in range(options.repeats):
        order = [*PEERS][seed % len(PEERS) :] + [*PEERS][: seed % len(PEERS)]
        for peer in order:
            options_of = {"seed": seed, **settings}
            flags = [str(part) for name, value in options_of.items() for part in (f"--{name}", value)]
            run = run_peer("benchmarks.student_peers", peer, flags)
            runs[peer].append(run)
            speed = samples_s(run, options.rows)
            print(f"seed {seed}, {peer}: {speed:.1f} samples/s, test {run['test']:.3f}", flush=True)
    summary = summarise(runs, options.rows)
    keep_result(options.results, {"task": TASK, "model": MODEL, **settings, **summary, "runs": runs})


if __name__ == "__main__":
    main()
