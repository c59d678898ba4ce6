"""Which strategy writes the best training set, at equal rows? Runs them all and makes the table.

    python -m benchmarks.strategies --seeds 0 1 2 --runs runs/strategies --results benchmarks/results/strategies

Each run is an ordinary `s3ray run jobs/strategies.yaml` with two settings changed, so an interrupted benchmark goes on
where it stopped. A seed changes everything that is random: the gold rows drawn, generation, training. Writes
RESULTS.md and RESULTS.json; the last line printed is the JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance

JOB = "jobs/strategies.yaml"
STRATEGIES = ("gold", "zerogen", "goldgen", "s3")


def command_of(strategy: str, seed: int, runs: str) -> list[str]:
    """The command of one run, as a user would give it."""
    settings = {"strategy.name": strategy, "seed": seed, "gold.seed": seed}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["s3ray", "run", JOB, *options, "--out", f"{runs}/{strategy}-{seed}"]


def run_one(strategy: str, seed: int, runs: str) -> dict[str, Any]:
    """Run one strategy with one seed to the end (a finished run ends at once) and read its metrics."""
    command = command_of(strategy, seed, runs)
    print("$", " ".join(command), flush=True)
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
    metrics = Path(runs) / f"{strategy}-{seed}" / "metrics.json"
    content: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return content


def row_of(strategy: str, seed: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of one run."""
    rounds = metrics["rounds"]
    return {
        "strategy": strategy,
        "seed": seed,
        "rows": rounds[-1]["rows"],
        "requested": sum(round_["requested"] for round_ in rounds),
        "output_tokens": sum(round_["output_tokens"] for round_ in rounds),
        "select_by_round": [round_["select"][metrics["metric"]] for round_ in rounds],
        "mistakes_by_round": [round_["mistakes"] for round_ in rounds],
        "test": metrics["test"][metrics["metric"]],
        "num_test": metrics["test"]["num_examples"],
        "generate_s": metrics["seconds"]["generate"],
        "train_s": metrics["seconds"]["train"],
        "total_s": metrics["seconds"]["total"],
    }


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the test score per strategy, and S3's paired lead over it."""
    s3 = {row["seed"]: row["test"] for row in rows if row["strategy"] == "s3"}
    summary = []
    for strategy in STRATEGIES:
        own = {row["seed"]: row["test"] for row in rows if row["strategy"] == strategy}
        lead = [s3[seed] - score for seed, score in own.items() if seed in s3]
        summary.append(
            {
                "strategy": strategy,
                "mean": statistics.mean(own.values()),
                "std": statistics.stdev(own.values()) if len(own) > 1 else None,
                "s3_lead_mean": statistics.mean(lead) if lead else None,
                "s3_lead_std": statistics.stdev(lead) if len(lead) > 1 else None,
            }
        )
    return summary


def to_markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Strategies at equal rows",
        "",
        f"Made by `{result['command']}` at commit {result['commit']} on {result['machine']}.",
        f"Task review_sentences, {result['rows'][0]['num_test']} test rows; generator {result['generator']}, student "
        f"{result['student']}; job `{JOB}`. Accuracy of the last student on test, which was read once.",
        "",
        "| strategy | rows | test accuracy, mean ± std | S3's lead, paired mean ± std | "
        + " | ".join(f"seed {seed}" for seed in result["seeds"])
        + " |",
        "|---|---|---|---|" + "---|" * len(result["seeds"]),
    ]
    for item in result["summary"]:
        own = [row for row in result["rows"] if row["strategy"] == item["strategy"]]
        lead = "" if item["strategy"] == "s3" else _mean_std(item["s3_lead_mean"], item["s3_lead_std"], "+")
        scores = " | ".join(f"{row['test']:.3f}" for row in own)
        rows = "/".join(sorted({str(row["rows"]) for row in own}))
        lines.append(f"| {item['strategy']} | {rows} | {_mean_std(item['mean'], item['std'])} | {lead} | {scores} |")
    lines += ["", "S3 by round (selection score, gold mistakes) and what each run cost:", ""]
    lines += ["| run | selection by round | mistakes by round | requests | output tokens | generate s | train s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        select = " → ".join(f"{score:.3f}" for score in row["select_by_round"])
        mistakes = " → ".join(str(num) for num in row["mistakes_by_round"])
        lines.append(
            f"| {row['strategy']}-{row['seed']} | {select} | {mistakes} | {row['requested']} | {row['output_tokens']} "
            f"| {row['generate_s']:.0f} | {row['train_s']:.0f} |"
        )
    lines += ["", "The runs:", "", "```", *result["commands"], "```", ""]
    return "\n".join(lines)


def _mean_std(mean: float, std: float | None, sign: str = "") -> str:
    return f"{mean:{sign}.3f}" + (f" ± {std:.3f}" if std is not None else "")


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs")
    parser.add_argument("--runs", default="runs/strategies", help="folder of the runs")
    parser.add_argument("--results", default="benchmarks/results/strategies", help="path of the result, no suffix")
    options = parser.parse_args()
    pairs = [(strategy, seed) for seed in options.seeds for strategy in STRATEGIES]
    metrics = {pair: run_one(*pair, options.runs) for pair in pairs}
    rows = [row_of(strategy, seed, metrics[strategy, seed]) for strategy in STRATEGIES for seed in options.seeds]
    result = {
        "schema": 1,
        **provenance(),
        "commands": [" ".join(command_of(*pair, options.runs)) for pair in pairs],
        "generator": metrics["s3", options.seeds[0]]["generator"],
        "student": metrics["s3", options.seeds[0]]["student"],
        "seeds": options.seeds,
        "rows": rows,
        "summary": summarise(rows),
    }
    path = Path(options.results)
    path.with_suffix(".md").write_text(to_markdown(result), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(to_markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
