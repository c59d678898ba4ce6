"""Every error that s3ray raises on purpose, named by the boundary that was crossed.

    S3RayError
    ├── InputError          what the user gave is wrong; nothing was started            exit code 2
    └── RunError            the run could not go on; what is on disk is safe            exit code 3
        ├── PoolError       no engine is left, or none became ready in time
        ├── EngineStartError    an engine did not start, for the reason that it printed
        ├── TrainerError    Ray Train could not finish a student
        ├── DeviceMemoryError   the memory of a GPU did not become free for its next user
        ├── DeadEndError    what is on disk cannot become a run that ends well
        └── StoreError      the run folder could not be read or written
            └── LeaseLostError  another driver has taken the run over
    StoppedError            a signal ends the command in order                          exit code 128 + its number
    EngineDeadError         inside a generator actor: the engine process is gone for good
    RequestRefusedError     inside a generator actor: the engine will never answer this request

All of them survive pickling: every argument goes to ``Exception.__init__`` and the text is made in ``__str__``.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path


class S3RayError(Exception):
    """Base of the errors that end a command with a message instead of a traceback."""

    exit_code = 3


class InputError(S3RayError):
    """The user's input cannot be used: says where (file, field), what (value), why (problem), and a way out (hint).

    ``where`` is None until ``located`` sets it, and empty if no file is to be named.
    """

    exit_code = 2

    def __init__(
        self, problem: str, where: str | None = None, field: str = "", value: str = "", hint: str = ""
    ) -> None:
        super().__init__(problem, where, field, value, hint)
        self.problem = problem
        self.where = where
        self.field = field
        self.value = value
        self.hint = hint

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.field) if part)
        text = f"{head}: {self.problem}" if head else self.problem
        if self.value:
            text += f" (got {self.value})"
        return f"{text}\n  {self.hint}" if self.hint else text


@contextlib.contextmanager
def located(place: str | Path) -> Iterator[None]:
    """Set ``where`` to ``place``, usually a file, in each ``InputError`` of the block that has none yet."""
    try:
        yield
    except InputError as error:
        if error.where is None:
            error.where = str(place)
        raise


@contextlib.contextmanager
def of_setting(field: str, value: str) -> Iterator[None]:
    """Name the setting and its value in each ``InputError`` of the block."""
    try:
        yield
    except InputError as error:
        error.field, error.value = field, repr(value)
        raise


@contextlib.contextmanager
def written(place: str | Path) -> Iterator[None]:
    """Turn each ``OSError`` of the block into an ``InputError``: ``place`` cannot be written."""
    try:
        yield
    except OSError as error:
        hint = "Give the command in a folder, or name one, that you can write and that has room."
        problem = f"cannot be written: {error.strerror or error}"
        raise InputError(problem, where=str(place), hint=hint) from error


def of_machine(error: OSError) -> InputError | None:
    """What an error of the operating system says to the user; None if it names no file and is not about room."""
    words = error.strerror or str(error)
    if error.filename is not None:
        return InputError(words[:1].lower() + words[1:], where=os.fsdecode(error.filename))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE):
        return InputError(f"the machine says: {words}", hint="Make room, or use another folder (--out, TMPDIR).")
    return None


class RunError(S3RayError):
    """A run that started cannot finish. ``hint`` says how to go on.

    ``comes_again``: the same command would end in the same way, whatever is mended outside the run's folder.
    """

    comes_again = False

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.hint}" if self.hint else self.problem


class PoolError(RunError):
    """The generator pool has no engine left, or none became ready within its limit."""


class EngineStartError(RunError):
    """An engine did not start; ``problem`` is the cause in the words that the engine printed.

    ``is_final``: each later start on such a device would end in the same way.
    """

    def __init__(self, problem: str, hint: str = "", is_final: bool = False) -> None:
        super().__init__(problem, hint)
        self.args = (problem, hint, is_final)  # of which Ray makes it anew in another process
        self.is_final = is_final


class TrainerError(RunError):
    """Ray Train could not finish a student."""


class DeviceMemoryError(RunError):
    """The memory of a GPU that engines and students take turns on did not become free in time."""


class DeadEndError(RunError):
    """What is on disk cannot become a run that ends well."""

    comes_again = True


class StoreError(RunError):
    """The run folder could not be read or written."""


class LeaseLostError(StoreError):
    """This driver was silent for too long, and another one has taken the run over."""


class StoppedError(KeyboardInterrupt):
    """A signal asks this process to end: Ctrl-C, or a ``kill``, a batch system's or Kubernetes' order to leave."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {name}"

    @property
    def exit_code(self) -> int:
        """That of a command that this signal ended, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


class EngineDeadError(Exception):
    """The engine behind an actor is gone; the actor's process must end so that a fresh one can take its place."""


class RequestRefusedError(Exception):
    """The engine refused one request (too long, say) and will refuse it again; the engine itself is healthy."""
