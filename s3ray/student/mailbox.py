"""Between a driver and its train workers: an actor that hands out one student after another and takes the results.

It imports none of the libraries that train, and what passes through it is pickled already, so its process stays small.
"""

import asyncio


class Mailbox:
    """The students that are asked for, one at a time, and their results; an actor with asynchronous methods.

    Ray Train may start the workers again at any moment, and those of an earlier start may still be about. So whoever
    of a start's workers comes first to a step decides which student it is about, and the others get the same.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._open: tuple[int, bytes] | None = None
        self._is_closed = False
        self._results: dict[int, bytes] = {}
        self._start = ""
        self._steps: list[tuple[int, bytes] | None] = []

    async def ask(self, number: int, student: bytes) -> bytes:
        """Offer a student to the workers; returns its result once they have it. Numbers must rise."""
        async with self._changed:
            self._open = number, student
            self._changed.notify_all()
            await self._changed.wait_for(lambda: number in self._results)
            return self._results.pop(number)

    async def take(self, start: str, step: int) -> tuple[int, bytes] | None:
        """Wait for the student of a worker's step, counted from 0 since the ``start`` of the workers; None: no more."""
        async with self._changed:
            if start != self._start and step == 0:
                self._start, self._steps = start, []
            await self._changed.wait_for(lambda: start != self._start or step < len(self._steps) or self._is_due())
            if start != self._start:
                return None
            if step == len(self._steps):
                self._steps.append(None if self._is_closed else self._open)
                self._changed.notify_all()
            return self._steps[step]

    def _is_due(self) -> bool:
        """Whether there is something that the workers of this start were not given yet."""
        return self._is_closed or (self._open is not None and self._open not in self._steps)

    async def answer(self, number: int, result: bytes) -> None:
        """Hand in the result of a student; only the first one counts."""
        async with self._changed:
            if self._open is not None and self._open[0] == number:
                self._open = None
                self._results[number] = result
                self._changed.notify_all()

    async def close(self) -> None:
        """Send the workers home, those that come later too."""
        async with self._changed:
            self._is_closed, self._open = True, None
            self._changed.notify_all()
