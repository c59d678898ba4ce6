"""Students on a real Ray Train: two workers do what one process does."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from s3ray.config import StudentConfig
from s3ray.errors import InputError, TrainerError
from s3ray.student.loop import LocalStudentTrainer
from s3ray.student.trainer import RayStudentTrainer
from s3ray.tasks import Task
from s3ray.types import StudentJob

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def on_ray(config: StudentConfig, task: Task, storage: Path, gpus: float = 0) -> RayStudentTrainer:
    return RayStudentTrainer(config, task, run_name="test", storage_path=str(storage), gpus_per_worker=gpus)


@pytest.mark.usefixtures("local_ray")
def test_two_workers_train_the_student_that_one_process_trains(
    config: StudentConfig, reviews: Task, job: StudentJob, tmp_path: Path
) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    alone = LocalStudentTrainer(config, reviews).train(replace(job, output=str(tmp_path / "alone")))
    trainer = on_ray(config.model_copy(update={"workers": 2}), reviews, tmp_path / "train")
    together = trainer.train(job)
    assert [report.loss for report in together.epochs] == pytest.approx(
        [report.loss for report in alone.epochs], rel=1e-3
    )
    assert together.select == alone.select
    assert together.test == alone.test
    assert [m.example.id for m in together.mistakes] == [m.example.id for m in alone.mistakes]
    assert AutoModelForSequenceClassification.from_pretrained(job.output).config.num_labels == 2
    assert together.seconds["start"] > 0
    assert signal.getsignal(signal.SIGINT) is interrupt
    again = trainer.train(job)  # at the base checkpoint, not where Ray Train left the student of the same job
    assert [report.loss for report in again.epochs] == [report.loss for report in together.epochs]


@pytest.mark.usefixtures("local_ray")
def test_what_the_user_got_wrong_comes_back_as_such(
    config: StudentConfig, reviews: Task, job: StudentJob, tmp_path: Path
) -> None:
    broken = config.model_copy(update={"model": "package:no-such-package-anywhere"})
    with pytest.raises(InputError, match="no-such-package-anywhere"):
        on_ray(broken, reviews, tmp_path / "train").train(job)


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_without_room_is_named_and_not_waited_for(
    config: StudentConfig, reviews: Task, job: StudentJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    with pytest.raises(TrainerError, match=r"1 workers with 1 CPU, 1 GPU each; the cluster has 4 CPU .*, 0 GPU"):
        on_ray(config, reviews, tmp_path / "train", gpus=1).train(job)
