"""How good are the rows that each method wrote? The audits of a campaign's runs side by side, as Markdown.

    s3ray audit runs/small-methods/s3-qnli-2      # for each run that is to be in it, then
    python -m benchmarks.audits runs/small-methods

A table for each task and seed, whose runs have their gold in common: what `s3ray audit` measured (docs/audit.md) of
gold and of all synthetic rows that a run wrote.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from s3ray.config.grid import load_campaign
from s3ray.report.audit import AUDIT, rows

GRID = Path(__file__).parents[1] / "jobs" / "small" / "methods.yaml"
GOLD, ALL = 0, 1
"""Cells of a measure: of gold, and of all synthetic rows."""
UNKNOWN = ["", ""]


def audit_tables(campaign: Path) -> str:
    """A table for each task and seed of the grid that has audits below ``campaign``."""
    runs = [run for run in load_campaign(GRID).runs if (campaign / run.name / AUDIT).exists()]
    runs.sort(key=lambda run: (run.cell["task"], run.seed))
    tables = []
    for (task, seed), found in itertools.groupby(runs, key=lambda run: (run.cell["task"], run.seed)):
        audits = {run.cell["strategy"]: json.loads((campaign / run.name / AUDIT).read_text()) for run in found}
        tables.append("\n".join([f"### {task}, seed {seed}\n", *_lines(audits)]))
    return "\n\n".join(tables) + "\n"


def _lines(audits: dict[str, Any]) -> Iterator[str]:
    """A column for gold and for each method, a line for each measure."""
    measured = [dict(rows(audit)) for audit in audits.values()]
    yield _line(["", "gold", *audits])
    yield _line(["---"] * (len(audits) + 2))
    for name in dict.fromkeys(name for of_run in measured for name in of_run):
        yield _line(
            [name, measured[0].get(name, UNKNOWN)[GOLD], *(of_run.get(name, UNKNOWN)[ALL] for of_run in measured)]
        )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("campaign", type=Path)
    print(audit_tables(parser.parse_args().campaign), end="")


if __name__ == "__main__":
    main()
