"""What is a shared cluster worth to a campaign? The same runs by `s3ray compare` and one after another.

    git worktree add runs/before COMMIT
    python -m benchmarks.campaign --before runs/before --results benchmarks/results/campaign.json

Real models, real Ray: two strategies and three seeds on review_sentences at a small size, first all at once, then one
`s3ray run` after the other, in new folders; with ``--before`` these are run by the code of another commit, that one
before runs and campaigns were made faster. Then 48 runs on 64 devices in virtual time (``campaign_simulation``): the
decisions are the product's, what things take is assumed and stands in the result. The last line printed is the JSON.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.campaign_simulation import (
    ENGINE_START_S,
    SCALING,
    TAIL_S,
    TRAINER_START_S,
    CampaignSimulation,
    RunShape,
)
from benchmarks.provenance import keep_result
from s3ray.campaign.sharing import Devices
from s3ray.config.grid import Campaign, load_campaign
from s3ray.storage.run_folder import RunStore

JOB = Path("jobs/strategies.yaml")
NUM_DEVICES = 64
NUM_WORKERS = (2, 8)
# Rows of the paper's experiments (S3, tables 2 and 6): gold, seed set, additions of both rounds; and its epochs. Tokens
# a row, and rows a second that one device trains on, are assumed.
TASKS: dict[str, dict[str, float]] = {
    "imdb": {"gold": 25_000, "seed": 15_000, "added": 6_173, "tokens": 230, "epochs": 6, "rows_s": 300},
    "qnli": {"gold": 105_000, "seed": 116_900, "added": 51_100, "tokens": 30, "epochs": 10, "rows_s": 1333},
    "rte": {"gold": 2_490, "seed": 32_100, "added": 1_522, "tokens": 35, "epochs": 20, "rows_s": 1000},
    "adversarial_qa": {"gold": 30_000, "seed": 30_000, "added": 51_532, "tokens": 25, "epochs": 10, "rows_s": 500},
}
YIELD = 0.8
TOKENS_PER_S = (300, 500, 1500)


def run_shapes(tokens_per_s: float) -> list[RunShape]:
    """Four tasks, four strategies, three seeds; every device generates ``tokens_per_s``."""
    shapes = []
    for _ in range(3):
        for task in TASKS.values():
            rows = task["seed"] + task["added"]
            middle = task["seed"] + task["added"] / 2
            sizes: dict[str, list[tuple[float, float]]] = {
                "gold": [(0.0, task["gold"])],
                "zerogen": [(rows, rows)],
                "goldgen": [(rows, rows)],
                "s3": [(task["seed"], task["seed"]), (task["added"] / 2, middle), (task["added"] / 2, rows)],
            }
            for rounds in sizes.values():
                generate_s = [written * task["tokens"] / YIELD / tokens_per_s for written, _ in rounds]
                train_s = [trained * task["epochs"] / task["rows_s"] for _, trained in rounds]
                num_rows = [written for written, _ in rounds]
                work = [trained * task["epochs"] for _, trained in rounds]
                shapes.append(RunShape(generate_s=generate_s, train_s=train_s, num_rows=num_rows, work=work))
    return shapes


def simulate(tokens_per_s: float) -> dict[str, Any]:
    """Shares of all device-seconds of a campaign."""
    devices = Devices(
        num_devices=NUM_DEVICES,
        per_engine=1,
        per_worker=1,
        num_engines=NUM_DEVICES,
        min_workers=NUM_WORKERS[0],
        max_workers=NUM_WORKERS[1],
        is_split=False,
    )
    shapes = run_shapes(tokens_per_s)
    result = CampaignSimulation(shapes, devices).run()
    shares = {what: spent / NUM_DEVICES / result.makespan_s for what, spent in result.spent_s.items()}
    return {
        "tokens_per_s": tokens_per_s,
        "runs": len(shapes),
        "makespan_s": result.makespan_s,
        "busy_share": shares["generating"] + shares["training"],
        "starting_share": shares["starting"],
        "engine_starts": result.num_engine_starts,
    }


def write_grid(folder: Path, rows: int, seeds: Sequence[int]) -> Path:
    """The grid of the real part: the shipped job at a small size."""
    size = {
        "strategy.rows": rows,
        "strategy.rounds": 1,
        "strategy.seed_examples": rows * 3 // 5,
        "strategy.reasons_per_label": 10,
        "student.workers": 1,
        "student.min_steps": 0,
    }
    grid = {
        "name": "campaign",
        "job": str(JOB.resolve()),
        "axes": {"strategy": {name: {"strategy.name": name, **size} for name in ("zerogen", "s3")}},
        "seeds": list(seeds),
        "trainings": 2,
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
    return path


def timed(*command: str, code: Path | None = None) -> float:
    """Wall seconds of an s3ray command, process and Ray included; ``code`` is another checkout to run."""
    print("$ s3ray", " ".join(command), flush=True)
    environment = os.environ | ({"PYTHONPATH": str(code)} if code else {})
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "from s3ray.cli import main; main()", *command], check=True, env=environment, cwd=code
    )
    return time.monotonic() - start


def run_one_by_one(campaign: Campaign, folder: Path, code: Path | None) -> float:
    """Each run as a user would start it alone, with the code of another checkout if one is given."""
    seconds = 0.0
    for run in campaign.runs:
        job = folder / f"{run.name}.yaml"
        settings = run.config.model_dump(mode="json", exclude_defaults=True)  # other code may not know the others
        job.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        seconds += timed("run", str(job), "--out", str(folder / run.name), code=code)
    return seconds


def commit_of(checkout: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def scores(folder: Path, campaign: Campaign) -> dict[str, float]:
    """Test score of each run."""
    found = {run.name: RunStore(folder / run.name).read_json("metrics.json") for run in campaign.runs}
    return {name: metrics["test"][metrics["metric"]] for name, metrics in found.items()}


def measure(rows: int, seeds: Sequence[int], before: Path | None) -> dict[str, Any]:
    """Both ways, one after the other."""
    with tempfile.TemporaryDirectory(prefix="s3ray-campaign-") as name:
        folder = Path(name)
        grid = write_grid(folder, rows, seeds)
        campaign = load_campaign(grid)
        compare_s = timed("compare", str(grid), "--out", str(folder / "together"))
        (folder / "alone").mkdir()
        sequential_s = run_one_by_one(campaign, folder / "alone", before)
        return {
            "rows": rows,
            "sequential_commit": commit_of(before) if before else None,
            "runs": [run.name for run in campaign.runs],
            "compare_s": compare_s,
            "sequential_s": sequential_s,
            "speedup": sequential_s / compare_s,
            "engine_busy_share": RunStore(folder / "together").read_json("compare.json")["engine_busy_share"],
            "scores_compare": scores(folder / "together", campaign),
            "scores_sequential": scores(folder / "alone", campaign),
        }


def main() -> None:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=80, help="examples that each run writes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the real runs")
    parser.add_argument("--before", type=Path, help="checkout of the commit that does the runs one after another")
    parser.add_argument("--results", type=Path, help="file for the result")
    options = parser.parse_args()
    simulated = [simulate(tokens_per_s) for tokens_per_s in TOKENS_PER_S]
    result = {
        **measure(options.rows, options.seeds, options.before and options.before.resolve()),
        "sim_busy_share": simulated[0]["busy_share"],
        "sim_by_speed": simulated,
        "sim_assumed": {
            "devices": NUM_DEVICES,
            "workers_of_a_student": NUM_WORKERS,
            "engine_start_s": ENGINE_START_S,
            "trainer_start_s": TRAINER_START_S,
            "tail_s": TAIL_S,
            "train_scaling": SCALING,
            "yield": YIELD,
            "tasks": TASKS,
        },
    }
    keep_result(options.results, result)


if __name__ == "__main__":
    main()
