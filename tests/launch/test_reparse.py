"""Reading kept generations again: the same rules give the same data, other rules other data, and no engine is asked."""

import io
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.load import load_config
from s3ray.config.shaping import fingerprint
from s3ray.errors import InputError
from s3ray.launch.fingerprint import shaping_settings
from s3ray.launch.reparse import read_again, reparse_run
from s3ray.monitor.run_view import RunView
from s3ray.rounds.driver import Driver, Parts
from s3ray.storage.lineages import choose
from s3ray.storage.object_store import ObjectFiles
from s3ray.storage.run_folder import RunStore
from s3ray.strategies.s3 import S3
from s3ray.tables import outcomes_from_table
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import load_gold
from s3ray.telemetry.events import EventLog, read_events
from s3ray.types import GenerationRequest, Outcome, OutcomeStatus
from tests.rounds.test_driver import Interrupted, ScriptedGenerator, ScriptedTrainer
from tests.rounds.test_overlap import BlockTrainer

TASK = """\
name: mine
kind: classification
fields: [text]
writes: text
labels: [{name: bad, value: 0, words: bad}, {name: good, value: 1, words: good}]
data: data
prompts:
  completion:
    reasons: {text: '{{ num_reasons }} reasons for {{ label }}: '}
    seed: {text: 'A {{ label }} text: '}
    extrapolate: {text: 'Like {{ parent.text }}: '}
    verify: {text: '"{{ fields.text }}" is "'}
limits: {min_words: 3, max_words: 9}
"""
JOB = """\
name: job
task: TASK
gold: {extrapolate: 20, select: 10, test: 10}
strategy: {name: s3, rounds: 2, seed_examples: 12, rows: 24, reasons_per_label: 4}
generator: {engine: fake, prompt_form: completion}
curation: {near_duplicate: 0.8}
"""


class ReadingGenerator(ScriptedGenerator):
    """Writes texts of 2 to 11 words, some nearly alike, and reads them as an actor does."""

    def __init__(self, task: Task, seed: int = 0) -> None:
        super().__init__(seed)
        self._task = task

    def _outcome(self, request: GenerationRequest) -> Outcome:
        whole = super()._outcome(request)
        if request.template != "reasons":
            words = whole.raw.split() * 2
            raw = " ".join(words[: 2 + request.seed % 10])
            if request.seed % 3 == 0:
                raw = f"always the same four words {chr(97 + request.seed % 26)}"
            label_probabilities = (0.25, 0.75) if (request.seed % 4 == 0) == (request.label == "bad") else (0.75, 0.25)
            whole = whole._replace(raw=raw, finish_reason="stop", label_probabilities=label_probabilities)
        return read_again(self._task, request, whole._replace(text=""), clean=True)


@pytest.fixture
def job(tmp_path: Path) -> RunConfig:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} text number {num} of many", "label": num % 2} for num in range(40)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "job.yaml").write_text(JOB.replace("TASK", str(tmp_path / "task.yaml")))
    return load_config(tmp_path / "job.yaml")


def go_on(
    config: RunConfig, first: Path, die_after: int | None = None, trainer: ScriptedTrainer | None = None
) -> tuple[RunStore, ReadingGenerator, ScriptedTrainer]:
    """What `s3ray run` does, without Ray."""
    task = load_task(config.task)
    gold = load_gold(task, config.gold)
    settings = shaping_settings(config, task, gold)
    place, lineage = choose(str(first), fresh=False)
    store = RunStore(place)
    store.check(settings)
    requests = {"seed": fingerprint(settings) + "-0", "later": fingerprint(settings)}
    store.create(
        settings, to_yaml(config), requests=requests, lineage=lineage.as_dict(), task=task.spec.model_dump(mode="json")
    )
    generator, trainer = ReadingGenerator(task), trainer or ScriptedTrainer(die_after)
    events = EventLog(store, "job", 1 + max((event["attempt"] for event in store.events()), default=0))
    parts = Parts(
        config=config,
        task=task,
        gold=gold,
        store=store,
        events=events,
        requests=store.requests,
        generator=generator,
        trainer=trainer,
    )
    Driver(parts).run()
    return store, generator, trainer


