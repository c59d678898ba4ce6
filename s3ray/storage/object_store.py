"""The files of a run on an object store, and which of the two backends a path or URL needs (``open_folder``).

Object stores cannot append, so events are written as whole objects, each rewritten until it is large enough:

    events/000003-1f2e3d4c.jsonl    the number rises with each object and each start; then who wrote it
"""

import contextlib
import itertools
import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.fs

from s3ray.errors import InputError, StoreError
from s3ray.storage.lease import Lease, is_alive
from s3ray.storage.local import Event, Files, LocalFiles, Lock, Position, absolute, is_url, join, split, whole_lines

FLUSH_S = 2.0
"""Most seconds that an event waits before it is in the store."""
SEGMENT_BYTES = 256 * 1024
"""Size from which a new object is begun."""
_AT_ONCE = {
    *("run_started", "stage_started", "stage_finished", "round_closed", "student_started", "student_finished"),
    *("checker_started", "checker_finished"),
    *("test_scored", "reparsed", "run_finished", "run_failed", "run_stopped"),
}


class EventWriter:
    """Collects the events of one start of the driver and writes them as whole objects, under names of its own."""

    def __init__(self, put: Callable[[str, bytes], None], names: Callable[[], list[str]]) -> None:
        """``put`` writes a whole object, ``names`` lists those of all events."""
        self._put = put
        self._names = names
        self._token = uuid.uuid4().hex[:8]
        self._number: int | None = None
        self._segment = b""
        self._is_written = True
        self._mutex = threading.RLock()
        self._timer: threading.Timer | None = None

    def add(self, events: list[Event]) -> None:
        """Collect events; flush at once if one of them must not wait."""
        with self._mutex:
            self._segment += "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode()
            self._is_written = False
            if any(event["event"] in _AT_ONCE for event in events):
                self.flush()
            elif self._timer is None:
                self._flush_later()

    def flush(self) -> None:
        """Write the collected events.

        Raises:
            StoreError: the store refuses them; they are kept for the next try.
        """
        with self._mutex:
            if self._is_written:
                return
            if self._number is None:
                known = self._names()
                self._number = 1 + max((int(name.removeprefix("events/")[:6]) for name in known), default=-1)
            self._put(f"events/{self._number:06d}-{self._token}.jsonl", self._segment)
            self._is_written = True
            if len(self._segment) >= SEGMENT_BYTES:
                self._number += 1
                self._segment = b""

    def _flush_later(self) -> None:
        self._timer = threading.Timer(FLUSH_S, self._flush_now)
        self._timer.daemon = True
        self._timer.start()

    def _flush_now(self) -> None:
        with self._mutex:
            self._timer = None
            try:
                self.flush()
            except StoreError:
                self._flush_later()  # the next event that must not wait raises the error


