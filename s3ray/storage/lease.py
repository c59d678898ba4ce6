"""One driver at a time where there are no locks: a lease that its holder renews, in objects with rising numbers.

    .lease/000003.json    owner, host, pid, time of the last beat, number of beats, released

A driver takes the run by creating the object with the next number. Where the store can create an object only if it is
absent (S3: ``If-None-Match``), only one driver succeeds; elsewhere the later one wins, and the earlier one finds a
higher number or another owner at its next beat, and stops. Numbers are never used twice, so a driver that slept cannot
mistake itself for the present holder. A waiting driver measures by its own clock: a lease that was not renewed for
``LEASE_S`` is dead.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from s3ray.errors import LeaseLostError, StoreError
from s3ray.storage.local import Lock, Notify, running_elsewhere

LEASE_S = 60.0
"""Seconds without renewal after which the holder of a lease counts as dead."""
BEAT_S = 10.0
"""Seconds between two renewals of a lease."""
LONG_DEAD_S = 3600.0
"""Age in seconds from which a lease is dead by its own time stamp: no two machines' clocks differ by so much."""
_LOOK_S = 2.0  # between two looks at a lease that is waited for
_LOOKS_AT_ONCE = 16  # requests to the store in parallel, where a campaign has many runs


class LeaseObjects(Protocol):
    """What a lease needs of a store: small numbered objects, and creation that fails if the object exists."""

    root: str

    def lease_numbers(self) -> list[int]:
        """The numbers of the leases that are there, in order."""

    def read_lease(self, number: int) -> dict[str, Any] | None:
        """A lease's content; None if it is gone."""

    def write_lease(self, number: int, content: dict[str, Any]) -> None:
        """Replace a lease's content."""

    def create_lease(self, number: int, content: dict[str, Any]) -> bool:
        """Write a lease that is not there yet; False if it is."""

    def remove_lease(self, number: int) -> None:
        """Remove a lease; one that is gone already is fine."""

    def write_under(self, lease: "Lease | None") -> None:
        """From now on, write only while this process holds the lease; None: write without one."""


@contextlib.contextmanager
def held(locks: Sequence[Lock], notify: Notify) -> Iterator[None]:
    """Hold all locks, or none. Leases whose holder may be dead are watched at the same time, for ``LEASE_S`` at most.

    ``notify`` gets one line for each host, which names the runs that are waited for.

    Raises:
        InputError: another process is running one of the runs.
        StoreError: the store cannot be reached.
    """
    with contextlib.ExitStack() as taken:

        def attempt(lock: Lock) -> str | None:
            holder = lock.take()
            if holder is None:
                taken.callback(lock.release)
            return holder

        waiting, has_notified = list(locks), False
        while waiting:
            with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
                # Of several starts that wait for the same runs, the one that gets the first lock gets all.
                holders = [*threads.map(attempt, waiting[:1]), *threads.map(attempt, waiting[1:])]
            silent = [(lock, holder) for lock, holder in zip(waiting, holders, strict=True) if holder is not None]
            waiting = [lock for lock, _ in silent]
            for host in () if has_notified else dict.fromkeys(holder for _, holder in silent):
                runs = ", ".join(lock.root for lock, holder in silent if holder == host)
                notify(f"The driver on {host} holds {runs}; waiting up to {LEASE_S:.0f} s for a sign of it.")
            has_notified = True
            if waiting:
                time.sleep(min(_LOOK_S, LEASE_S / 10))
        yield


@dataclass(frozen=True, slots=True)
class _Seen:
    number: int
    content: dict[str, Any]


def _newest(objects: LeaseObjects) -> _Seen | None:
    numbers = objects.lease_numbers()
    return _Seen(numbers[-1], objects.read_lease(numbers[-1]) or {"released": True}) if numbers else None


class Lease:
    """The right of this process to write one run: call ``take`` until it is ours, then ``check`` before every write."""

    def __init__(
        self, objects: LeaseObjects, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``wall`` is unix time, which goes on while the machine sleeps; ``clock`` is monotonic, for waiting."""
        self.root = objects.root
        self._objects = objects
        self._wall = wall
        self._clock = clock
        self._owner = uuid.uuid4().hex
        self._number = 0
        self._beats = 0
        self._renewed = 0.0
        self._is_lost = False
        self._watched: tuple[_Seen, float] | None = None
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="s3ray-lease", daemon=True)

    def take(self) -> str | None:
        """See ``Lock``. A holder that does not renew its lease for ``LEASE_S`` counts as dead.

        Raises:
            InputError: another process is running this run.
            StoreError: the store cannot be reached.
        """
        looked = self._clock()
        seen = _newest(self._objects)
        if self._watched is not None and seen != self._watched[0] and not self._has_let_go(seen):
            raise running_elsewhere(self.root)
        if seen is not None and not self._is_free(seen):
            if self._watched is None:
                self._watched = seen, self._clock()
            if looked - self._watched[1] < LEASE_S:
                return f"{seen.content.get('host')} (process {seen.content.get('pid')})"
        self._begin(1 + (seen.number if seen else 0))
        self._objects.write_under(self)
        return None

    def _begin(self, number: int) -> None:
        self._number = number
        if not self._objects.create_lease(self._number, self._content()):
            raise running_elsewhere(self.root)
        self._renewed = self._wall()
        self.renew()  # where creation is not exclusive, another start may have written the same number after us
        if self._is_lost:
            raise running_elsewhere(self.root)
        for older in self._objects.lease_numbers():
            if older < self._number:
                self._objects.remove_lease(older)
        self._heart.start()

    def check(self) -> None:
        """Make sure that this process still holds the run; costs nothing while its heart beats.

        Raises:
            LeaseLostError: another driver has taken the run over.
            StoreError: the store cannot be reached to find out.
        """
        if not self._is_lost and self._wall() - self._renewed > LEASE_S / 2:
            self.renew()
        if self._is_lost:
            raise LeaseLostError(
                f"another driver has taken {self.root} over",
                "This one was silent for too long (asleep, or cut off from the store). The other one goes on.",
            )

    def renew(self) -> None:
        """Renew the lease, or note that it is lost."""
        with self._mutex:
            seen = _newest(self._objects)
            if seen is None or seen.number != self._number or seen.content.get("owner") != self._owner:
                self._is_lost = True
            if not self._is_lost:
                self._beats += 1
                self._objects.write_lease(self._number, self._content())
                self._renewed = self._wall()

    def release(self) -> None:
        """Let the next driver in at once; a store that is out of reach by now sees the lease die by itself."""
        self._objects.write_under(None)
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(StoreError):
            self.renew()
            if not self._is_lost:
                self._objects.write_lease(self._number, self._content() | {"released": True})

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self.renew()
            except StoreError:
                continue  # the next write fails by itself and reports it

    def _content(self) -> dict[str, Any]:
        who = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid()}
        return who | {"time": self._wall(), "beats": self._beats, "released": False}

    def _is_free(self, seen: _Seen) -> bool:
        return bool(seen.content.get("released")) or self._wall() - seen.content.get("time", 0.0) > LONG_DEAD_S

    def _has_let_go(self, seen: _Seen | None) -> bool:
        """Whether the watched lease itself was released; another number is another driver's."""
        watched = self._watched
        return bool(seen and watched and seen.number == watched[0].number and seen.content.get("released"))


def is_alive(objects: LeaseObjects, wall: float) -> bool:
    """Whether a lease was renewed within ``LEASE_S``, by the clocks of two machines: good enough for a display."""
    seen = _newest(objects)
    return seen is not None and not seen.content.get("released") and wall - seen.content.get("time", 0.0) < LEASE_S
