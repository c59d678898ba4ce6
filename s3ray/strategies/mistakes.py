"""The mistakes that a round is written from, in the blocks in which they are mined; readable during the mining."""

import threading
from collections.abc import Callable, Iterator, Sequence

from s3ray.types import Mistake


class Mistakes:
    """Blocks of mistakes, in the order of gold. One thread adds blocks, others read."""

    def __init__(self, *blocks: Sequence[Mistake], is_complete: bool = True) -> None:
        self._blocks = list(blocks)
        self._is_complete = is_complete
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def add(self, block: Sequence[Mistake]) -> None:
        """Add a block that was just mined."""
        with self._changed:
            self._blocks.append(block)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the mining as complete, or as stopped by ``error``."""
        with self._changed:
            self._error, self._is_complete = error, True
            self._changed.notify_all()

    def blocks(self) -> Iterator[Sequence[Mistake] | None]:
        """Yield each block once, and None whenever the next one is not ready yet. Never blocks.

        Ends when the mining has ended, also by an error: see ``check``.
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
