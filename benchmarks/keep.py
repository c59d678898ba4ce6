"""What of a campaign is kept in git, so that it can be compared again and joined with more seeds?

    python -m benchmarks.keep runs/small-methods benchmarks/results/methods

Copies of every finished run the files that a comparison reads (docs/campaign.md, "Kept, moved, run in parts"), and the
campaign's own starts and end. Runs that are there already stay as they are. Refuses runs whose settings name a place on
this machine: start the campaign with relative paths.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3ray.report.audit import AUDIT
from s3ray.storage.run_folder import METRICS, RunStore

SETTINGS = ("config.yaml", "fingerprint.json")
KEPT_EVENTS = ("campaign_started", "campaign_finished")


def kept_files(run: RunStore) -> Iterator[str]:
    """Names below the run's folder, its marker last."""
    students = run.students()
    yield from SETTINGS
    yield from (run.score(num) for num in students)
    test = run.answers(max(students))
    optional = [test, AUDIT]
    if run.read_json(METRICS)["metric"] == "macro_f1":
        optional.append(run.gold("test"))
    yield from (name for name in optional if run.has(name))
    yield METRICS


def keep_run(run: RunStore, target: RunStore) -> None:
    """Copy one finished run.

    Raises:
        SystemExit: its settings name a place on this machine.
    """
    for name in SETTINGS:
        text = run.path(name).read_text(encoding="utf-8")
        if str(Path.home()) in text or str(Path.cwd()) in text:
            raise SystemExit(f"{run.root}/{name} names a place on this machine; start the campaign with relative paths")
    for name in kept_files(run):
        target.copy_from(run, name)


def kept_events(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Where and by which commands the campaign was made, and when it ended."""
    yield from (event for event in events if event["event"] in KEPT_EVENTS)


def main() -> None:
    """Keep every finished run of a campaign that is not kept yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("campaign", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    new = [
        folder.parent.name
        for folder in sorted(options.campaign.glob(f"*/{METRICS}"))
        if not (options.target / folder.parent.name / METRICS).exists()
    ]
    for name in new:
        keep_run(RunStore(options.campaign / name), RunStore(options.target / name))
    with (options.target / "events.jsonl").open("a", encoding="utf-8") as file:
        known = set((options.target / "events.jsonl").read_text(encoding="utf-8").splitlines())
        for event in kept_events(RunStore(options.campaign).events()):
            line = json.dumps(event)
            if line not in known:
                file.write(line + "\n")
    print(f"{len(new)} run(s) kept in {options.target}: {', '.join(new)}")


if __name__ == "__main__":
    main()
