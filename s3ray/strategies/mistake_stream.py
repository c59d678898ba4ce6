"""Hands a round its mistakes in blocks, as the evaluation of the last student finds them.

Strategies can write prompts for the first mistakes while the student is still answering the rest of gold.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

from s3ray.types import Mistake


class MistakeStream:
    """Blocks of mistakes in the order of gold. One thread adds blocks while others read them."""

    def __init__(self, *blocks: Sequence[Mistake], is_complete: bool = True) -> None:
        self._blocks = list(blocks)
        self._is_complete = is_complete
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def add(self, block: Sequence[Mistake]) -> None:
        """Add the next block."""
        with self._changed:
            self._blocks.append(block)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more blocks will come: the evaluation has finished, or was stopped by ``error``."""
        with self._changed:
            self._error, self._is_complete = error, True
            self._changed.notify_all()

    def blocks(self) -> Iterator[Sequence[Mistake] | None]:
        """Yield each block once, and None whenever the next one is not ready yet. Never waits.

        Ends when no more blocks will come, also after an error, which ``check`` raises.
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
        """All mistakes; waits for the last block.

        Raises:
            BaseException: the error that stopped the evaluation.
        """
        self._wait(lambda: self._is_complete)
        self.check()
        return [mistake for block in self._blocks for mistake in block]

    def wait_for_first(self) -> None:
        """Wait until there is a mistake or it is certain that there is none.

        Raises:
            BaseException: the error that stopped the evaluation.
        """
        self._wait(lambda: self._is_complete or any(self._blocks))
        self.check()

    def check(self) -> None:
        """Raise the error that stopped the evaluation, if there was one."""
        if self._error is not None:
            raise self._error

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(condition)
