"""Do the scores of a campaign hold on test rows that none of its runs has read?

    python -m benchmarks.unseen runs/small-methods qnli data/qnli

The last students of a campaign's runs answer the test rows of a folder that are not in their own test part; for tasks
with labels. Rows with a text of the run's gold or contexts are left out. Prints as Markdown the scores, and the
reference's lead with its 95 % interval over rows, for each seed; writes benchmarks/results/unseen.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from benchmarks.audits import GRID
from benchmarks.provenance import provenance
from s3ray.campaign.intervals import Answers, interval, redraw_rows
from s3ray.campaign.report import from_to
from s3ray.config.grid import GridRun, load_campaign
from s3ray.config.job import GoldConfig
from s3ray.storage.run_folder import RunStore
from s3ray.student.evaluate import predict
from s3ray.student.model import load_student
from s3ray.student.ranks import SingleProcess
from s3ray.tables import examples_from_table
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import load_gold
from s3ray.types import Example

RESULT = Path(__file__).parent / "results" / "unseen.json"


def unseen_rows(task: Task, data: str, gold: GoldConfig, store: RunStore) -> list[Example]:
    """Test rows beyond the run's own that share no text with its gold, its contexts or its test part."""
    own = load_gold(task, gold, data)
    known = {context.fields[name] for context in own.contexts for name in context.fields}
    for part in ("extrapolate", "select", "test"):
        rows = examples_from_table(store.read_table(store.gold(part)), task.fields)
        known |= {row.fields[name] for row in rows for name in task.fields}
    every = load_gold(task, gold.model_copy(update={"test": "all"}), data).test
    return [row for row in every if not known & {row.fields[name] for name in task.fields}]


def answers(run: GridRun, store: RunStore, task: Task, rows: Sequence[Example]) -> Answers:
    """What the last student of a run says to the rows, right (1) or wrong (0)."""
    folder = store.path(store.in_student(max(store.students()), "config.json")).parent
    ranks = SingleProcess()
    student = load_student(run.config.student.model_copy(update={"model": str(folder)}), task, ranks.device)
    given = predict(student, rows, ranks)
    right = [float(answer.text == row.label) for answer, row in zip(given, rows, strict=True)]
    return Answers(ids=tuple(row.id for row in rows), scores=np.array(right, dtype=np.float64))


def compare_unseen(campaign: Path, task_name: str, data: str) -> list[dict[str, Any]]:
    """For each seed whose students are there: their scores, and the reference's leads with intervals."""
    grid = load_campaign(GRID)
    task, found = load_task(task_name, data), []
    for seed in grid.config.seeds:
        runs = [run for run in grid.runs if run.seed == seed and run.cell["task"] == task_name]
        stores = {run.name: RunStore(campaign / run.name) for run in runs}
        runs = [run for run in runs if list((campaign / run.name).glob("students/*/model.safetensors"))]
        if not runs:
            continue
        rows = unseen_rows(task, data, runs[0].config.gold, stores[runs[0].name])
        given = {run.cell["strategy"]: answers(run, stores[run.name], task, rows) for run in runs}
        draws = redraw_rows("accuracy", given, task_name)
        for method, own in given.items():
            entry: dict[str, Any] = {"seed": seed, "method": method, "rows": len(rows)}
            entry["score"] = float(own.scores.mean())
            if grid.reference in given and method != grid.reference:
                entry["lead"] = float(given[grid.reference].scores.mean()) - entry["score"]
                entry["interval"] = interval(draws[grid.reference] - draws[method])
            found.append(entry)
    return found


def unseen_table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each run."""
    lines = ["| strategy | seed | unseen rows | accuracy | lead | 95 % interval |", "|---|---|---|---|---|---|"]
    for each in found:
        lead = [f"{each['lead']:+.3f}", from_to(each["interval"], "+")] if "lead" in each else ["", ""]
        cells = [each["method"], str(each["seed"]), str(each["rows"]), f"{each['score']:.3f}", *lead]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Score, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("campaign", type=Path)
    parser.add_argument("task")
    parser.add_argument("data")
    options = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    found = compare_unseen(options.campaign, options.task, options.data)
    RESULT.write_text(json.dumps(provenance() | {"runs": found}, indent=1) + "\n", encoding="utf-8")
    print(unseen_table(found), end="")


if __name__ == "__main__":
    main()
