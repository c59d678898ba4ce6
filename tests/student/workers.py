"""Workers that train one student together, as threads of this process."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from s3ray.storage.run_folder import RunStore
from s3ray.student.ranks import Ranks, SingleProcess
from s3ray.tables import mistakes_from_table
from s3ray.tasks import Task
from s3ray.types import Mistake, StudentJob

Value = TypeVar("Value")


def on_workers(num_workers: int, work: Callable[[Ranks], Value]) -> list[Value]:
    """What each of one or two workers comes to."""
    values: list[object] = [None] * num_workers
    meeting = threading.Barrier(num_workers)
    alone = SingleProcess(device=torch.device("cpu"))
    workers: list[Ranks] = [Together(rank, values, meeting) for rank in range(num_workers)]
    with ThreadPoolExecutor(num_workers) as threads:
        return list(threads.map(work, workers if num_workers > 1 else [alone]))


class Together:
    """One of several workers that are threads of this process."""

    world_size = 2
    device = torch.device("cpu")

    def __init__(self, rank: int, values: list[object], meeting: threading.Barrier) -> None:
        self.rank = rank
        self._values = values
        self._meeting = meeting

    def share_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        return model

    def gather(self, value: Value) -> list[Value]:
        self._values[self.rank] = value
        self._meeting.wait(20)
        values = list(self._values)
        self._meeting.wait(20)
        return values  # type: ignore[return-value]


def mined(job: StudentJob, task: Task) -> list[Mistake]:
    """The mistakes that a student has left on disk."""
    store = RunStore(job.output)
    tables = [store.read_table(name) for name in store.files("mistakes")]
    return [mistake for table in tables for mistake in mistakes_from_table(table, task.fields)]