def reparse(run: Path, **changes: Any) -> RunStore:
    return RunStore(
        reparse_run(str(run), {name.replace("__", "."): value for name, value in changes.items()}, Console())
    )


def content(store: RunStore, name: str) -> list[bytes]:
    return [store.path(store.in_round(num, name)).read_bytes() for num in store.rounds()]


def by_id(store: RunStore, name: str) -> list[list[dict[str, Any]]]:
    tables = [store.read_table(store.in_round(num, name)) for num in store.rounds()]
    return [table.sort_by("request_id").to_pylist() for table in tables]


def asked(store: RunStore) -> set[str]:
    names = [name for num in store.rounds() for name in store.files(store.in_round(num, "chunks"))]
    chunks = map(store.read_table, names)
    return {outcome.request_id for chunk in chunks for outcome in outcomes_from_table(chunk)}


def test_the_same_rules_give_the_same_data(job: RunConfig, tmp_path: Path) -> None:
    old, _, _ = go_on(job, tmp_path / "run")
    before = {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()}
    new = reparse(tmp_path / "run")
    assert new.folder == tmp_path / "run.2"
    assert new.rounds() == [0, 1, 2]
    assert new.students() == [], "students are not copied"
    for name in ("accepted.parquet", "train.parquet"):
        assert content(new, name) == content(old, name), name
    for name in ("rejected.parquet", "requests.parquet"):  # what comes after a full quota is booked in any order
        assert by_id(new, name) == by_id(old, name), name
    assert asked(new) == asked(old)
    assert {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()} == before
    assert new.identity()["lineage"] == {"of": "run", "number": 2, "parent": "run"}
    assert RunView.replay(read_events(new)).ended == "reparsed"


def test_what_was_written_from_blocks_of_mistakes_is_read_again(job: RunConfig, tmp_path: Path) -> None:
    each = job.model_copy(update={"strategy": job.strategy.model_copy(update={"rows": None, "per_mistake": 2})})
    old, _, _ = go_on(each, tmp_path / "run", trainer=BlockTrainer())
    new = reparse(tmp_path / "run")
    assert asked(new) == asked(old)
    assert len(new.mistake_blocks(1)) == 4
    again = reparse(new.folder)
    for name in ("accepted.parquet", "train.parquet"):
        assert content(new, name) == content(old, name) == content(again, name), name


def test_other_rules_give_other_data_from_the_same_generations(
    job: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, _, _ = go_on(job, tmp_path / "run")
    task = yaml.safe_load((tmp_path / "task.yaml").read_text())
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | {"limits": {"min_words": 1, "max_words": 4}}))
    new = reparse(tmp_path / "run", curation__near_duplicate=0.99)
    assert asked(new) == asked(old), "every generation goes along"
    words = {len(row["text"].split()) for row in new.read_table("rounds/2/train.parquet").to_pylist()}
    assert words
    assert max(words) <= 4
    assert "short of" in capsys.readouterr().out
    for num in new.rounds():
        report = new.read_json(new.round_report(num))
        told = sum(report["rejected"].values()) + sum(report["failed"].values())
        assert report["requested"] == report["accepted"] + told
        old_report = old.read_json(old.round_report(num))
        assert report["requested"] == old_report["requested"]
    (again,) = {reparse(tmp_path / "run.2").folder}
    assert again.name == "run.3"
    assert content(RunStore(again), "accepted.parquet") == content(new, "accepted.parquet")


@pytest.mark.parametrize(
    ("name", "ahead"), [("progen", 0.0), ("s3plus", 0.0), ("transfer", 0.0), ("llm2llm", 0.0), ("s3", 0.5), ("s3", 1.0)]
)
def test_requests_that_depend_on_rows_are_made_again_under_other_rules(
    job: RunConfig, tmp_path: Path, name: str, ahead: float
) -> None:
    """Rows that were kept then decide what was asked; which of them are kept now does not matter for that."""
    strategy = job.strategy.model_copy(update={"name": name, "rows": 60, "seed_examples": 30, "ahead": ahead})
    old, _, _ = go_on(job.model_copy(update={"strategy": strategy}), tmp_path / "run")
    new = reparse(tmp_path / "run", curation__near_duplicate=0.3)
    accepted = [sum(store.read_table(store.accepted(num)).num_rows for num in store.rounds()) for store in (old, new)]
    assert accepted[1] < accepted[0]
    again = reparse(new.folder, curation__near_duplicate=0.8)
    assert asked(again) == asked(new) == asked(old)
    assert content(again, "accepted.parquet") == content(old, "accepted.parquet")


