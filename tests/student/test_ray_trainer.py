"""Students on a real Ray Train: two workers do what one process does, and so do those that are killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table
from transformers import AutoModelForSequenceClassification

from benchmarks.processes import below
from s3ray.cluster import remove_groups
from s3ray.config.job import StudentConfig
from s3ray.errors import InputError, S3RayError, TrainerError
from s3ray.strategies.probes import probes_from_table
from s3ray.student.local_trainer import LocalStudentTrainer
from s3ray.student.ranks import Ranks
from s3ray.student.ray_trainer import RayStudentTrainer, TrainWorkers
from s3ray.tasks import Task
from s3ray.types import Example, Origin, Source, StudentJob, StudentResult
from tests.student.workers import mined

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[TrainWorkers]:
    """Train workers that stay between the students of a test."""
    workers = TrainWorkers("test", str(tmp_path / "train"), stay=True)
    yield workers
    workers.close()


def on_ray(
    config: StudentConfig, task: Task, workers: TrainWorkers, storage: Path, gpus: float = 0
) -> RayStudentTrainer:
    place = str(storage)
    return RayStudentTrainer(config, task, workers, run_name="test", storage_path=place, gpus_per_worker=gpus)


@pytest.fixture
def float32_everywhere(float32: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of Ray Train, which are other processes, compute in float32 too."""

    def train(ranks: Ranks, **settings: Any) -> StudentResult | S3RayError:
        from s3ray.student.ray_trainer import train_on_worker

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("s3ray.student.model.cpu_flags", frozenset)
            return train_on_worker(ranks, **settings)

    monkeypatch.setattr("s3ray.student.ray_trainer.train_on_worker", train)


@pytest.mark.usefixtures("local_ray", "float32_everywhere")
def test_two_workers_train_the_student_that_one_process_trains_though_they_are_killed(
    config: StudentConfig,
    reviews: Task,
    job: StudentJob,
    workers: TrainWorkers,
    tmp_path: Path,
    toy_reviews: Callable[[range], list[Example]],
    write: Callable[[str, Task, Sequence[Example]], str],
) -> None:
    """One that weighs its rows with a checker, and is asked about rows that it did not see."""
    interrupt = signal.getsignal(signal.SIGINT)
    checker = replace(job, output=str(tmp_path / "checker"), mine_path=None, test_path=None)
    LocalStudentTrainer(config, reviews).train(checker)
    written = [
        replace(row, origin=Origin(source=Source.SEED), soft=(0.25, 0.75) if place % 3 else ())
        for place, row in enumerate(toy_reviews(range(400, 449)))
    ]
    path = write("written", reviews, written)
    job = replace(job, train_path=path, checker=checker.output, probes={"train": path})
    config = config.model_copy(update={"weigh": "dimp", "epochs": 30})
    apart = replace(job, output=str(tmp_path / "alone"))
    alone = LocalStudentTrainer(config, reviews).train(apart)

    trainer = on_ray(config.model_copy(update={"workers": 2, "rows_at_once": 3}), reviews, workers, tmp_path / "train")
    together = trainer.train(job)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-3)
    assert together.select == alone.select
    assert together.test == alone.test
    assert [m.example.id for m in mined(job, reviews)] == [m.example.id for m in mined(apart, reviews)]
    seen, known = (
        probes_from_table(pq.read_table(Path(output) / "probes/train.parquet")) for output in (job.output, apart.output)
    )
    assert seen.ids == known.ids == [row.id for row in written]
    assert seen.probabilities == pytest.approx(known.probabilities, abs=1e-3)
    assert AutoModelForSequenceClassification.from_pretrained(job.output).config.num_labels == 2
    assert together.seconds["start"] > 0
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5", "Ray Train sees the end of a training soon"
    assert signal.getsignal(signal.SIGINT) is interrupt

    # The same student once more, and Ray Train must not go on from where it left the first one.
    killed: list[str] = []
    killer = threading.Thread(target=kill_worker_then_controller, args=(tmp_path / "train", killed))
    killer.start()
    disturbed = trainer.train(replace(job, output=str(tmp_path / "again")))
    killer.join()
    assert killed == ["worker", "controller"]
    assert [(report.loss, report.select) for report in disturbed.epochs] == [
        (report.loss, report.select) for report in together.epochs
    ]
    assert (disturbed.best_epoch, disturbed.test) == (together.best_epoch, together.test)
    # What is trained already only answers, and whoever is there goes on.
    there = {process.pid for process in below("RayTrainWorker")}
    only_asked = trainer.train(replace(job, output=str(tmp_path / "again")))
    assert (only_asked.best_epoch, only_asked.test) == (disturbed.best_epoch, disturbed.test)
    assert {process.pid for process in below("RayTrainWorker")} == there
    assert len(there) == 2
    workers.close()
    assert not (tmp_path / "train").exists(), "the notes of finished students and their workers go"


def losses(result: StudentResult) -> list[float]:
    return [report.loss for report in result.epochs]


@pytest.mark.usefixtures("local_ray")
def test_what_the_user_got_wrong_comes_back_as_such(
    config: StudentConfig, reviews: Task, job: StudentJob, workers: TrainWorkers, tmp_path: Path
) -> None:
    broken = config.model_copy(update={"model": "package:no-such-package-anywhere"})
    with pytest.raises(InputError, match="no-such-package-anywhere"):
        on_ray(broken, reviews, workers, tmp_path / "train").train(job)


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_without_room_is_named_and_not_waited_for(
    config: StudentConfig,
    reviews: Task,
    job: StudentJob,
    workers: TrainWorkers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    with pytest.raises(TrainerError, match=r"1 workers with 1 CPU, 1 GPU each; the cluster has 4 CPU .*, 0 GPU"):
        on_ray(config, reviews, workers, tmp_path / "train", gpus=1).train(job)


def kill_worker_then_controller(storage: Path, killed: list[str]) -> None:
    """Kill a train worker once there is a checkpoint, and the controller once there is another worker."""
    wait_for(lambda: list(storage.glob("*/*/state.json")))
    worker = next(below("RayTrainWorker"))
    worker.kill()
    killed.append("worker")
    wait_for(lambda: [process for process in below("RayTrainWorker") if process.pid != worker.pid])
    next(below("TrainController")).kill()
    killed.append("controller")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 400
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.usefixtures("local_ray")
def test_what_a_dead_controller_left_reserved_comes_back_and_nothing_else() -> None:
    ours, others = (placement_group([{"CPU": 1, "memory": num}]) for num in (1234, 1235))
    ray.get([ours.ready(), others.ready()])
    remove_groups(memory=1234)
    states = [placement_group_table(group)["state"] for group in (ours, others)]
    remove_groups(memory=1235)
    assert states == ["REMOVED", "CREATED"]
