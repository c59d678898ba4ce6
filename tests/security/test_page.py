"""Pages about a run: what a model, an endpoint or whoever wrote the folder said is text there, and nothing else."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s3ray.report.run import write_report
from tests.monitor.run_folder import write_run

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;"
_DANGEROUS = {"script", "img", "iframe", "object", "embed", "link", "base", "form", "input", "a", "foreignobject"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.dangerous: list[str] = []
        self.policy = ""
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        if tag in _DANGEROUS or any(name.startswith("on") for name in named):
            self.dangerous.append(f"{tag} {named}")

    def handle_data(self, data: str) -> None:
        self.said += data


def poison(path: Path) -> None:
    """Put ``EVIL`` into every free text of a table or JSON file of a run."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        for name in ("text", "raw", "detail", "predicted"):
            if name in table.column_names:
                place = table.column_names.index(name)
                table = table.set_column(place, name, pa.array([f"{EVIL} {num}" for num in range(table.num_rows)]))
        pq.write_table(table, path)
    elif path.name == "reasons.json":
        path.write_text(json.dumps({EVIL: [EVIL]}))


def poison_events(path: Path) -> None:
    """Put it into what events say in words: names, versions, problems."""

    def spoilt(event: dict[str, Any]) -> dict[str, Any]:
        free = ("task", "strategy", "generator", "student", "version", "run", "problem", "fingerprint")
        return {name: EVIL if name in free and isinstance(value, str) else value for name, value in event.items()}

    events = [spoilt(json.loads(line)) for line in path.read_text().splitlines()]
    events.append({**events[-1], "event": "run_failed", "problem": EVIL})
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_no_text_of_a_run_becomes_part_of_the_page(tmp_path: Path) -> None:
    store = write_run(tmp_path / "run")
    for path in Path(store.root).rglob("*"):
        if path.is_file():
            poison(path)
    poison_events(store.path("events.jsonl"))
    write_report(store)
    page = _Reader()
    page.feed(store.path("report.html").read_text())
    assert page.said.count("<script>alert(1)</script>") > 5
    assert not page.dangerous
    assert page.policy.startswith("default-src 'none'")
