"""What runs have in common is made by one of them, whatever becomes of that one."""

import threading
from pathlib import Path

from s3ray.campaign.reuse import SharedWork, copy_round, copy_student, trained_students
from s3ray.storage.run_folder import RunStore


def finished(folder: Path) -> RunStore:
    store = RunStore(folder)
    store.write_text(store.in_round(0, "chunks/seed-000000.parquet"), "outcomes")
    store.write_text(store.accepted(0), "rows")
    store.write_json(store.round_report(0), {"round": 0, "rows": 60})
    return store


def test_the_second_run_waits_for_the_first_and_gets_its_folder(tmp_path: Path) -> None:
    seeds: SharedWork[RunStore] = SharedWork()
    found: list[RunStore | None] = []

    def ask() -> None:
        with seeds.claimed("key") as source:
            found.append(source)

    with seeds.claimed("key") as source:
        assert source is None
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(0.1)
        assert not found, "the second run did not wait"
        seeds.note("key", finished(tmp_path / "a"))
        thread.join(10)
    assert [store.name for store in found if store] == ["a"]


def test_a_run_that_fails_leaves_the_work_to_the_next() -> None:
    seeds: SharedWork[str] = SharedWork()
    try:
        with seeds.claimed("key"):
            raise RuntimeError
    except RuntimeError:
        pass
    with seeds.claimed("key") as source:
        assert source is None


def test_other_work_is_not_waited_for() -> None:
    seeds: SharedWork[str] = SharedWork()
    with seeds.claimed("one"), seeds.claimed("two") as source:
        assert source is None


def test_a_copied_round_is_whole_and_says_where_it_comes_from(tmp_path: Path) -> None:
    target = RunStore(tmp_path / "b")
    report = copy_round(finished(tmp_path / "a"), target, 0)
    assert target.rounds() == [0]
    assert report == target.read_json("rounds/0/round.json") == {"round": 0, "rows": 60, "linked_from": "a"}
    assert target.path("rounds/0/chunks/seed-000000.parquet").read_text() == "outcomes"


def trained(folder: Path, name: str) -> RunStore:
    store = RunStore(folder)
    for file in ("model.safetensors", "mistakes/000000.parquet", "test.parquet", "trained.json"):
        content = '{"lineage": "abc"}' if file == "trained.json" else "bytes"
        store.write_text(f"{name}/{file}", content)
    seconds = {"start": 1.0, "train": 7.0, "score": 2.0, "all_workers": 9.0, "all_workers_train": 7.0}
    store.write_json(f"{name}/score.json", {"seconds": seconds})
    return store


def test_a_copied_student_brings_its_model_and_none_of_its_answers(tmp_path: Path) -> None:
    ((key, student),) = trained_students([trained(tmp_path / "a", "students/0")])
    assert (key, student.training_s) == ("abc", 7.0)
    target = RunStore(tmp_path / "b")
    copy_student(student, target, "checker", with_answers=False)
    assert sorted(target.files("checker")) == ["checker/model.safetensors", "checker/trained.json"]


def test_a_copied_student_brings_its_answers_to_the_same_questions(tmp_path: Path) -> None:
    ((_, student),) = trained_students([trained(tmp_path / "a", "students/0")])
    target = RunStore(tmp_path / "b")
    copy_student(student, target, "students/0", with_answers=True)
    copied = sorted(file.removeprefix("students/0/") for file in target.files("students/0"))
    assert copied == ["mistakes/000000.parquet", "model.safetensors", "trained.json"]


def test_students_whose_model_is_gone_are_passed_over(tmp_path: Path) -> None:
    store = trained(tmp_path / "a", "checker")
    store.path("checker/trained.json").unlink()
    assert list(trained_students([store])) == []
