"""The mistakes that a round is written from, in the blocks in which they were mined, also while that goes on."""

import threading
from collections.abc import Callable, Iterator, Sequence

from s3ray.types import Mistake

_LOOK_EVERY_S = 0.25


class Mistakes:
    """Blocks of mistakes, in the order of gold. One thread adds blocks, others read."""

    def __init__(self, *blocks: Sequence[Mistake], is_complete: bool = True) -> None:
        self._blocks = list(blocks)
        self._is_complete = is_complete
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def add(self, block: Sequence[Mistake]) -> None:
        """One more block was mined."""
        with self._changed:
            self._blocks.append(block)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No block will come any more: all are there, or ``error`` stopped the mining."""
        with self._changed:
            self._error, self._is_complete = error, True
            self._changed.notify_all()

    def blocks(self) -> Iterator[Sequence[Mistake] | None]:
        """Each block once, and None as often as the next is asked for before it is there. Never waits.

        Ends where the mining ended, also by an error: ``check`` tells.
        """
        num = 0
        while True:
            with self._changed:
                block = self._blocks[num] if num < len(self._blocks) else None
                is_over = block is None and self._is_complete
            if is_over:
                return
            num += block is not None
            yield block

    def all(self) -> list[Mistake]:
        """All mistakes; waits until they are mined.

        Raises:
            BaseException: what stopped the mining.
        """
        self._wait(lambda: self._is_complete)
        self.check()
        return [mistake for block in self._blocks for mistake in block]

    def wait_for_first(self) -> None:
        """Wait until there is a mistake, or none will come.

        Raises:
            BaseException: what stopped the mining.
        """
        self._wait(lambda: self._is_complete or any(self._blocks))
        self.check()

    def check(self) -> None:
        """Raise what stopped the mining, if anything has."""
        if self._error is not None:
            raise self._error

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(condition)


class StudentUnderWay:
    """A student that is made in a thread, while the next round is written from its mistakes so far.

    The wait for it is as long as its making, whose own limits are the trainer's.
    """

    def __init__(self, make: Callable[[], None], read_blocks: Callable[[int], Iterator[Sequence[Mistake]]]) -> None:
        """``make`` trains, scores and keeps the student; ``read_blocks`` gives the blocks on disk after so many."""
        self.mistakes = Mistakes(is_complete=False)
        self._make = make
        self._read_blocks = read_blocks
        self._num_read = 0
        self._error: BaseException | None = None
        self._is_made = threading.Event()
        for work, name in ((self._run, "student"), (self._watch, "mistakes")):
            # Daemons: Ctrl-C ends the process although Ray Train waits in one of them.
            threading.Thread(target=work, name=name, daemon=True).start()

    def finish(self) -> None:
        """Wait until the student is made.

        Raises:
            BaseException: what stopped it.
        """
        self.mistakes.all()

    def _run(self) -> None:
        try:
            self._make()
        except BaseException as error:  # raised again in the driver's thread
            self._error = error
        self._is_made.set()

    def _watch(self) -> None:
        try:
            while not self._is_made.wait(_LOOK_EVERY_S):
                self._take_in()
            if self._error is None:
                self._take_in()
        except BaseException as error:  # so is this
            self._error = error
        self.mistakes.end(self._error)

    def _take_in(self) -> None:
        for block in self._read_blocks(self._num_read):
            self._num_read += 1
            self.mistakes.add(block)
