"""The lease: one holder at a time, a dead one is followed, one that slept stops before it writes."""

import contextlib
import copy
import threading
import time
from typing import Any

import pytest

from s3ray import lease
from s3ray.errors import InputError, LeaseLostError
from s3ray.lease import Lease, held, is_alive


class Shelf:
    """Leases in memory; ``exclusive`` as S3 has it, or a store where the later one wins."""

    def __init__(self, exclusive: bool = True, root: str = "s3://bucket/run") -> None:
        self.root = root
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


def taken(shelf: Shelf, wall: Wall, waited_for: list[str] | None = None) -> Lease:
    lease = Lease(shelf, wall)
    while (holder := lease.take()) is not None:
        if waited_for is not None:
            waited_for.append(holder)
        time.sleep(0.03)
    return lease


def test_a_lease_that_was_released_is_free_at_once() -> None:
    shelf, wall, said = Shelf(), Wall(), list[str]()
    taken(shelf, wall).release()
    taken(shelf, wall, said)
    assert said == []
    assert list(shelf.leases) == [2], "numbers rise, and old ones are cleared away"


def test_a_silent_holder_is_waited_for_and_followed() -> None:
    shelf, wall, said = Shelf(), Wall(), list[str]()
    first = taken(shelf, wall)
    second = Lease(shelf, wall)
    with held([second], said.append):
        assert "waiting up to" in said[0]
        second.check()
        wall.now += 1
        with pytest.raises(LeaseLostError, match="another driver"):
            first.check()
        first.release()
        second.renew()
        second.check()


def test_many_silent_holders_are_watched_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    shelves, wall, said = [Shelf(root=f"s3://bucket/run-{num}") for num in range(12)], Wall(), list[str]()
    for shelf in shelves:
        taken(shelf, wall)
    clock = Wall()
    began = clock.now

    def sleep(seconds: float) -> None:
        assert said, "what is waited for is told before the wait"
        clock.now += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr(lease, "LEASE_S", 60.0)
    with held([Lease(shelf, wall, clock) for shelf in shelves], said.append):
        assert 60 <= clock.now - began < 65, "twelve take as long as one"
        (line,) = said
        assert all(shelf.root in line for shelf in shelves)
        assert "waiting up to 60 s" in line
        assert [list(shelf.leases) for shelf in shelves] == [[2]] * 12
    assert all(shelf.leases[2]["released"] for shelf in shelves)


def test_all_are_held_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    free, dead, alive = (Shelf(root=f"s3://bucket/{name}") for name in ("free", "dead", "alive"))
    wall = Wall()
    taken(dead, wall)
    holder = taken(alive, wall)
    monkeypatch.setattr("time.sleep", lambda _: holder.renew())
    with (
        pytest.raises(InputError, match="another process") as refused,
        held([Lease(shelf, wall) for shelf in (free, dead, alive)], print),
    ):
        pytest.fail("one of them is running")
    assert refused.value.where == alive.root
    assert free.leases[1]["released"]
    assert list(dead.leases) == [1]
    holder.check()


def test_two_starts_that_wait_for_the_same_runs_never_share_one() -> None:
    shelves, wall = [Shelf(root=f"s3://bucket/run-{num}") for num in range(4)], Wall()
    for shelf in shelves:
        taken(shelf, wall)
    at_work: list[int] = []
    start = threading.Barrier(2)

    def rush(number: int) -> None:
        start.wait()
        with contextlib.suppress(InputError), held([Lease(shelf, wall) for shelf in shelves], list[str]().append):
            at_work.append(number)
            time.sleep(0.2)

    threads = [threading.Thread(target=rush, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(at_work) <= 1


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
    second = Lease(shelf, wall)
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
