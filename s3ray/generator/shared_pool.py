"""One source of requests, made of the stages of all runs that share a pool. Pure, apart from a lock.

Stages join and leave while the pool draws. Each stage has a block of indexes of its own, by which its answers are
recognised. The most urgent stage is drawn from first; the others get the engines that it leaves idle.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from s3ray.generator.scheduling.queue import RequestSource
from s3ray.types import GenerationRequest

# Column `index` has 64 bits with a sign: 40 for the request (no stage has nearly as many), 23 above for the stage.
_BITS = 40
_BLOCK = 1 << _BITS

Urgency = tuple[int, ...]
"""Compared in order; the smallest goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Customer:
    source: RequestSource
    served_task: str
    urgency: Urgency


class SharedSource:
    """The source that the pool draws from. ``finished`` becomes true when the campaign closes it."""

    def __init__(self) -> None:
        self.finished = False
        self._customers: dict[int, _Customer] = {}
        self._num_joined = 0
        self._withdrawn: list[range] = []
        self._lock = threading.Lock()

    def join(self, source: RequestSource, *, served_task: str, urgency: Urgency) -> int:
        """A stage wants answers; returns its number, by which ``by_stage`` names its answers."""
        with self._lock:
            number = self._num_joined
            self._num_joined += 1
            self._customers[number] = _Customer(source=source, served_task=served_task, urgency=urgency)
        return number

    def leave(self, number: int) -> None:
        """A stage wants no more answers, even if some of its requests are under way."""
        with self._lock:
            del self._customers[number]
            self._withdrawn.append(range(number * _BLOCK, (number + 1) * _BLOCK))

    def close(self) -> None:
        """No stage will join any more."""
        with self._lock:
            self.finished = True

    @property
    def num_customers(self) -> int:
        """Stages that want answers at this moment."""
        return len(self._customers)

    @property
    def is_waiting(self) -> bool:
        """True until it is closed: a stage may join, or want more once it has settled its last answers."""
        return not self.finished

    def take(self, num: int) -> list[GenerationRequest]:
        """Up to ``num`` requests, the most urgent stage's first."""
        taken: list[GenerationRequest] = []
        with self._lock:
            for number, customer in sorted(self._customers.items(), key=lambda item: (item[1].urgency, item[0])):
                if len(taken) >= num:
                    break
                base = number * _BLOCK
                taken += [
                    request._replace(index=base + request.index, served_task=customer.served_task)
                    for request in customer.source.take(num - len(taken))
                ]
        return taken

    def take_withdrawn(self) -> list[range]:
        """The indexes of stages that have left since the last call."""
        with self._lock:
            withdrawn, self._withdrawn = self._withdrawn, []
        return withdrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What a pool must know to serve many runs: stages come and go, and devices may be wanted back for training.

    ``num_allowed`` returns how many units (an engine, or all engines that share a GPU; see ``scheduling.room``) may
    hold devices at this moment. Engines beyond that get no more requests, answer what they have, and leave; they come
    back when they are allowed and a stage in ``source`` wants answers.
    """

    source: SharedSource
    num_allowed: Callable[[], int]


def by_stage(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Split answers (``OUTCOME_SCHEMA``) by the number of their stage; ``index`` is again the one within the stage."""
    index = table["index"].to_numpy()
    numbers = index >> _BITS
    for number in np.unique(numbers).tolist():
        part = table.filter(pa.array(numbers == number))
        own = pa.array(part["index"].to_numpy() & (_BLOCK - 1), pa.int64())
        yield number, part.set_column(table.schema.get_field_index("index"), table.schema.field("index"), own)
