"""Do real files go through ``init``, ``plan`` and ``run`` without an edit?

    python -m benchmarks.first_contact DATA --work runs/first-contact

``DATA`` has a folder for each data set, with ``train.jsonl``. The first rows of each are saved as a CSV file the way a
spreadsheet saves one: semicolons, a byte order mark, CRLF. Then ``s3ray init``, ``plan`` and ``run`` work on it as a
newcomer would type them, with the packaged models, and the same job runs once more with its gold rows alone. A data
set that is done is not run again. Writes first_contact.json, and its table as first_contact.md.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import s3ray
from benchmarks.provenance import provenance
from s3ray.monitor.accounting import account

RESULT = Path(__file__).parent / "results" / "first_contact.json"
NUM_ROWS = 1000
DATA_SETS: Mapping[str, Sequence[str]] = {
    "trec": ("abbreviation", "description", "entity", "human", "location", "number"),
    "ag_news": ("world", "sports", "business", "technology"),
    "emotion": ("anger", "joy", "optimism", "sadness"),
    "qnli": ("entailment", "not_entailment"),
    "banking77": (),
}
"""Names of the labels, by the numbers that the data sets have for them; none where they are names already."""


def save_as_spreadsheet(source: Path, target: Path, labels: Sequence[str]) -> int:
    """Write the first rows of JSON lines as a spreadsheet would; returns how many classes they have."""
    with source.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(NUM_ROWS), strict=False)]
    for row in rows:
        row["label"] = labels[row["label"]] if labels else row["label"]
    with target.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    return len({row["label"] for row in rows})


def type_in(folder: Path, *words: str) -> str:
    """Run a command of s3ray in a folder; returns what it printed.

    Raises:
        SystemExit: the command failed.
    """
    program = [str(Path(sys.executable).with_name("s3ray")), *words]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def try_out(name: str, data: Path, work: Path) -> dict[str, Any]:
    """Take one data set the whole way; returns its line of the table."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    num_classes = save_as_spreadsheet(data / name / "train.jsonl", folder / f"{name}.csv", DATA_SETS[name])
    job = f"{name}-job.yaml"
    if not (folder / job).exists():
        type_in(folder, "init", f"{name}.csv")
    type_in(folder, "plan", job)
    type_in(folder, "run", job, "--out", "run")
    type_in(folder, "run", job, "--out", "gold", "--set", "strategy.name=gold")
    run, gold = s3ray.open(folder / "run"), s3ray.open(folder / "gold")
    score, gold_score = run.metrics.test, gold.metrics.test
    assert score, "the run has finished"
    assert gold_score, "so has the one with gold alone"
    written = run.dataset()
    return {
        "data": name,
        "classes": num_classes,
        "gold": sum(run.config.gold.model_dump()[part] for part in ("extrapolate", "select")),
        "rows": len(written),
        "classes_without_rows": num_classes - len(set(written["label"])),
        "seconds": round(account(run.events()).total_s),
        "accuracy": score["accuracy"],
        "gold_accuracy": gold_score["accuracy"],
        "test_rows": pq.read_metadata(folder / "run" / "gold" / "test.parquet").num_rows,
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    head = ("data", "classes", "gold rows", "rows written", "classes without rows", "seconds", "accuracy", "gold alone")
    keys = ("data", "classes", "gold", "rows", "classes_without_rows", "seconds", "accuracy", "gold_accuracy")
    cells = [[f"{line[key]:.3f}" if "accuracy" in key else str(line[key]) for key in keys] for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)) + "\n"


def main() -> None:
    """Try out all data sets that are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(DATA_SETS), choices=list(DATA_SETS))
    given = parser.parse_args()
    done = json.loads(RESULT.read_text(encoding="utf-8"))["lines"] if RESULT.exists() else []
    for name in given.only:
        if any(line["data"] == name for line in done):
            continue
        done.append({**try_out(name, given.data, given.work), "commit": provenance()["commit"]})
        origin = provenance()
        origin["command"] = origin["command"].replace(str(given.data), "DATA").replace(str(given.work), "WORK")
        RESULT.write_text(json.dumps({"schema": 1, **origin, "lines": done}, indent=1) + "\n", encoding="utf-8")
        RESULT.with_suffix(".md").write_text(table(done), encoding="utf-8")
        print(table(done))


if __name__ == "__main__":
    main()
