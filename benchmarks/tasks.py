"""Does every builtin task go through the whole loop with a real model? One small run each, and a table.

    python -m benchmarks.tasks --data DIR

DIR holds a folder of data per task (train, validation, test). The models are those of the quickstart, far too small for
these tasks: the table shows that every kind and template works, not how good the method is. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance

TASKS = ("imdb", "qnli", "rte", "adversarial_qa")


def run_task(task: str, data: Path, runs: Path) -> dict[str, Any]:
    """Run one task's small job to the end and read its metrics."""
    out = runs / task
    command = ["run", f"jobs/small/{task}.yaml", "--set", f"data={data / task}", "--out", str(out)]
    subprocess.run([str(Path(sys.executable).parent / "s3ray"), *command], check=True)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def to_markdown(runs: dict[str, dict[str, Any]], origin: dict[str, str]) -> str:
    """A row per task and round."""
    first = next(iter(runs.values()))
    lines = [
        "# Every builtin task, once through the loop",
        "",
        f"Made by `{origin['command']}` at commit {origin['commit']} on {origin['machine']}; jobs in `jobs/small/`.",
        "Generator "
        f"{first['generator']}, student {first['student']}: far too small for these tasks. The table shows that every "
        "kind and every template works with a real model.",
        "",
        "| task | round | requested | accepted | rejected | failed | output tokens | rows | selection | test |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task, metrics in runs.items():
        for entry in metrics["rounds"]:
            rejected = ", ".join(f"{reason} {num}" for reason, num in entry["rejected"].items())
            failed = ", ".join(f"{reason} {num}" for reason, num in entry["failed"].items())
            is_last = entry is metrics["rounds"][-1]
            lines.append(
                f"| {task} | {entry['round']} | {entry['requested']} | {entry['accepted']} | {rejected} | {failed} | "
                f"{entry['output_tokens']} | {entry['rows']} | {_scores(entry['select'])} | "
                f"{_scores(metrics['test']) if is_last else ''} |"
            )
    return "\n".join([*lines, ""])


def _scores(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items() if name != "num_examples")


def main() -> None:
    """Run every task, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of data per task")
    parser.add_argument("--runs", type=Path, default=Path("runs/tasks"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/tasks"), help="path, no suffix")
    options = parser.parse_args()
    runs = {task: run_task(task, options.data, options.runs) for task in TASKS}
    # The folder of the data is a matter of the machine.
    origin = provenance() | {"command": "python -m benchmarks.tasks --data DIR"}
    result = {"schema": 1, **origin, "runs": runs}
    options.results.with_suffix(".md").write_text(to_markdown(runs, origin), encoding="utf-8")
    options.results.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(to_markdown(runs, origin))
    print(json.dumps({task: metrics["test"] for task, metrics in runs.items()}))


if __name__ == "__main__":
    main()