_PUTS_WHOLE = frozenset(["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "hf", "memory"])
_READ_AT_ONCE = 32
_EXTRAS = {"s3": "s3ray[s3]", "s3a": "s3ray[s3]"}


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Credentials and endpoint come from the environment, as the file system's own documentation says.

    Raises:
        InputError: the URL holds a password, its protocol is unknown, or the package for it is missing.
    """
    refuse_password(url)
    parts = urlsplit(url)
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _EXTRAS.get(parts.scheme)
        hint = f"pip install '{package}'" if package else str(error)
        raise InputError("needs a package that is not installed", where=url, field="store", hint=hint) from error
    except ValueError as error:
        hint = "A folder, or a URL whose protocol fsspec knows, such as s3://bucket/runs."
        raise InputError(str(error), where=url, field="store", hint=hint) from error
    return fs, path


def refuse_password(url: str) -> None:
    """Refuse a URL that holds more than a place.

    Raises:
        InputError: it holds a password or a query, or is chained and may hold one.
    """
    hint = "Write protocol://bucket/folder; credentials come from the environment (AWS_ACCESS_KEY_ID ...)."
    try:
        password = urlsplit(url).password
    except ValueError as error:
        raise InputError(f"the URL cannot be read: {error}", where="", field="store", hint=hint) from None
    if password or "::" in url or "?" in url:
        raise InputError("the URL is chained, or holds a password or a query", where="", field="store", hint=hint)


def arrow_files(place: str) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """A place as pyarrow takes it: the path, and its file system (None: this machine's)."""
    if not is_url(place):
        return absolute(place), None
    fs, path = filesystem(place)
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


def open_folder(place: str) -> Files:
    """The files below a folder of this machine, or below a URL.

    Raises:
        InputError: the URL cannot be used: protocol unknown, package missing.
    """
    return ObjectFiles(place) if is_url(place) else LocalFiles(place)


def read_file(place: str) -> bytes:
    """The content of one file, by its path or URL.

    Raises:
        StoreError: it cannot be read.
    """
    folder, name = split(place)
    return open_folder(folder).read(name)


class ObjectFiles:
    """The files below a URL, through fsspec; see ``Files``."""

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._fs, self._base = filesystem(self.root)
        self._puts_whole = urlsplit(url).scheme in _PUTS_WHOLE
        self._lease: Lease | None = None
        self._events = EventWriter(self._put, lambda: self.names("events"))

    def url(self, name: str) -> str:
        """The file's URL."""
        return join(self.root, name) if name else self.root

    def exists(self, name: str) -> bool:
        """See ``Files``."""
        with self._store_errors("read", name):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(name)))

    def entries(self) -> list[str]:
        """See ``Files``."""
        with self._store_errors("read", ""):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._base, detail=False)
            except FileNotFoundError:
                return []
        return [path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != self._base]

    def names(self, folder: str) -> list[str]:
        """See ``Files``."""
        return [name for name in self._find(folder) if not any(part.startswith(".") for part in name.split("/"))]

    def read(self, name: str) -> bytes:
        """See ``Files``."""
        with self._store_errors("read", name):
            return bytes(self._fs.cat_file(self._at(name)))

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Reads some files at once where the file system can."""
        waiting = iter(names)
        while some := [self._at(name) for name in itertools.islice(waiting, _READ_AT_ONCE)]:
            with self._store_errors("read", some[0].removeprefix(f"{self._base}/")):
                contents = self._fs.cat(some) if len(some) > 1 else {some[0]: self._fs.cat_file(some[0])}
            yield from (bytes(contents[path]) for path in some)

    def write(self, name: str, content: "bytes | pa.Buffer") -> None:
        """See ``Files``; only the holder of the lease writes, once there is one."""
        self._check_lease()
        self._put(name, content.to_pybytes() if isinstance(content, pa.Buffer) else content)

    def begin(self, name: str) -> Path:
        """A temporary file of this machine."""
        handle, path = tempfile.mkstemp(prefix="s3ray-")
        os.close(handle)
        return Path(path)

    def finish(self, name: str, written: Path) -> None:
        """Upload, and remove the temporary file."""
        self._check_lease()
        self.put_file(name, written)
        written.unlink()

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A temporary folder, filled by a download and removed after the block."""
        with tempfile.TemporaryDirectory(prefix="s3ray-") as temporary:
            names = [name for name in self.names("") if "/" not in name]
            for name, content in zip(names, self.read_all(names), strict=True):
                (Path(temporary) / name).write_bytes(content)
            yield Path(temporary)

    @contextlib.contextmanager
    def rewritten(self, last: str) -> Iterator[Path]:
        """See ``Files``; old files are removed first, beginning with ``last``."""
        with tempfile.TemporaryDirectory(prefix="s3ray-") as temporary:
            folder = Path(temporary)
            yield folder
            for name in sorted(self.names(""), key=lambda name: name != last):
                self.remove(name)
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            for name in sorted(names, key=lambda name: name == last):
                self.put_file(name, folder / name)

    def put_file(self, name: str, file: Path) -> None:
        """Put a local file under its name, whole."""
        with self._store_errors("written", name), self._shown_whole(name) as path:
            self._fs.put_file(str(file), path)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._store_errors("removed", name):
            self._fs.rm_file(self._at(name))

    def append_events(self, events: Iterable[Event]) -> None:
        """Collect events; they are written within ``FLUSH_S``, some kinds at once."""
        self._check_lease()
        self._events.add(list(events))

    def event_lines(self, position: Position | None = None) -> Iterator[str]:
        """See ``Files``; events that this process has collected are written first."""
        self._events.flush()
        # Only the last of the objects grows.
        names = [name for name in self.names("events") if not position or name >= max(position)]
        for name, content in zip(names, self.read_all(names), strict=True):
            if position is None:
                yield from content.decode(errors="replace").splitlines()
            else:
                yield from whole_lines(content[position.get(name, 0) :], name, position)

    def check_writable(self) -> None:
        """Write and remove one hidden object.

        Raises:
            InputError: the store cannot be reached or written; the message is the store's own.
        """
        probe = f".writable-{uuid.uuid4().hex}"
        try:
            self._put(probe, b"")
            self._fs.rm_file(self._at(probe))
        except Exception as error:
            hint = (
                "Check bucket, endpoint and credentials: they come from the environment, for S3 from AWS_ENDPOINT_URL, "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and so on."
            )
            cause = error.__cause__ or error
            problem = f"cannot be written: {type(cause).__name__}: {cause}"
            raise InputError(problem, where=self.root, field="store", hint=hint) from error

    def lock(self) -> Lock:
        """A lease."""
        return Lease(self)

    def is_held(self) -> bool:
        """Whether a lease was renewed a short while ago."""
        return is_alive(self, time.time())

    # -- the objects of the lease ------------------------------------------------------------------------------------

    def write_under(self, lease: Lease | None) -> None:
        """See ``LeaseObjects``; the events that were collected under a lease are written before it ends."""
        self._lease = lease
        if lease is None:
            with contextlib.suppress(StoreError):  # what ended the run is the error to report
                self._events.flush()

    def lease_numbers(self) -> list[int]:
        """See ``LeaseObjects``."""
        stems = (name.rpartition("/")[2].removesuffix(".json") for name in self._find(".lease"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def read_lease(self, number: int) -> dict[str, Any] | None:
        """See ``LeaseObjects``."""
        with self._store_errors("read", _lease(number)):
            try:
                return dict(json.loads(self._fs.cat_file(self._at(_lease(number)))))
            except FileNotFoundError:
                return None

    def write_lease(self, number: int, content: dict[str, Any]) -> None:
        """See ``LeaseObjects``."""
        self._put(_lease(number), json.dumps(content).encode())

    def create_lease(self, number: int, content: dict[str, Any]) -> bool:
        """See ``LeaseObjects``; the store itself decides where it can (S3), else the file system looks first."""
        path = self._at(_lease(number))
        with self._store_errors("written", _lease(number)):
            try:
                if not self._puts_whole:
                    self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, json.dumps(content).encode(), mode="create")
            except Exception:
                # Each store raises another exception if the object exists.
                if number in self.lease_numbers():
                    return False
                raise
        return True

    def remove_lease(self, number: int) -> None:
        """See ``LeaseObjects``."""
        with self._store_errors("written", _lease(number)), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(_lease(number)))

    # -- objects ---------------------------------------------------------------------------------------------------

    def _put(self, name: str, content: bytes) -> None:
        with self._store_errors("written", name), self._shown_whole(name) as path:
            self._fs.pipe_file(path, content)

    @contextlib.contextmanager
    def _shown_whole(self, name: str) -> Iterator[str]:
        """The path to write to: a hidden one, renamed after the block, where a store shows half-written files."""
        path = self._at(name)
        if self._puts_whole:
            yield path
            return
        folder, _, last = path.rpartition("/")
        self._fs.makedirs(folder, exist_ok=True)
        beside = f"{folder}/.{last}.writing"
        yield beside
        try:
            self._fs.mv(beside, path)
        except FileExistsError:  # a file system whose move does not overwrite
            self._fs.rm_file(path)
            self._fs.mv(beside, path)

    def _find(self, folder: str) -> list[str]:
        with self._store_errors("read", folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._at(folder))
            except FileNotFoundError:
                return []
        base, itself = f"{self._base}/", self._at(folder)
        # s3fs lists, then asks for the folder itself if that was empty: it may have got its first file in between.
        return sorted(path.removeprefix(base) for path in found if path.startswith(base) and path != itself)

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    @contextlib.contextmanager
    def _store_errors(self, verb: str, name: str) -> Iterator[None]:
        """Turn every exception from the block into a ``StoreError``: each file system raises its own."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url(name)} cannot be {verb}: {type(error).__name__}: {error}") from error


def _lease(number: int) -> str:
    return f".lease/{number:06d}.json"
