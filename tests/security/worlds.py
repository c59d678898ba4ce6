"""Folders in which every command works, so that each of them can be broken."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from s3ray.bench.profile import write_profile
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import EventLog
from tests.bench.phases import measured, profile
from tests.campaign.test_again import light_copies
from tests.events import an_event
from tests.models import make_bert
from tests.monitor.run_folder import write_run
from tests.security.fuzzing import s3ray

JOB: dict[str, Any] = {
    "name": "job",
    "task": "task.yaml",
    "gold": {"extrapolate": 12, "select": 6, "test": 6},
    "strategy": {"name": "s3", "rounds": 1, "seed_examples": 12, "rationales": False},
    "generator": {"engine": "fake", "engines": 1, "sampling": {"max_tokens": 64}},
    "curation": {"near_duplicate": 0.9},
    "student": {"model": "MODEL", "epochs": 1, "max_length": 64, "workers": 1},
    "placement": {"mode": "split"},
    "cluster": {"address": "local"},
    "store": "runs",
}
TASK: dict[str, Any] = {
    "name": "mine",
    "kind": "classification",
    "fields": ["text"],
    "writes": "text",
    "labels": [{"name": "bad", "value": 0, "words": "bad"}, {"name": "good", "value": 1, "words": "good"}],
    "data": "data.jsonl",
    "limits": {"min_words": 1, "max_words": 30},
    "prompts": {
        "chat": {
            "reasons": {"user": "Give {{ num_reasons }} reasons for {{ label }}."},
            "seed": {"user": "Write one {{ label }} text."},
            "extrapolate": {"user": "Write one like {{ parent.text }}."},
        }
    },
}
GRID: dict[str, Any] = {
    "name": "grid",
    "job": "job.yaml",
    "axes": {"strategy": {"a": {"strategy": {"name": "zerogen", "rows": 12}}, "b": {"strategy": {"name": "gold"}}}},
    "seeds": [0, 1],
}


def rows(draw: random.Random) -> list[Any]:
    return [{"text": f"text {draw.random()} of many number {number}", "label": number % 2} for number in range(40)]


def write(path: Path, tree: Any) -> None:
    """Write a tree as JSON, which is YAML too and is written many times faster."""
    path.write_text(json.dumps(tree))


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_inputs(folder: Path, **job: Any) -> None:
    """A job, a task, rows, a grid and an empty ``file``, and a model beside the folder."""
    model = folder.with_name(f"{folder.name}-model")
    model.mkdir()
    make_bert(model)
    folder.mkdir(exist_ok=True)
    write(folder / "job.yaml", JOB | {"student": JOB["student"] | {"model": str(model)}} | job)
    write(folder / "task.yaml", TASK)
    write(folder / "grid.yaml", GRID)
    write_rows(folder / "data.jsonl", rows(random.Random(0)))
    (folder / "file").write_text("")


def make_runs(folder: Path) -> None:
    """Inputs, and below ``runs`` what came of them: runs, a campaign, two profiles. To be called within ``folder``."""
    strategy = {"name": "s3", "rounds": 1, "seed_examples": 12, "reasons_per_label": 2, "per_mistake": 1}
    make_inputs(folder, strategy=strategy)
    code, text = s3ray("run", "job.yaml", "--local", "--out", "runs/run")
    assert code == 0, text
    lost = str(folder / "gone")
    shutil.copytree(folder / "runs/run", folder / "runs/audit")
    config = folder / "runs/audit/config.yaml"
    config.write_text(config.read_text().replace(f"{folder}-model", lost))
    write_run(folder / "runs/rich")
    (folder / "runs/campaign").mkdir()
    campaign = RunStore(folder / "runs/campaign")
    log = EventLog(campaign, "grid", 1)
    log.emit(an_event("campaign_started", runs=2))
    for run in ("a", "b"):
        shutil.copytree(folder / "runs/rich", folder / "runs/campaign" / run)
        log.pass_on(an_event("run_finished", run=run, attempt=1))
    log.emit(an_event("campaign_finished"))
    (folder / "runs/again").mkdir()
    light_copies(folder / "runs/again", zerogen_0=0.7, zerogen_1=0.6, s3_0=0.8, s3_1=0.75)
    for name in ("old", "new"):
        write_profile(RunStore(folder / "runs" / name), profile(measured(), measured(engine="fake")))
