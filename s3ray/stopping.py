"""What a command hears and says: signals that end it in order, output that no reader who leaves can break."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO, cast

from s3ray.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stops:
    """The signal that asked this process to end, if one did."""

    def __init__(self) -> None:
        self.error: StoppedError | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Answer a signal: the first raises, another one ends the process at once.

        Raises:
            StoppedError: it is the first.
        """
        if self.error is not None:
            os._exit(self.error.exit_code)
        self.error = StoppedError(number)
        raise self.error


_HEARD: list[Stops] = []
"""Of the command that this process is, if it is one; inner ones last."""


def why_stopped(error: KeyboardInterrupt) -> str:
    """Which signal is behind an exception; Ray and others raise one of their own for any signal."""
    heard = _HEARD[-1].error if _HEARD else None
    return str(heard or error) or str(StoppedError(signal.SIGINT))


@contextlib.contextmanager
def heard_signals() -> Iterator[Stops]:
    """Let the first signal raise ``StoppedError`` in the main thread, and the second end the process at once.

    A signal that this process was started to ignore (``nohup``, a shell's ``&``) stays ignored.
    """
    stops = Stops()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, stops)
    _HEARD.append(stops)
    try:
        yield stops
    finally:
        _HEARD.remove(stops)
        for number, handler in heard.items():
            signal.signal(number, handler)


class _Pipe(io.FileIO):
    """The file of standard output; what is written after its reader has left (``| head``) goes nowhere."""

    is_lost = False

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            self.is_lost = True
            return len(data)


def make_output_safe() -> None:
    """Show signs that the terminal's encoding lacks (``LANG=C``) as question marks, and outlive the reader of a pipe.

    Streams that are not a process's own (in tests and notebooks) stay as they are. A size of the terminal in which
    nothing could be shown (``COLUMNS=0``) is forgotten.
    """
    for name, least in (("COLUMNS", 20), ("LINES", 2)):
        said = os.environ.get(name, "")
        if said.isdigit() and not (said.isascii() and least <= int(said[:6]) < 100_000):
            del os.environ[name]
    sys.stdout, sys.stderr = _safe(sys.stdout), _safe(sys.stderr)


def is_output_lost() -> bool:
    """Whether nobody reads standard output any more."""
    return isinstance(raw := getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Pipe) and raw.is_lost


def _safe(stream: TextIO) -> TextIO:
    if type(stream) is not io.TextIOWrapper:
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # the file itself under PYTHONUNBUFFERED
    if type(raw) is not io.FileIO:
        stream.reconfigure(errors="replace")
        return stream
    stream.flush()
    pipe: Any = io.BufferedWriter(cast("Any", _Pipe(raw.fileno(), "wb", closefd=False)))
    return io.TextIOWrapper(
        pipe,
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
