"""Memory of a GPU that changes hands: waited for as long as it comes free, and not for ever."""

from collections.abc import Sequence

import pytest

from s3ray.errors import DeviceMemoryError
from s3ray.memory import LIMIT_S, MemoryWatch, student_bytes, wait_for_memory

GIB = 2**30


class Card:
    """80 GiB of which so many are free, reading by reading; the last one stays. A reading takes no time, a nap does."""

    def __init__(self, free_gib: Sequence[float]) -> None:
        self.now = 0.0
        self.num_readings = 0
        self._free = list(free_gib)

    def read(self) -> tuple[int, int]:
        self.num_readings += 1
        free = self._free.pop(0) if len(self._free) > 1 else self._free[0]
        return int(free * GIB), 80 * GIB

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, needed_gib: float) -> None:
        watch = MemoryWatch(who="a student", where="cuda:0 on node-7", needed=int(needed_gib * GIB), started=0.0)
        wait_for_memory(watch, self.read, clock=lambda: self.now, sleep=self.sleep)


def test_a_free_card_is_not_waited_for() -> None:
    card = Card([79])
    card.wait(4)
    assert (card.num_readings, card.now) == (1, 0)


@pytest.mark.parametrize(
    ("free", "readings"),
    [
        ([5, 8, 40, 79], 4),  # enough from the start, but the engine is still on its way out
        ([5, 8, 40, 40.2], 4),  # the rest belongs to somebody else and stays
        ([1, 1, 1, 79], 4),  # settled, but not enough
    ],
)
def test_an_engine_on_its_way_out_is_waited_for(free: list[float], readings: int) -> None:
    card = Card(free)
    card.wait(4)
    assert card.num_readings == readings


def test_memory_that_never_comes_free_is_named() -> None:
    card = Card([3])
    with pytest.raises(DeviceMemoryError, match=r"a student needs 4.0 GiB of cuda:0 on node-7.* 3.0 of 80.0 GiB"):
        card.wait(4)
    assert card.now == LIMIT_S


def test_a_restless_card_with_enough_is_taken_at_the_limit() -> None:
    card = Card([20 + 10 * (num % 2) for num in range(300)])
    card.wait(4)
    assert card.now == LIMIT_S


def test_a_student_needs_its_weights_four_times_and_a_gib() -> None:
    assert student_bytes(GIB) == 5 * GIB