def doubted(store: RunStore) -> int:
    reports = [store.read_json(store.round_report(num)) for num in store.rounds()]
    return sum(report["rejected"].get("doubted", 0) for report in reports)


def test_the_generator_s_verdicts_are_judged_again(job: RunConfig, tmp_path: Path) -> None:
    soft = job.model_copy(update={"curation": job.curation.model_copy(update={"verify": "soft"})})
    old, _, _ = go_on(soft, tmp_path / "run")
    assert doubted(old)
    same = reparse(tmp_path / "run")
    assert content(same, "train.parquet") == content(old, "train.parquet")
    assert doubted(same) == doubted(old)
    lenient = reparse(tmp_path / "run", curation__verify_least=0.2)
    assert not doubted(lenient)
    assert "soft" in lenient.read_table("rounds/2/train.parquet").column_names
    hard = reparse(tmp_path / "run", curation__verify="none")
    assert not doubted(hard)
    assert "soft" not in hard.read_table("rounds/2/train.parquet").column_names


def test_verdicts_that_were_never_asked_for_cannot_be_judged(job: RunConfig, tmp_path: Path) -> None:
    go_on(job, tmp_path / "run")
    with pytest.raises(InputError, match="needs verdicts") as refusal:
        reparse(tmp_path / "run", curation__verify="drop")
    assert refusal.value.field == "curation.verify"
    assert not (tmp_path / "run.2").exists()


def test_other_verdicts_on_gold_cannot_be_had(job: RunConfig, tmp_path: Path) -> None:
    curation = job.curation.model_copy(update={"verify": "soft", "calibrate": 20})
    old, _, _ = go_on(job.model_copy(update={"curation": curation}), tmp_path / "run")
    with pytest.raises(InputError, match="needs other verdicts") as refusal:
        reparse(tmp_path / "run", curation__calibrate=30)
    assert refusal.value.field == "curation.calibrate"
    same, without = reparse(tmp_path / "run"), reparse(tmp_path / "run", curation__calibrate=0)
    assert same.read_json("rounds/0/calibration.json") == old.read_json("rounds/0/calibration.json")
    assert content(same, "train.parquet") == content(old, "train.parquet")
    assert not without.has("rounds/0/calibration.json")


