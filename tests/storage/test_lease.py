"""The lease: one holder at a time, a dead one is followed, one that slept stops before it writes."""

import contextlib
import copy
import threading
import time
from typing import Any

import pytest

from s3ray.errors import InputError, LeaseLostError
from s3ray.storage import lease
from s3ray.storage.lease import Lease, held, is_alive


class LeaseObjects:
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

    def write_under(self, lease: Lease | None) -> None:
        """Nothing but leases is written here."""


@pytest.fixture(autouse=True)
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    monkeypatch.setattr(lease, "BEAT_S", 1000.0)


class Wall:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def taken(objects: LeaseObjects, wall: Wall, waited_for: list[str] | None = None) -> Lease:
    lease = Lease(objects, wall)
    while (holder := lease.take()) is not None:
        if waited_for is not None:
            waited_for.append(holder)
        time.sleep(0.03)
    return lease


def test_a_lease_that_was_released_is_free_at_once() -> None:
    objects, wall, said = LeaseObjects(), Wall(), list[str]()
    taken(objects, wall).release()
    taken(objects, wall, said)
    assert said == []
    assert list(objects.leases) == [2], "numbers rise, and old ones are cleared away"


def test_a_silent_holder_is_waited_for_and_followed() -> None:
    objects, wall, said = LeaseObjects(), Wall(), list[str]()
    first = taken(objects, wall)
    second = Lease(objects, wall)
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
    shelves, wall, said = [LeaseObjects(root=f"s3://bucket/run-{num}") for num in range(12)], Wall(), list[str]()
    for objects in shelves:
        taken(objects, wall)
    clock = Wall()
    began = clock.now

    def sleep(seconds: float) -> None:
        assert said, "what is waited for is told before the wait"
        clock.now += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr(lease, "LEASE_S", 60.0)
    with held([Lease(objects, wall, clock) for objects in shelves], said.append):
        assert 60 <= clock.now - began < 65, "twelve take as long as one"
        (line,) = said
        assert all(objects.root in line for objects in shelves)
        assert "waiting up to 60 s" in line
        assert [list(objects.leases) for objects in shelves] == [[2]] * 12
    assert all(objects.leases[2]["released"] for objects in shelves)


def test_all_are_held_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    free, dead, alive = (LeaseObjects(root=f"s3://bucket/{name}") for name in ("free", "dead", "alive"))
    wall = Wall()
    taken(dead, wall)
    holder = taken(alive, wall)
    monkeypatch.setattr("time.sleep", lambda _: holder.renew())
    with (
        pytest.raises(InputError, match="another process") as refused,
        held([Lease(objects, wall) for objects in (free, dead, alive)], print),
    ):
        pytest.fail("one of them is running")
    assert refused.value.where == alive.root
    assert free.leases[1]["released"]
    assert list(dead.leases) == [1]
    holder.check()


def test_two_starts_that_wait_for_the_same_runs_never_share_one() -> None:
    shelves, wall = [LeaseObjects(root=f"s3://bucket/run-{num}") for num in range(4)], Wall()
    for objects in shelves:
        taken(objects, wall)
    at_work: list[int] = []
    start = threading.Barrier(2)

    def rush(number: int) -> None:
        start.wait()
        with contextlib.suppress(InputError), held([Lease(objects, wall) for objects in shelves], list[str]().append):
            at_work.append(number)
            time.sleep(0.2)

    threads = [threading.Thread(target=rush, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(at_work) <= 1


def test_a_holder_that_beats_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    objects, wall = LeaseObjects(), Wall()
    first = taken(objects, wall)

    def sleep(_: float) -> None:
        first.renew()

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(InputError, match="another process"):
        taken(objects, wall)
    first.check()


def test_of_many_that_start_at_once_one_runs() -> None:
    objects, wall = LeaseObjects(), Wall()
    taken(objects, wall)
    won: list[Lease] = []
    start = threading.Barrier(8)

    def rush() -> None:
        start.wait()
        try:
            won.append(taken(objects, wall))
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
    objects, wall = LeaseObjects(exclusive=False), Wall()
    first = taken(objects, wall)
    second = Lease(objects, wall)
    second._number = first._number
    objects.create_lease(first._number, second._content())
    wall.now += 1
    with pytest.raises(LeaseLostError):
        first.check()


def test_a_lease_of_yesterday_needs_no_watching() -> None:
    objects, wall, said = LeaseObjects(), Wall(), list[str]()
    taken(objects, wall)
    wall.now += 86_400
    assert not is_alive(objects, wall.now)
    taken(objects, wall, said)
    assert said == []
