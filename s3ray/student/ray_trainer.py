"""Training students on a Ray cluster: the only file that uses Ray Train.

Every student is a Ray Train run whose name contains its training id. Ray Train continues a run whose name it finds on
the storage path. So a training that died (its workers, its controller, the driver) goes on from its last checkpoint,
and any other training begins at the base checkpoint. Ray Train's files are removed once the student is finished.

Ray Train's controller loads this file too, and has no use for models. So modules that import transformers are imported
where they are used.
"""

import os
import platform
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch

from s3ray.cluster import occupancy, remove_groups
from s3ray.config.job import StudentConfig
from s3ray.errors import S3RayError, TrainerError
from s3ray.machine import student_bytes, wait_for_memory
from s3ray.models import resolve_model
from s3ray.storage.local import absolute
from s3ray.storage.object_store import arrow_files
from s3ray.student.trained import training_id
from s3ray.tasks import Task
from s3ray.telemetry.logs import log_from
from s3ray.types import StudentJob, StudentResult

if TYPE_CHECKING:
    from s3ray.student.checkpoint import State
    from s3ray.student.ranks import Ranks

MAX_FAILURES = 4
"""How often a student goes on from its last checkpoint after a worker died."""
MAX_PREEMPTIONS = 50
"""How often it goes on after the cluster announced that a worker's node will be removed."""
MAX_STARTS = 5
"""How often Ray Train is started for a student if its controller dies, or a worker while all are starting."""
ROOM_ATTEMPTS = 3
"""How often Ray Train waits for free devices, for RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S (60) seconds each time."""
POLL_S = 0.5
"""How often Ray Train looks at its workers, unless RAY_TRAIN_HEALTH_CHECK_INTERVAL_S says otherwise.

Only then does it notice that a training has ended, and it takes one checkpoint each time. With Ray Train's default of
two seconds, a student that trains for seconds would take twice as long. A look costs one short call to each worker.
"""
CHECKPOINT_SHARE = 0.1
"""Share of the time that checkpoints may take; short epochs get a checkpoint only now and then."""


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
        num_trainings: int = 1,
    ) -> None:
        """``num_trainings`` is how many trainings share the cores of a node at the same time."""
        # Workers do not share this process's working directory.
        model = str(Path(config.model).resolve()) if Path(config.model).exists() else config.model
        self._config = config.model_copy(update={"model": model})
        self._task = task
        self._run_name = run_name
        self._storage_path, self._storage = arrow_files(storage_path)
        self._resources = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
        self._num_trainings = num_trainings
        # Ray Train's placement groups have no names. A random number of bytes of memory, which nothing else reserves,
        # marks ours.
        self._mark = random.randrange(1, 2**24)

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student, or go on where an interrupted training of the same student stopped.

        ``seconds["start"]`` of the result includes the start and end of the workers.

        Raises:
            TrainerError: the cluster has no room for the workers, or they or Ray Train's controller died too often.
            InputError: the model cannot serve the task.
        """
        start = time.monotonic()
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))  # handed on to Ray Train's controller
        job = _with_absolute_paths(job)
        result = self._fit(job)
        self._forget(job)
        if isinstance(result, S3RayError):
            raise result
        at_work = result.seconds["train"] + result.seconds["score"]
        return replace(result, seconds={**result.seconds, "start": time.monotonic() - start - at_work})

    def _fit(self, job: StudentJob) -> StudentResult | S3RayError:
        """Run Ray Train until it returns the result of rank 0.

        Ray Train itself survives the death of a worker that trains, but not that of its controller, nor of a worker
        while all are starting. The checkpoints are kept, so it is started again.
        """
        trainer = self._trainer(job)
        # fit() replaces the handler of Ctrl-C for good, by one that ends the process with exit code 0.
        on_interrupt = signal.getsignal(signal.SIGINT)
        problem: Exception | None = None
        for _ in range(MAX_STARTS):
            try:
                result: StudentResult | S3RayError = trainer.fit().return_value
                return result
            except ray.train.ControllerError as error:
                problem = error.controller_failure
                if not isinstance(problem, ray.exceptions.RayError):
                    raise self._without_room(error) from error
            except ray.train.TrainingFailedError as error:
                raise _died_too_often(error) from error
            except ray.exceptions.RayActorError as error:
                problem = error
                if error.actor_init_failed:  # it died while it wrote its files, which cannot be read now
                    self._forget(job)
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGINT, on_interrupt)
            if not ray.is_initialized():  # the run has ended, and fit() would start a Ray of its own
                raise problem
            remove_groups(memory=self._mark)  # Ray Train may leave them behind, with the devices that they hold
        raise TrainerError(f"Ray Train was started {MAX_STARTS} times and always died: {problem}") from problem

    def _trainer(self, job: StudentJob) -> ray.train.torch.TorchTrainer:
        gpus = self._resources["GPU"]
        least, most = self._config.least_workers, self._config.workers
        return ray.train.torch.TorchTrainer(
            _train_on_worker,
            train_loop_config={
                "config": self._config,
                "task": self._task,
                "job": job,
                "run": self._run_name,
                "num_trainings": self._num_trainings,
            },
            torch_config=_DeviceTorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=(least, most) if least < most else most,
                use_gpu=gpus > 0,
                resources_per_worker={name: amount for name, amount in self._resources.items() if amount}
                | {"memory": self._mark},
                label_selector={"ray.io/accelerator-type": kind} if (kind := self._config.accelerator) else None,
            ),
            run_config=ray.train.RunConfig(
                name=self._prefix(job) + training_id(self._config, job),
                storage_path=self._storage_path,
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                storage_filesystem=self._storage,
                failure_config=ray.train.FailureConfig(
                    max_failures=MAX_FAILURES,
                    max_preemption_failures=MAX_PREEMPTIONS,
                    controller_failure_limit=ROOM_ATTEMPTS - 1,
                ),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )

    def _prefix(self, job: StudentJob) -> str:
        return f"{self._run_name}-student-{job.round}-"

    def _forget(self, job: StudentJob) -> None:
        """Remove Ray Train's files of this round's students."""
        files = self._storage or pyarrow.fs.LocalFileSystem()
        for entry in files.get_file_info(pyarrow.fs.FileSelector(self._storage_path, allow_not_found=True)):
            if entry.base_name.startswith(self._prefix(job)):
                files.delete_dir(entry.path)

    def _without_room(self, error: ray.train.ControllerError) -> TrainerError:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in self._resources.items() if amount)
        held = [occupancy(name) for name in self._resources]
        has = ", ".join(f"{each.total:g} {each.resource} ({each.free:g} free)" for each in held)
        holders = "; ".join(each.in_words() for each in held if each.held)
        return TrainerError(
            f"Ray Train could not start {self._config.least_workers} workers with {asked} each; the cluster has {has}",
            f"Lower student.workers, or free what holds the devices{f': {holders}' if holders else ''}.\n  {error}",
        )


def _died_too_often(error: ray.train.TrainingFailedError) -> TrainerError:
    if isinstance(error, ray.train.WorkerGroupError):
        first = next(iter(error.worker_failures.values()), error)
        return TrainerError(f"the train workers failed {MAX_FAILURES + 1} times: {first}")
    return TrainerError(f"the nodes of the train workers went away more than {MAX_PREEMPTIONS} times: {error}")


class RayCheckpoints:
    """Keeps a training's state with Ray Train, on its storage path.

    The first epoch is always saved, and so is every epoch at whose end a node is known to leave. Others are saved as
    long as that takes no more than CHECKPOINT_SHARE of the time: a checkpoint waits for Ray Train's next look at its
    workers.
    """

    def __init__(self, ranks: "Ranks") -> None:
        self._ranks = ranks
        self._due = 0.0

    def load(self) -> "State | None":
        """Read Ray Train's last checkpoint."""
        from s3ray.student.checkpoint import read_state

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return read_state(Path(folder))

    def save(self, make_state: "Callable[[], State]") -> None:
        """Report a checkpoint to Ray Train, if one is due."""
        from s3ray.student.checkpoint import write_state

        start = time.monotonic()
        is_leaving = ray.train.get_preemption_info() is not None  # all workers must ask equally often
        if not self._ranks.gather(is_leaving or start >= self._due)[0]:
            return
        if self._ranks.rank == 0:
            with tempfile.TemporaryDirectory() as folder:
                write_state(make_state(), Path(folder))
                ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
        else:
            ray.train.report({})
        took = time.monotonic() - start
        self._due = start + took / CHECKPOINT_SHARE


