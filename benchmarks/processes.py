"""The processes that a run started, found by what their command line says: what there is to kill."""

from collections.abc import Iterator

import psutil


def below(words: str, pid: int | None = None) -> Iterator[psutil.Process]:
    """The living processes below this one (or below ``pid``) whose command line contains ``words``."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            is_meant = words in " ".join(process.cmdline())
        except psutil.Error:
            continue  # it ended while we looked
        if is_meant:
            yield process
