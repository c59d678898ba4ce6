"""The protocol of a run's files, and its implementation in a folder of this machine.

Invariants of every implementation: a file is either absent or complete, and files with a hidden name (a leading dot)
are never listed.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from s3ray.errors import InputError, StoreError

Event = Mapping[str, Any]
Position = dict[str, int]
"""How much of the events was read: a number of bytes for each file of events."""
Notify = Callable[[str], None]

_LOCAL = ("", "file", "local")
_LOCK = ".lock"
_EVENTS = "events.jsonl"


class Files(Protocol):
    """The files below one root. Names are relative to the root, with slashes."""

    root: str
    """An absolute path, or a URL."""

    def url(self, name: str) -> str:
        """The absolute path or URL of a file, valid in other processes too."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file, or a folder with one."""

    def names(self, folder: str) -> list[str]:
        """The names of all files below a folder, in order."""

    def entries(self) -> list[str]:
        """The names of all files and folders directly in the root, hidden ones included."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of many files, in order."""

    def write(self, name: str, content: "bytes | pa.Buffer") -> None:
        """Write a whole file; an older one of that name is replaced."""

    def begin(self, name: str) -> Path:
        """The path of a local file to be written in parts; ``finish`` then gives it its name."""

    def finish(self, name: str, written: Path) -> None:
        """Give the file that ``begin`` returned its name."""

    def on_disk(self) -> AbstractContextManager[Path]:
        """Read access through a folder of this machine that holds the files directly in the root."""

    def rewritten(self, last: str) -> AbstractContextManager[Path]:
        """An empty folder of this machine; when the block ends, its files replace everything in the root.

        All appear at once. Where the backend cannot do that, ``last`` is written last, and without it the root counts
        as unfinished.
        """

    def append_events(self, events: Iterable[Event]) -> None:
        """Add events to those of the run."""

    def event_lines(self, position: Position | None = None) -> Iterator[str]:
        """The lines of all events, oldest first, also a line that a crash cut short.

        With a ``position``, only the complete lines after it; the position is moved to their end.
        """

    def check_writable(self) -> None:
        """Raise ``InputError`` if nothing can be written below the root; leaves nothing behind."""

    def lock(self) -> "Lock":
        """A lock that one driver takes before it writes below the root."""

    def is_held(self) -> bool:
        """Whether a driver holds the root."""


class Lock(Protocol):
    """The right of one driver at a time to write a run."""

    root: str

    def take(self) -> str | None:
        """Try to become the holder. Returns None on success, else who may still hold the lock: then try again.

        Raises:
            InputError: another process is running this run.
        """

    def release(self) -> None:
        """Let the next driver in at once."""


def is_url(place: str) -> bool:
    """Whether a place is a URL, not a path of this machine (``file://`` counts as one)."""
    return "://" in place and place.partition("://")[0].lower() not in _LOCAL


def join(place: str, name: str) -> str:
    """The place of a file or folder below another."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else str(Path(local_path(place)) / name)


def split(place: str) -> tuple[str, str]:
    """A place's folder, and its name in it."""
    if is_url(place):
        folder, _, name = place.rstrip("/").rpartition("/")
        return folder, name
    path = Path(local_path(place)).absolute()
    return str(path.parent), path.name


def absolute(place: str) -> str:
    """A place that means the same in every process of this machine."""
    return join(*split(place))


def local_path(place: str) -> str:
    """A place on this machine without its protocol."""
    return place.partition("://")[2] if "://" in place else place


