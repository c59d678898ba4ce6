"""Training students on a Ray cluster: the only file that uses Ray Train.

A group of train workers is one Ray Train run. It takes one student after another from a mailbox, so only the first
student waits for processes to start and for torch and transformers to be imported. Ray Train starts workers that died
again, and they go on with the student that they had, from the last checkpoint in the run folder. That is found by its
training id, so a training whose driver died goes on too, and any other begins at the base checkpoint.

Ray Train's controller loads this file too, and has no use for models. So modules that import transformers are imported
where they are used.
"""

import contextlib
import gc
import itertools
import os
import pickle
import platform
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s3ray.cluster import occupancy, own_gpus, remove_groups
from s3ray.config.job import StudentConfig
from s3ray.errors import S3RayError, TrainerError
from s3ray.machine import student_bytes, wait_for_memory
from s3ray.models import resolve_model
from s3ray.storage.local import absolute, join
from s3ray.storage.object_store import arrow_files
from s3ray.student.mailbox import Mailbox
from s3ray.student.trained import training_id
from s3ray.tasks import Task
from s3ray.telemetry.logs import log_from
from s3ray.types import StudentJob, StudentResult

if TYPE_CHECKING:
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

Only then does it notice that one has died. A look costs one short call to each worker.
"""
CLOSE_S = 60.0
"""How long train workers may take to go once they are told to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many train workers a group has (``least`` to ``most``), and what each of them reserves."""

    least: int
    most: int
    num_cpus: int
    num_gpus: float
    accelerator: str | None

    @property
    def resources(self) -> dict[str, float]:
        """What one worker reserves, by Ray's names."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus}


class TrainWorkers:
    """The train workers of a run or a campaign: groups that train one student after another.

    Those that ``stay`` wait for the next student with their devices; others go after each. ``place`` is a folder that
    every node can reach, where Ray Train keeps its own notes. Used from several threads, each training gets a group.
    """

    def __init__(self, name: str, place: str, *, stay: bool) -> None:
        self._prefix = f"{name}-workers-"
        self._place, self._filesystem = arrow_files(place)
        self._stay = stay
        self._lock = threading.Lock()
        self._is_swept = False
        self._idle: list[_Group] = []
        self._busy: list[_Group] = []

    def train(self, workers: Workers, settings: dict[str, Any]) -> StudentResult | S3RayError:
        """Train one student with workers that are there already, or with new ones.

        Raises:
            TrainerError: the cluster has no room for the workers, or they or Ray Train's controller died too often.
        """
        with self._group(workers) as group:
            return group.train(settings)

    @contextlib.contextmanager
    def _group(self, workers: Workers) -> "Iterator[_Group]":
        with self._lock:
            if not self._is_swept:  # what a driver that was killed has left
                _remove(self._filesystem, self._place, self._prefix)
                self._is_swept = True
            group = next((group for group in self._idle if group.workers == workers), None)
            # Others hold devices that a new group may need.
            others = [] if group else self._idle[:]
            self._idle = [each for each in self._idle if each is not group and each not in others]
            group = group or _Group(self._prefix, workers, self._place, self._filesystem)
            self._busy.append(group)
        for other in others:
            other.close()
        try:
            yield group
        except BaseException:
            with self._lock:
                self._busy.remove(group)
            group.abandon()
            raise
        with self._lock:
            self._busy.remove(group)
            if self._stay:
                self._idle.append(group)
        if not self._stay:
            group.close()

    def close(self) -> None:
        """Send all workers home; those that are training stop where they are."""
        with self._lock:
            idle, self._idle = self._idle, []
            busy = self._busy[:]
        for group in busy:
            group.abandon()
        for group in idle:
            group.close()
        files = self._filesystem or pyarrow.fs.LocalFileSystem()
        here = pyarrow.fs.FileSelector(self._place, allow_not_found=True)
        if self._is_swept and not files.get_file_info(here):
            with contextlib.suppress(OSError):
                files.delete_dir(self._place)


