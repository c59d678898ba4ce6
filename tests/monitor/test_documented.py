"""docs/metrics.md and the code say the same: every event, every field that the code names, every metric."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from s3ray.monitor.events import CAMPAIGN_EVENTS, EVENTS
from s3ray.monitor.prometheus import METRICS

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


def _emitted() -> Iterator[tuple[str, set[str]]]:
    """The names that the code gives to ``emit``, each with the fields that it names there."""
    for path in (ROOT / "s3ray").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                if getattr(call.func, "attr", "") not in ("emit", "_emit") or not call.args:
                    continue
                # The name may be chosen a line before: then it stands somewhere in the same function.
                place: ast.AST = call.args[0] if isinstance(call.args[0], ast.Constant) else function
                names = {node.value for node in ast.walk(place) if isinstance(node, ast.Constant)}
                for name in names & {*EVENTS, *CAMPAIGN_EVENTS}:
                    yield str(name), {keyword.arg for keyword in call.keywords if keyword.arg}


def test_every_event_is_emitted_and_documented() -> None:
    known = {*EVENTS, *CAMPAIGN_EVENTS}
    assert set(documented_events()) == known
    assert {name for name, _ in _emitted()} == known


def test_every_field_that_the_code_names_is_documented() -> None:
    documented = documented_events()
    missing = {name: fields - documented[name] for name, fields in _emitted() if fields - documented[name]}
    assert not missing


def test_every_metric_is_documented() -> None:
    assert documented_metrics() == {name: (metric.kind, metric.tags) for name, metric in METRICS.items()}
