"""What is kept of students: the checker once, probes for the round that follows, answers to the test part."""

from pathlib import Path

import pytest

from s3ray.rounds.students import Students
from s3ray.strategies.s3 import S3
from s3ray.telemetry.events import EventLog
from s3ray.types import StudentJob, StudentResult
from tests.rounds.test_driver import GOLD, TASK, Interrupted, ScriptedTrainer, _read, config, drive


def test_the_last_student_s_answers_to_the_test_part_agree_with_its_score(tmp_path: Path) -> None:
    store, _, _ = drive(config(tmp_path), tmp_path / "run")
    answers = store.read_table(store.answers(2))
    assert answers["id"].to_pylist() == [row.id for row in GOLD.test]
    mean = sum(answers["score"].to_pylist()) / answers.num_rows
    assert mean == store.read_json(store.score(2))["test"]["accuracy"]
    assert not store.has(store.answers(1))


@pytest.mark.parametrize("die_in_round", [0, 1])
def test_the_checker_is_trained_once_on_gold_alone(tmp_path: Path, die_in_round: int) -> None:
    class DiesWithAStudent(ScriptedTrainer):
        def train(self, job: StudentJob) -> StudentResult:
            if job.checker and job.round == die_in_round:
                raise Interrupted
            return super().train(job)

    settings = config(tmp_path, student__weigh="dimp")
    first = DiesWithAStudent()
    with pytest.raises(Interrupted):
        drive(settings, tmp_path / "run", trainer=first)
    store, _, second = drive(settings, tmp_path / "run")
    jobs = [*first.jobs, *second.jobs]
    assert [job.output for job in jobs] == [
        store.url(name) for name in ("checker", *map("students/{}".format, range(3)))
    ]
    checker, *students = jobs
    assert (checker.train_path, checker.select_path) == (
        store.url(store.gold("extrapolate")),
        store.url(store.gold("select")),
    )
    assert (checker.mine_path, checker.test_path, checker.checker) == (None, None, None)
    assert {job.checker for job in students} == {store.url("checker")}
    happened = [event["event"] for event in store.events()]
    assert (happened.count("checker_started"), happened.count("checker_finished")) == (1, 1)
    assert happened.index("checker_finished") < happened.index("student_started")
    assert store.students() == [0, 1, 2]


def test_a_checker_that_died_is_trained_again(tmp_path: Path) -> None:
    settings = config(tmp_path, student__weigh="dimp")
    with pytest.raises(Interrupted):
        drive(settings, tmp_path / "run", trainer=ScriptedTrainer(die_in_round=0))
    _, _, trainer = drive(settings, tmp_path / "run")
    assert [Path(job.output).name for job in trainer.jobs] == ["checker", "0", "1", "2"]


def test_probes_are_those_of_the_student_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3, "probes", ("gold", "train"))
    store, _, trainer = drive(config(tmp_path), tmp_path / "run")
    assert [sorted(job.probes) for job in trainer.jobs] == [["gold", "train"], ["gold", "train"], []]
    students = Students(
        config=config(tmp_path),
        task=TASK,
        store=store,
        events=EventLog(store, "job", 2),
        trainer=trainer,
        last_round=2,
    )
    for round_ in (1, 2):
        gold, train = (students.probes(round_, name) for name in ("gold", "train"))
        assert gold.ids == [row.id for row in GOLD.extrapolate]
        assert train.ids == [row.id for row in _read(trainer.jobs[round_ - 1].train_path)]
        assert train.features.shape == (len(train.ids), 3)
        assert set(train.features.flat) == {round_ - 1}
        assert train.probabilities.shape == (len(train.ids), 2)
