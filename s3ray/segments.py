"""Events where nothing can be appended: whole objects that grow until they are large enough.

events/000003-1f2e3d4c.jsonl    a number that rises from start to start and from object to object; who wrote it
"""

import json
import threading
import uuid
from collections.abc import Callable

from s3ray.errors import StoreError
from s3ray.files import Event

FLUSH_S = 2.0
"""An event is in the store so many seconds after it happened, at the latest."""
SEGMENT_BYTES = 256 * 1024
"""Size from which events go on in another object."""
_AT_ONCE = {
    *("run_started", "stage_started", "stage_finished", "round_closed", "student_started", "student_finished"),
    *("checker_started", "checker_finished"),
    *("test_scored", "reparsed", "run_finished", "run_failed"),
}


class EventPen:
    """The events of one start of the driver: collected, and put as whole objects under names that nobody else uses."""

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
        """Take events; flush if one of them must not wait."""
        with self._mutex:
            self._segment += "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode()
            self._is_written = False
            if any(event["event"] in _AT_ONCE for event in events):
                self.flush()
            elif self._timer is None:
                self._flush_later()

    def flush(self) -> None:
        """Put what was collected.

        Raises:
            StoreError: the store does not take it; it is kept, and tried again.
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
                self._flush_later()  # the next event that must not wait tells of it
