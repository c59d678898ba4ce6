"""Training students on a Ray cluster: the only file that knows Ray Train.

Every student is a Ray Train run of its own. Its name is never used twice, since Ray Train continues a run whose name it
finds on the storage path, while every round of S3 begins at the base checkpoint.
"""

import os
import signal
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from s3ray.config import StudentConfig
from s3ray.errors import S3RayError, TrainerError
from s3ray.monitor.logs import log_from
from s3ray.student.loop import train_student
from s3ray.student.ranks import ProcessGroup
from s3ray.tasks import Task
from s3ray.types import StudentJob, StudentResult

MAX_FAILURES = 2
"""How often a student is begun again after a worker died."""
START_ATTEMPTS = 3
"""How often Ray Train may wait for its workers, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S (60) seconds each time."""


class RayStudentTrainer:
    """Trains students with ``config.workers`` Ray Train workers.

    ``storage_path`` is a folder that every node can reach; Ray Train keeps its own notes there. Several workers may
    share a GPU (``gpus_per_worker`` below 1).
    """

    def __init__(
        self,
        config: StudentConfig,
        task: Task,
        *,
        run_name: str,
        storage_path: str,
        gpus_per_worker: float,
        cpus_per_worker: int = 1,
    ) -> None:
        # Workers do not share this process's working directory.
        model = str(Path(config.model).resolve()) if Path(config.model).exists() else config.model
        self._config = config.model_copy(update={"model": model})
        self._task = task
        self._run_name = run_name
        self._storage_path = str(Path(storage_path).resolve())
        self._resources = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student; ``seconds["start"]`` includes the start and end of the workers.

        Raises:
            TrainerError: the cluster has no room for the workers, or they died too often.
            InputError: the model cannot serve the task.
        """
        start = time.monotonic()
        trainer = self._trainer(_with_absolute_paths(job))
        # fit() replaces the handler of Ctrl-C for good, by one that ends the process as if all were well.
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            result: StudentResult = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise self._translate(error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_interrupt)
        at_work = result.seconds["train"] + result.seconds["score"]
        return replace(result, seconds={**result.seconds, "start": time.monotonic() - start - at_work})

    def _trainer(self, job: StudentJob) -> ray.train.torch.TorchTrainer:
        gpus = self._resources["GPU"]
        return ray.train.torch.TorchTrainer(
            _train_on_worker,
            train_loop_config={"config": self._config, "task": self._task, "job": job, "run": self._run_name},
            # NCCL refuses two workers on one GPU; Gloo does not.
            torch_config=ray.train.torch.TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self._config.workers,
                use_gpu=gpus > 0,
                resources_per_worker={name: amount for name, amount in self._resources.items() if amount},
                label_selector=_of_type(self._config.accelerator),
            ),
            run_config=ray.train.RunConfig(
                name=f"{self._run_name}-student-{job.round}-{uuid.uuid4().hex[:8]}",
                storage_path=self._storage_path,
                failure_config=ray.train.FailureConfig(
                    max_failures=MAX_FAILURES, controller_failure_limit=START_ATTEMPTS - 1
                ),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )

    def _translate(self, error: ray.train.TrainingFailedError) -> S3RayError:
        if isinstance(error, ray.train.WorkerGroupError):
            for failure in error.worker_failures.values():
                if isinstance(failure, S3RayError):
                    return failure
            first = next(iter(error.worker_failures.values()), error)
            return TrainerError(f"the train workers failed {MAX_FAILURES + 1} times: {first}")
        asked = ", ".join(f"{amount:g} {name}" for name, amount in self._resources.items() if amount)
        total, free = ray.cluster_resources(), ray.available_resources()
        has = ", ".join(f"{total.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in self._resources)
        return TrainerError(
            f"Ray Train could not start {self._config.workers} workers with {asked} each; the cluster has {has}",
            f"Lower student.workers, or free what holds the devices.\n  {error}",
        )


def _with_absolute_paths(job: StudentJob) -> StudentJob:
    def absolute(path: str) -> str:
        return str(Path(path).resolve())

    return replace(
        job,
        train_path=absolute(job.train_path),
        select_path=absolute(job.select_path),
        mine_path=absolute(job.mine_path) if job.mine_path else None,
        test_path=absolute(job.test_path) if job.test_path else None,
        output=absolute(job.output),
    )


def _train_on_worker(settings: dict[str, Any]) -> StudentResult:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    log_from(run=settings["run"], round=settings["job"].round, phase="train")
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(_num_threads(context.get_local_world_size()))
    ranks = ProcessGroup(device=device, rank=context.get_world_rank(), world_size=context.get_world_size())
    return train_student(settings["config"], settings["task"], settings["job"], ranks)


def _num_threads(num_local_workers: int) -> int:
    """This node's cores shared between its train workers, whatever OMP_NUM_THREADS this process was started with."""
    here = ray.get_runtime_context().get_node_id()
    declared = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(os.cpu_count() or 1, int(declared)) // num_local_workers)


def _of_type(accelerator: str | None) -> dict[str, str] | None:
    return {"ray.io/accelerator-type": accelerator} if accelerator else None