class _DeviceTorchConfig(ray.train.torch.TorchConfig):  # type: ignore[misc]
    """Uses NCCL only if every worker turns out to have a GPU of its own, else Gloo.

    Workers may share a GPU, which NCCL refuses, and nodes may declare GPUs to Ray that they do not have.
    """

    @property
    def backend_cls(self) -> type:
        return _DeviceBackend


class _DeviceBackend(ray.train.torch.TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: _DeviceTorchConfig) -> None:
        if backend_config.backend == "nccl":
            gpus = worker_group.execute(_own_gpus)
            if not all(gpus) or len(set(gpus)) < len(gpus):
                backend_config = _DeviceTorchConfig(backend="gloo")
        super().on_start(worker_group, backend_config)


def _own_gpus() -> tuple[str, ...]:
    """Node and numbers of this worker's GPUs; empty where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return ()
    context = ray.get_runtime_context()
    return (context.get_node_id(), *context.get_accelerator_ids()["GPU"])


def _with_absolute_paths(job: StudentJob) -> StudentJob:
    return replace(
        job,
        train_path=absolute(job.train_path),
        select_path=absolute(job.select_path),
        mine_path=absolute(job.mine_path) if job.mine_path else None,
        test_path=absolute(job.test_path) if job.test_path else None,
        output=absolute(job.output),
        checker=absolute(job.checker) if job.checker else None,
        probes={name: absolute(path) for name, path in job.probes.items()},
    )


def _train_on_worker(settings: dict[str, Any]) -> StudentResult | S3RayError:
    """Train on one worker. Errors of s3ray are returned as values, since Ray Train tries again after any exception."""
    import torch

    from s3ray.student.ranks import ProcessGroup
    from s3ray.student.session import train_student

    log_from(run=settings["run"], round=settings["job"].round, phase="train")
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(_num_threads(context.get_local_world_size() * settings["num_trainings"]))
    ranks = ProcessGroup(device=device, rank=context.get_world_rank(), world_size=context.get_world_size())
    memory = _memory_problem(device, settings["config"].model) if device.type == "cuda" else None
    if (problem := next(filter(None, ranks.gather(memory)), None)) is not None:  # all give up together
        return problem
    try:
        return train_student(settings["config"], settings["task"], settings["job"], ranks, RayCheckpoints(ranks))
    except S3RayError as error:
        return error


def _memory_problem(device: Any, model: str) -> S3RayError | None:
    """Wait until the engine that was on this GPU has freed its memory; returns the error if it does not.

    A model of the hub is fetched to this node first, if it is not there yet.
    """
    import torch

    where = f"{device} ({torch.cuda.get_device_name(device)}) on {platform.node()}"
    try:
        folder = Path(resolve_model(model, field="student.model"))
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        wait_for_memory("a student", where, student_bytes(weights), lambda: torch.cuda.mem_get_info(device))
    except S3RayError as error:
        return error
    return None


def _num_threads(num_local_workers: int) -> int:
    """This node's cores per train worker on it; OMP_NUM_THREADS, with which Ray starts a process, does not count."""
    here = ray.get_runtime_context().get_node_id()
    declared = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(os.cpu_count() or 1, int(declared)) // num_local_workers)