class LocalFiles:
    """A folder of this machine, or one that is mounted on it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(local_path(str(folder))).absolute()
        self.root = str(self.folder)

    def url(self, name: str) -> str:
        """The file's path."""
        return str(self.folder / name)

    def exists(self, name: str) -> bool:
        """See ``Files``."""
        return (self.folder / name).exists()

    def entries(self) -> list[str]:
        """See ``Files``."""
        with store_errors(self.folder, "read"):
            return [path.name for path in self.folder.iterdir()] if self.folder.exists() else []

    def names(self, folder: str) -> list[str]:
        """See ``Files``."""
        found = (path.relative_to(self.folder) for path in (self.folder / folder).rglob("*") if path.is_file())
        return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

    def read(self, name: str) -> bytes:
        """See ``Files``."""
        with store_errors(self.folder / name, "read"):
            return (self.folder / name).read_bytes()

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """See ``Files``."""
        return map(self.read, names)

    def write(self, name: str, content: "bytes | pa.Buffer") -> None:
        """Write beside the name, wait for the disk, rename."""
        written = self.begin(name)
        with store_errors(self.folder / name, "written"):
            written.write_bytes(content)
        self.finish(name, written)

    def begin(self, name: str) -> Path:
        """A hidden file beside the name."""
        target = self._own(name)
        written = target.with_name(f".{target.name}.writing")
        with store_errors(target, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            written.unlink(missing_ok=True)  # a link left there would lead the write to another file
        return written

    def finish(self, name: str, written: Path) -> None:
        """Wait for the disk, rename."""
        target = self.folder / name
        with store_errors(target, "written"):
            sync(written)
            written.replace(target)
            sync(target.parent)

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """The folder itself."""
        yield self.folder

    @contextlib.contextmanager
    def rewritten(self, last: str) -> Iterator[Path]:
        """A hidden folder beside this one, renamed."""
        unfinished = self.folder.with_name(f".{self.folder.name}.tmp")
        if unfinished.exists():  # left by a process that was killed
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        yield unfinished
        put_in_place(unfinished, self.folder)

    def append_events(self, events: Iterable[Event]) -> None:
        """Append to ``events.jsonl``; a line that a crash cut short is closed first."""
        path = self._own(_EVENTS)
        text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
        with store_errors(path, "written"), path.open("ab") as handle:
            if handle.tell() and not _ends_line(path):
                handle.write(b"\n")
            handle.write(text.encode())

    def event_lines(self, position: Position | None = None) -> Iterator[str]:
        """See ``Files``."""
        path = self.folder / _EVENTS
        if not path.exists():
            return
        if position is not None:
            with path.open("rb") as handle:
                handle.seek(position.get(_EVENTS, 0))
                yield from whole_lines(handle.read(), _EVENTS, position)
            return
        with path.open(encoding="utf-8", errors="replace") as handle:
            yield from handle

    def _own(self, name: str) -> Path:
        """Where to write a file. Links out of the folder are refused: another user may have put them there.

        Raises:
            StoreError: a link leads out of the folder.
        """
        target = self.folder / name
        place = target.resolve() if name in (_EVENTS, _LOCK) else target.parent.resolve()  # others are replaced
        if not place.is_relative_to(self.folder.resolve()):
            raise StoreError(f"{target} leads out of the run folder, to {place}", "Remove the link.")
        return target

    def check_writable(self) -> None:
        """Look at permissions; writes nothing.

        Raises:
            InputError: the folder is a file, or cannot be written.
        """
        where = self.root
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("is a file, not a folder", where=where, hint="Choose another `store`, `name` or --out.")
        parent = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(
                "cannot be written", where=where, field="store", hint=f"{parent} is not writable; choose another."
            )

    def lock(self) -> Lock:
        """The lock of a file."""
        return _FileLock(self.root, lambda: self._own(_LOCK))

    def is_held(self) -> bool:
        """Whether the lock is taken; needs only the right to read the folder."""
        try:
            with (self.folder / _LOCK).open("rb") as handle:
                return not _try_lock(handle.fileno())
        except FileNotFoundError:
            return False


class _FileLock:
    """The lock of a file. It ends with its process, however that ends, so nobody ever waits for a dead holder."""

    def __init__(self, root: str, path: Callable[[], Path]) -> None:
        self.root = root
        self._path = path
        self._files = contextlib.ExitStack()

    def take(self) -> None:
        """See ``Lock``; makes the folder."""
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            file = self._files.enter_context(self._path().open("a"))
        except OSError as error:
            raise InputError("cannot be written", where=self.root, value=error.strerror or "") from error
        if not _try_lock(file.fileno()):
            self.release()
            raise running_elsewhere(self.root)

    def release(self) -> None:
        """Close the file."""
        self._files.close()


def whole_lines(content: bytes, name: str, position: Position) -> list[str]:
    """The complete lines in ``content`` (a file from its position on); moves the position to their end."""
    end = content.rfind(b"\n") + 1
    position[name] = position.get(name, 0) + end
    return content[:end].decode(errors="replace").splitlines()


def running_elsewhere(root: str) -> InputError:
    """The error for a second driver of a run that is under way."""
    hint = "Wait for it or stop it. `s3ray status` shows what it is doing."
    return InputError("another process is running this run", where=root, hint=hint)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder to its name, in place of an older one, once its content is safe on the disk."""
    for path in (*unfinished.rglob("*"), unfinished):
        sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    sync(folder.parent)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _ends_line(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"


@contextlib.contextmanager
def store_errors(path: str | Path, verb: str) -> Iterator[None]:
    """Turn every ``OSError`` from the block into a ``StoreError`` that names the file and what could not be done."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be {verb}: {error.strerror or error}") from error