class _Group:
    """One Ray Train run and the mailbox of its workers. Used by one thread at a time."""

    def __init__(self, prefix: str, workers: Workers, place: str, filesystem: pyarrow.fs.FileSystem | None) -> None:
        self.workers = workers
        self._prefix = prefix
        self._place = place
        self._filesystem = filesystem
        self._mark = 0
        self._name = ""
        self._mailbox: Any = None
        self._fit: Future[None] = Future()
        self._numbers = itertools.count()
        self._num_trained = 0

    def train(self, settings: dict[str, Any]) -> StudentResult | S3RayError:
        """Hand a student to the workers and wait for its result.

        Ray Train itself survives the death of a worker that trains, but not that of its controller, nor of a worker
        while all are starting. The checkpoints are kept, so it is started again.
        """
        student = pickle.dumps(settings)
        problem: Exception | None = None
        for _ in range(MAX_STARTS):
            if self._mailbox is None:
                self._start()
            try:
                result = self._ask(student)
                self._num_trained += 1
                return result
            except ray.train.ControllerError as error:
                problem = error.controller_failure
                if not isinstance(problem, ray.exceptions.RayError):
                    raise self._without_room(error) from error
            except ray.train.TrainingFailedError as error:
                if not self._num_trained:
                    raise _died_too_often(error) from error
                problem = error  # other students had their share of the failures
            except ray.exceptions.RayActorError as error:
                problem = error
            if not ray.is_initialized():  # the run has ended, and Ray Train would start a Ray of its own
                raise problem
            self.abandon()
        raise TrainerError(f"Ray Train was started {MAX_STARTS} times and always died: {problem}") from problem

    def _start(self) -> None:
        """Start Ray Train in a thread, where it leaves the process's signals alone."""
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))  # handed on to Ray Train's controller
        # Ray Train's placement groups have no names. A random number of bytes of memory, which nothing else reserves,
        # marks ours.
        self._mark = random.randrange(1, 2**24)
        self._name = f"{self._prefix}{self._mark:06x}"
        self._num_trained = 0
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
        self._fit = Future()
        fit = self._trainer().fit
        threading.Thread(target=_settle, args=(self._fit, fit), name=self._name, daemon=True).start()

    def _ask(self, student: bytes) -> StudentResult | S3RayError:
        answer = self._mailbox.ask.remote(next(self._numbers), student)
        while not ray.wait([answer], timeout=POLL_S)[0]:
            if self._fit.done():
                self._fit.result()
                raise TrainerError("the train workers have gone without an answer")
        result: StudentResult | S3RayError = pickle.loads(ray.get(answer))
        return result

    def close(self) -> None:
        """Send the workers home and wait until their devices are free."""
        if self._mailbox is None or not ray.is_initialized():
            return
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._mailbox.close.remote(), timeout=CLOSE_S)
        with contextlib.suppress(Exception):  # how it ends is no matter any more
            self._fit.result(timeout=CLOSE_S)
        self.abandon()

    def abandon(self) -> None:
        """Take the workers' devices away. Without a mailbox, Ray Train's run ends as soon as they are there again."""
        if self._mailbox is None or not ray.is_initialized():
            return
        ray.kill(self._mailbox)
        self._mailbox = None
        remove_groups(memory=self._mark)  # Ray Train may leave them behind, with the devices that they hold
        with contextlib.suppress(OSError):  # Ray Train's run may be writing there still
            _remove(self._filesystem, self._place, self._name)

    def _trainer(self) -> ray.train.torch.TorchTrainer:
        workers = self.workers
        return ray.train.torch.TorchTrainer(
            _serve,
            train_loop_config={"mailbox": self._mailbox, "train": train_on_worker},
            torch_config=_DeviceTorchConfig(backend="nccl" if workers.num_gpus else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=(workers.least, workers.most) if workers.least < workers.most else workers.most,
                use_gpu=workers.num_gpus > 0,
                resources_per_worker={name: amount for name, amount in workers.resources.items() if amount}
                | {"memory": self._mark},
                label_selector={"ray.io/accelerator-type": workers.accelerator} if workers.accelerator else None,
            ),
            run_config=ray.train.RunConfig(
                name=self._name,
                storage_path=self._place,
                storage_filesystem=self._filesystem,
                failure_config=ray.train.FailureConfig(
                    max_failures=MAX_FAILURES,
                    max_preemption_failures=MAX_PREEMPTIONS,
                    controller_failure_limit=ROOM_ATTEMPTS - 1,
                ),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )

    def _without_room(self, error: ray.train.ControllerError) -> TrainerError:
        resources = self.workers.resources
        asked = ", ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount)
        held = [occupancy(name) for name in resources]
        has = ", ".join(f"{each.total:g} {each.resource} ({each.free:g} free)" for each in held)
        holders = "; ".join(each.in_words() for each in held if each.held)
        return TrainerError(
            f"Ray Train could not start {self.workers.least} workers with {asked} each; the cluster has {has}",
            f"Lower student.workers, or free what holds the devices{f': {holders}' if holders else ''}.\n  {error}",
        )


def _remove(filesystem: pyarrow.fs.FileSystem | None, place: str, prefix: str) -> None:
    """Remove the folders in ``place`` whose names begin so."""
    files = filesystem or pyarrow.fs.LocalFileSystem()
    for entry in files.get_file_info(pyarrow.fs.FileSelector(place, allow_not_found=True)):
        if entry.base_name.startswith(prefix):
            files.delete_dir(entry.path)


def _settle(future: "Future[None]", act: Callable[[], object]) -> None:
    """Put the outcome of ``act`` into the future."""
    try:
        act()
    except BaseException as error:  # whoever waits for the future gets it
        future.set_exception(error)
    else:
        future.set_result(None)


def _died_too_often(error: ray.train.TrainingFailedError) -> TrainerError:
    if isinstance(error, ray.train.WorkerGroupError):
        first = next(iter(error.worker_failures.values()), error)
        return TrainerError(f"the train workers failed {MAX_FAILURES + 1} times: {first}")
    return TrainerError(f"the nodes of the train workers went away more than {MAX_PREEMPTIONS} times: {error}")


class RayStudentTrainer:
    """Trains the students of a run with ``config.workers`` Ray Train workers.

    ``storage_path`` is a folder that every node can reach, where checkpoints lie until a student is finished. Several
    workers may share a GPU (``gpus_per_worker`` below 1).
    """

    def __init__(
        self,
        config: StudentConfig,
        task: Task,
        workers: TrainWorkers,
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
        self._groups = workers
        self._run_name = run_name
        self._storage_path = absolute(storage_path)
        self._workers = Workers(
            least=config.least_workers,
            most=config.workers,
            num_cpus=cpus_per_worker,
            num_gpus=gpus_per_worker,
            accelerator=config.accelerator,
        )
        self._num_trainings = num_trainings

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student, or go on where an interrupted training of the same student stopped.

        ``seconds["start"]`` of the result includes the start of workers that are new, and the end of those that go.

        Raises:
            TrainerError: the cluster has no room for the workers, or they or Ray Train's controller died too often.
            InputError: the model cannot serve the task.
        """
        start = time.monotonic()
        job = _with_absolute_paths(job)
        settings = {
            "config": self._config,
            "task": self._task,
            "job": job,
            "run": self._run_name,
            "checkpoints": join(self._storage_path, self._prefix(job) + training_id(self._config, job)),
            "num_trainings": self._num_trainings,
        }
        result = self._groups.train(self._workers, settings)
        self._forget(job)
        if isinstance(result, S3RayError):
            raise result
        at_work = result.seconds["train"] + result.seconds["score"]
        return replace(result, seconds={**result.seconds, "start": time.monotonic() - start - at_work})

    def _prefix(self, job: StudentJob) -> str:
        return f"{self._run_name}-student-{job.round}-"

    def _forget(self, job: StudentJob) -> None:
        """Remove the checkpoints of this round's students."""
        path, filesystem = arrow_files(self._storage_path)
        _remove(filesystem, path, self._prefix(job))


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
    return (ray.get_runtime_context().get_node_id(), *own_gpus())


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


def _serve(settings: dict[str, Any]) -> None:
    """Train one student after another on one worker, until the mailbox is closed or gone."""
    import torch

    from s3ray.student.ranks import ProcessGroup

    mailbox = settings["mailbox"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")
    ranks = ProcessGroup(device=device, rank=context.get_world_rank(), world_size=context.get_world_size())
    start = ranks.gather(uuid.uuid4().hex)[0]
    for step in itertools.count():
        try:
            taken = ray.get(mailbox.take.remote(start, step))
            if taken is None:
                return
            number, student = taken
            result = settings["train"](ranks, **pickle.loads(student))
            if ranks.rank == 0:
                ray.get(mailbox.answer.remote(number, pickle.dumps(result)))
        except ray.exceptions.RayActorError:  # the driver gave this group up
            return
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def train_on_worker(
    ranks: "Ranks",
    *,
    config: StudentConfig,
    task: Task,
    job: StudentJob,
    run: str,
    checkpoints: str,
    num_trainings: int,
) -> StudentResult | S3RayError:
    """Train on one worker. Errors of s3ray are returned as values, since Ray Train tries again after any exception."""
    import torch

    from s3ray.student.checkpoint import FolderCheckpoints
    from s3ray.student.session import train_student

    log_from(run=run, round=job.round, phase="train")
    if ranks.device.type == "cpu":
        torch.set_num_threads(_num_threads(ray.train.get_context().get_local_world_size() * num_trainings))
    memory = _memory_problem(ranks.device, config.model) if ranks.device.type == "cuda" else None
    if (problem := next(filter(None, ranks.gather(memory)), None)) is not None:  # all give up together
        return problem
    try:
        return train_student(config, task, job, ranks, FolderCheckpoints(ranks, checkpoints, _is_leaving))
    except S3RayError as error:
        return error


def _is_leaving() -> bool:
    """Whether the node of one of the workers is about to go."""
    return ray.train.get_preemption_info() is not None


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
