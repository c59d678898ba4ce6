"""The lease: one holder at a time, a dead one is followed, one that slept stops before it writes."""

import copy
import threading
from typing import Any

import pytest

from s3ray import lease
from s3ray.errors import InputError, LeaseLostError
from s3ray.lease import Lease, is_alive


class Shelf:
    """Leases in memory; ``exclusive`` as S3 has it, or a store where the later one wins."""

    root = "s3://bucket/run"

    def __init__(self, exclusive: bool = True) -> None:
        self.leases: dict[int, dict[str, Any]] = {}
        self.exclusive = exclusive
        self._mutex = threading.Lock()

    def lease_numbers(self) -> list[int]:
        return sorted(self.leases)

    def read_lease(self, number: int) -> dict[str, Any] | None:
        return copy.copy(self.leases.get(number))

    def write_lease(self, number: int, content: dict[str, Any]) -> None:
        self.leases[number] = content

    def create_lease(self, number: int, content: dict[str, Any]) -> bool:
        with self._mutex:
            if self.exclusive and number in self.leases:
                return False
            self.leases[number] = content
            return True

    def remove_lease(self, number: int) -> None:
        self.leases.pop(number, None)


@pytest.fixture(autouse=True)
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    monkeypatch.setattr(lease, "BEAT_S", 1000.0)


class Wall:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def taken(shelf: Shelf, wall: Wall, said: list[str] | None = None) -> Lease:
    held = Lease(shelf, (said if said is not None else []).append, wall)
    held.take()
    return held


def test_a_lease_that_was_released_is_free_at_once() -> None:
    shelf, wall, said = Shelf(), Wall(), list[str]()
    taken(shelf, wall).release()
    taken(shelf, wall, said)
    assert said == []
    assert list(shelf.leases) == [2], "numbers rise, and old ones are cleared away"


def test_a_silent_holder_is_waited_for_and_followed() -> None:
    shelf, wall, said = Shelf(), Wall(), list[str]()
    first = taken(shelf, wall)
    second = taken(shelf, wall, said)
    assert "waiting up to" in said[0]
    second.check()
    wall.now += 1
    with pytest.raises(LeaseLostError, match="another driver"):
        first.check()
    first.release()
    second.renew()
    second.check()


def test_a_holder_that_beats_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, wall = Shelf(), Wall()
    first = taken(shelf, wall)

    def sleep(_: float) -> None:
        first.renew()

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(InputError, match="another process"):
        taken(shelf, wall)
    first.check()


def test_of_many_that_start_at_once_one_runs() -> None:
    shelf, wall = Shelf(), Wall()
    taken(shelf, wall)
    won: list[Lease] = []
    start = threading.Barrier(8)

    def rush() -> None:
        start.wait()
        try:
            won.append(taken(shelf, wall))
        except InputError:
            return

    threads = [threading.Thread(target=rush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].check()


def test_where_creation_is_not_exclusive_the_earlier_one_stops() -> None:
    shelf, wall = Shelf(exclusive=False), Wall()
    first = taken(shelf, wall)
    second = Lease(shelf, print, wall)
    second._number = first._number
    shelf.create_lease(first._number, second._content())
    wall.now += 1
    with pytest.raises(LeaseLostError):
        first.check()


def test_a_lease_of_yesterday_needs_no_watching() -> None:
    shelf, wall, said = Shelf(), Wall(), list[str]()
    taken(shelf, wall)
    wall.now += 86_400
    assert not is_alive(shelf, wall.now)
    taken(shelf, wall, said)
    assert said == []
