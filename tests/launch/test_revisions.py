"""The commits of a run's models are found out once, and are the same at every later start, whatever the hub says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s3ray.config.job import to_yaml
from s3ray.config.load import load_config
from s3ray.errors import InputError
from s3ray.hub import commit_of
from s3ray.launch.preflight import Job, check_job
from s3ray.launch.revisions import Revisions, kept_commits
from s3ray.models import look_up_model
from s3ray.storage.run_folder import RunStore
from tests.hubs import Hub, running_hub
from tests.launch.test_preflight import TASK

FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b""}
JOB = """\
name: job
task: task.yaml
gold: {extrapolate: 10, select: 5, test: 5}
strategy: {name: zerogen, rows: 20}
generator: {engine: vllm, prompt_form: completion, model: org/writer}
student: {model: org/student}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {number}", "label": number % 2} for number in range(30)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "job.yaml").write_text(JOB)
    look_up_model.cache_clear()
    with running_hub(tmp_path / "cache", monkeypatch) as found:
        found.put("org/writer", FILES)
        found.put("org/student", FILES)
        yield found


def silent(line: str) -> None:
    raise AssertionError(line)


def job(**changes: Any) -> Job:
    return check_job(load_config("job.yaml", changes))


def begin(pinned: Job, folder: str) -> RunStore:
    store = RunStore(folder)
    store.create(pinned.settings, to_yaml(pinned.config), requests=pinned.requests, **kept_commits(pinned.config))
    return store


def models(of: Job) -> tuple[str, str]:
    return of.config.generator.model, of.config.student.model


@pytest.mark.parametrize("field", ["generator.model", "student.model"])
def test_a_model_that_the_hub_does_not_have_is_told_when_the_job_is_checked(field: str, hub: Hub) -> None:
    with pytest.raises(InputError, match="has no such model") as refused:
        job(**{field: "org/none"})
    assert refused.value.field == field


def test_a_run_keeps_the_commits_that_it_began_with(hub: Hub) -> None:
    commits = {"generator": hub.refs["org/writer"]["main"], "student": hub.refs["org/student"]["main"]}
    named = job()
    first = Revisions(silent).pin(named, RunStore("run"))
    assert models(first) == (f"org/writer@{commits['generator']}", f"org/student@{commits['student']}")
    store = begin(first, "run")
    assert store.identity()["revisions"] == commits
    assert f"org/writer@{commits['generator']}" in Path("run/config.yaml").read_text()
    hub.put("org/writer", FILES)
    hub.put("org/student", FILES)
    hub.fails = (503, "")
    num_asked = len(hub.asked)
    assert models(Revisions(silent).pin(named, store)) == models(first)
    assert len(hub.asked) == num_asked


def test_commits_are_no_part_of_the_fingerprint_unless_the_job_names_them(hub: Hub) -> None:
    named = job()
    pinned = Revisions(silent).pin(named, RunStore("run"))
    assert (pinned.fingerprint, pinned.settings) == (named.fingerprint, named.settings)
    assert named.settings["student"]["model"] == "org/student"
    hub.put("org/student", FILES, revision="v2")
    assert job(**{"student.model": "org/student@v2"}).fingerprint != named.fingerprint


def test_a_run_that_began_before_commits_were_kept_goes_on_with_what_the_job_names(hub: Hub) -> None:
    named = job()
    store = RunStore("run")
    store.create(named.settings, to_yaml(named.config), requests=named.requests)
    num_asked = len(hub.asked)
    assert models(Revisions(silent).pin(named, store)) == ("org/writer", "org/student")
    assert len(hub.asked) == num_asked


def test_runs_of_a_campaign_share_commits_and_each_model_is_asked_for_once(hub: Hub) -> None:
    named = job()
    num_asked = len(hub.asked)
    revisions = Revisions(silent)
    all_runs = {models(revisions.pin(named, RunStore(f"run-{number}"))) for number in range(20)}
    assert len(all_runs) == 1
    assert len(hub.asked) == num_asked + 2
    begun = begin(revisions.pin(named, RunStore("run-0")), "run-0")
    hub.put("org/writer", FILES)
    later = Revisions(silent, others=[begun]).pin(named, RunStore("run-1"))
    assert {models(later)} == all_runs


def test_models_of_this_machine_and_of_packages_have_no_commit(hub: Hub) -> None:
    for name in ("writer", "student"):
        Path(name).mkdir()
        for file, content in FILES.items():
            Path(name, file).write_bytes(content)
    named = job(**{"generator.model": "./writer", "student.model": "./student"})
    pinned = Revisions(silent).pin(named, RunStore("run"))
    assert pinned == named
    assert kept_commits(pinned.config) == {}
    assert hub.asked == []


def test_the_name_of_a_model_at_an_endpoint_is_not_looked_up(hub: Hub) -> None:
    changes = {"generator.engine": "openai", "generator.endpoints": [{"url": "http://127.0.0.1:9/v1"}]}
    named = job(**changes)
    pinned = Revisions(silent).pin(named, RunStore("run"))
    assert models(pinned)[0] == "org/writer"
    assert set(kept_commits(pinned.config)["revisions"]) == {"student"}


def test_a_model_that_neither_hub_nor_cache_has_is_refused_by_its_field(hub: Hub) -> None:
    named = job()
    gone = replace(named, settings=named.settings | {"student": named.settings["student"] | {"model": "org/gone"}})
    with pytest.raises(InputError, match="has no such model") as caught:
        Revisions(silent).pin(gone, RunStore("run"))
    assert (caught.value.field, caught.value.value) == ("student.model", "'org/gone'")


def test_engines_use_the_commit_of_the_adapter_that_the_run_is_known_by(hub: Hub) -> None:
    files = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b""}
    commit = hub.put("org/tuned", files)
    named = job(**{"generator.adapter": "org/tuned"})
    hub.put("org/tuned", files)
    pinned = Revisions(silent).pin(named, RunStore("run"))
    assert pinned.config.generator.adapter == f"org/tuned@{commit}"
    assert commit_of(pinned.config.generator.model) == hub.refs["org/writer"]["main"]
    assert pinned.settings["generator"]["adapter"] == f"org/tuned@{commit[:12]}"