def test_a_run_goes_on_from_a_lineage_that_was_read_again(job: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go_on(job, tmp_path / "run", die_after=1)
    old = RunStore(tmp_path / "run")
    assert (old.rounds(), old.students()) == ([0, 1], [0])
    new = reparse(tmp_path / "run", curation__near_duplicate=0.9)
    mistakes = new.read_table("rounds/1/mistakes.parquet")
    changed = job.model_copy(update={"curation": job.curation.model_copy(update={"near_duplicate": 0.9})})
    with pytest.raises(InputError, match=r"near_duplicate was 0\.9, is 0\.8"):
        go_on(job, tmp_path / "run")
    store, generator, trainer = go_on(changed, tmp_path / "run")
    assert store.folder == new.folder
    assert [done.round for done in trainer.jobs] == [0, 1, 2]
    assert {request.round for request in generator.answered} == {2}, "what was read again is not asked again"
    assert store.read_table(store.mistakes_before(1)) == mistakes, "round 1 keeps the mistakes that it was written from"
    assert store.mistakes_before(2) == "students/1/mistakes.parquet"
    again = {request.id for request in generator.answered}
    assert not asked(old) & again
    assert asked(store) == asked(old) | again, "the ids are made as in the run that was read"


def test_a_round_that_was_read_again_keeps_the_probes_that_it_was_written_from(
    job: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3, "probes", ("gold",))
    with pytest.raises(Interrupted):
        go_on(job, tmp_path / "run", die_after=1)
    new = reparse(tmp_path / "run")
    assert new.files("rounds/1/probes") == ["rounds/1/probes/gold.parquet"]
    assert new.read_table(new.source(1, "probes/gold.parquet")).num_rows
    assert new.files("rounds/0/probes") == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy.rows": 50}, "strategy.rows"),
        ({"generator.sampling.temperature": 0.1}, "generator.sampling"),
        ({"curation.near_dupe": 1.0}, "near_duplicate"),
    ],
)
def test_more_than_curation_is_refused(job: RunConfig, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    go_on(job, tmp_path / "run")
    with pytest.raises(InputError, match=says):
        reparse_run(str(tmp_path / "run"), changes, Console())
    assert not (tmp_path / "run.2").exists()


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("prompts", {"completion": {"seed": {"text": "x {{ label }}"}, "extrapolate": {"text": "y"}}}, "task: prompts"),
        ("label_column", "sentiment", "label"),
    ],
)
def test_a_task_that_asks_otherwise_is_refused(
    job: RunConfig, tmp_path: Path, part: str, value: Any, says: str
) -> None:
    go_on(job, tmp_path / "run")
    task = yaml.safe_load((tmp_path / "task.yaml").read_text())
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | {part: value}))
    with pytest.raises(InputError, match=says):
        reparse(tmp_path / "run")
    assert not (tmp_path / "run.2").exists()


def test_a_reparse_that_was_cut_short_does_not_count(
    job: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on(job, tmp_path / "run")

    def cut(self: RunStore, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "create", cut)
        with pytest.raises(KeyboardInterrupt):
            reparse(tmp_path / "run")
    assert choose(str(tmp_path / "run"), fresh=False)[0] == str(tmp_path / "run")
    assert reparse(tmp_path / "run").name == "run.3"


def test_seeds_keep_the_reasons_that_they_were_asked_with(
    job: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _, _ = go_on(job, tmp_path / "run")
    monkeypatch.setattr("s3ray.tasks.task.read_list", lambda text: (f"today it reads {text[:9]}",))
    new = reparse(tmp_path / "run")
    assert content(new, "accepted.parquet") == content(old, "accepted.parquet")
    assert new.read_json("rounds/0/reasons.json") == old.read_json("rounds/0/reasons.json")


def test_failed_requests_stay_failed(job: RunConfig) -> None:
    failed = Outcome(request_id="r", index=0, status=OutcomeStatus.FAILED, reason="timeout")
    request = GenerationRequest(id="r", index=0, stage="seed", round=0, template="seed", group="g", seed=0)
    assert read_again(load_task(job.task), request, failed, clean=True) == failed


def test_reparse_needs_no_ray_torch_or_vllm(job: RunConfig, tmp_path: Path) -> None:
    go_on(job, tmp_path / "run")
    program = (
        "import sys; sys.argv = ['s3ray', 'reparse', sys.argv[1]]\n"
        "from s3ray.cli import app\n"
        "app(standalone_mode=False)\n"
        "print(sorted({'ray', 'torch', 'transformers', 'vllm'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "New lineage" in done.stdout


def test_a_killed_driver_of_the_new_lineage_is_waited_for_and_that_is_told(
    job: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3ray.storage.lease.LEASE_S", 0.5)
    here, _, _ = go_on(job, tmp_path / "run")
    there = RunStore(f"memory://{uuid.uuid4().hex}/run")
    for name in here.files(""):
        there.copy_from(here, name)
    killed = {"owner": "killed", "host": "node-7", "pid": 7, "time": time.time(), "beats": 3, "released": False}
    ObjectFiles(f"{there.root}.2").create_lease(1, killed)
    told = io.StringIO()
    place = reparse_run(there.root, {}, Console(file=told, width=200))
    assert place == f"{there.root}.2"
    assert f"The driver on node-7 (process 7) holds {place}; waiting up to" in told.getvalue()
