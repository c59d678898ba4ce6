"""How long does a small run wait for processes to start? `make demo`, and its parts by their time.

    python -m benchmarks.warm --results benchmarks/results/warm.json

Runs jobs/quickstart.yaml as a user does, in a new folder: real engines, real train workers. ``demo_s`` is the wall time
of the command. ``student_start_s`` is the median time from the decision to train to the first step, from the second
student on; ``first_start_s`` is that of the first. With ``--before``, a run folder of the same job from another commit,
``demo_rows_same`` says whether every round kept as many rows and every student learned from as many (which texts an
engine writes depends on what it batches, in the last bits of its numbers), else null. The last line is a JSON object.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.campaign import timed
from benchmarks.provenance import keep_result
from s3ray.storage.run_folder import RunStore

JOB = "jobs/quickstart.yaml"


def starts_s(run: RunStore) -> list[float]:
    """Seconds from the decision to train to the first step, by student."""
    return [run.read_json(run.score(num))["seconds"]["start"] for num in sorted(run.students())]


def rows_kept(run: RunStore) -> list[tuple[int, int]]:
    """How many rows each round kept, and how many its student learned from."""
    reports = [run.read_json(run.round_report(num)) for num in sorted(run.rounds())]
    return [(report["accepted"], report["rows"]) for report in reports]


def measure(before: Path | None) -> dict[str, Any]:
    """Run the quickstart and take it apart."""
    with tempfile.TemporaryDirectory(prefix="s3ray-warm-") as name:
        folder = Path(name) / "run"
        demo_s = timed("run", JOB, "--out", str(folder))
        run = RunStore(folder)
        first_s, *later_s = starts_s(run)
        rows = rows_kept(run)
        seconds = run.read_json("metrics.json")["seconds"]
    return {
        "job": JOB,
        "demo_s": demo_s,
        "student_start_s": statistics.median(later_s),
        "first_start_s": first_s,
        "student_starts_s": [first_s, *later_s],
        "rows": rows,
        "demo_rows_same": None if before is None else rows == rows_kept(RunStore(before)),
        "seconds": seconds,
    }


def main() -> None:
    """Measure, print a table, keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="run folder of the same job, made by the commit to compare with")
    parser.add_argument("--results", type=Path, help="file for the result")
    options = parser.parse_args()
    found = measure(options.before)
    for name in ("demo_s", "first_start_s", "student_start_s", "demo_rows_same"):
        print(f"{name:18} {found[name]}")
    keep_result(options.results, found)


if __name__ == "__main__":
    main()
