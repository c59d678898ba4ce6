"""docs/metrics.md and the code say the same: every event, every field that the code names, every metric."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from s3ray.monitor.prometheus import COUNTERS, GAUGES
from s3ray.telemetry.events import EVENTS

ROOT = Path(__file__).parents[2]
EVERYWHERE = {"time", "run", "attempt", "event", "round", "phase", "stage"}


def _rows(heading: str) -> Iterator[list[str]]:
    """The cells of the tables below a heading of docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = (each for each in part if each.startswith(heading))
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def documented_events() -> dict[str, set[str]]:
    """All fields of each event; ``those of x`` counts as the fields of x."""
    fields: dict[str, set[str]] = {}
    for row in _rows("Events"):
        for event in re.findall(r"`(\w+)`", row[0]):
            other = re.search(r"those of `(\w+)`", row[-1])
            named = set(re.findall(r"`(\w+)`", row[-1]))
            fields[event] = EVERYWHERE | named | (fields[other[1]] if other else set())
    return fields


def documented_metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and tags of each metric."""
    return {row[0].strip("`"): (row[1], tuple(re.findall(r"`(\w+)`", row[2]))) for row in _rows("Prometheus")}


def _constructed() -> set[str]:
    """The names of all that the code calls, and of what it calls by another name."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "s3ray").rglob("*.py")]
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_every_event_is_emitted_and_documented() -> None:
    assert set(documented_events()) == set(EVENTS)
    assert {event.__name__ for event in EVENTS.values()} <= _constructed()


def test_every_field_is_documented() -> None:
    documented = documented_events()
    for name, event in EVENTS.items():
        assert {field.name for field in fields(event)} <= documented[name]


def test_every_metric_is_documented() -> None:
    kinds = {"counter": COUNTERS, "gauge": GAUGES}
    known = {name: (kind, metric.tags) for kind, metrics in kinds.items() for name, metric in metrics.items()}
    assert documented_metrics() == known
