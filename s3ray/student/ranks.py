"""The workers of a training: one process by default, a torch process group under Ray Train.

The training code uses ``Ranks`` alone, so that it also runs in a debugger without Ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from s3ray.errors import S3RayError

Value = TypeVar("Value")


class Ranks(Protocol):
    """The workers that train one student together."""

    @property
    def rank(self) -> int:
        """This worker's number."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    def share_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, wrapped so that its backward pass gives every worker the mean of all workers' gradients."""

    def gather(self, value: Value) -> list[Value]:
        """Every worker's value, in the order of ranks, on every worker."""


def by_first(ranks: Ranks, make: Callable[[], Value]) -> Value:
    """Call ``make`` on the first worker; all workers return its value, or raise its S3RayError, so that none waits."""
    made: Value | S3RayError | None = None
    if ranks.rank == 0:
        try:
            made = make()
        except S3RayError as error:
            made = error
    found = ranks.gather(made)[0]
    if isinstance(found, S3RayError):
        raise found
    return found  # type: ignore[return-value]


def agreed(ranks: Ranks, make: Callable[[], Value]) -> Value:
    """Call ``make`` on every worker; if any fails with S3RayError, all raise the first one, so that none waits."""
    made: Value | None = None
    problem = None
    try:
        made = make()
    except S3RayError as error:
        problem = error
    for found in ranks.gather(problem):
        if found is not None:
            raise found
    return made  # type: ignore[return-value]


def gather_rows(ranks: Ranks, own: Sequence[Value], num_rows: int) -> list[Value]:
    """All values of ``num_rows`` rows, in order; each worker gives those of its own rows, ``[rank::world_size]``."""
    values = ranks.gather(own)
    return [values[row % ranks.world_size][row // ranks.world_size] for row in range(num_rows)]


def _default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleProcess:
    """One worker, alone."""

    device: torch.device = field(default_factory=_default_device)
    rank: int = 0
    world_size: int = 1

    def share_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model itself."""
        return model

    def gather(self, value: Value) -> list[Value]:
        """The value alone."""
        return [value]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """One worker of torch's default process group, which exists already."""

    device: torch.device
    rank: int
    world_size: int

    def share_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model wrapped for data-parallel training."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def gather(self, value: Value) -> list[Value]:
        """Every worker's value, pickled and exchanged."""
        if self.world_size == 1:
            return [value]
        values: list[Value | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]
