"""Log lines with their context: run, round, phase and engine.

A process belongs to one run and mostly to one engine, so the place is the process's own, not a logger's. A campaign
runs many in one process, each in a thread with a place of its own.
"""

import logging
import os
import threading

from s3ray.redaction import mask

_PLACE: dict[str, object] = {}
_OWN = threading.local()
_LINE = "%(asctime)s %(levelname)s %(place)s %(name)s: %(message)s"


class _Placed(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.place = place_text()
        return str(mask(super().format(record)))


def log_from(**place: object) -> None:
    """Send this process's log to standard error, every line with ``place`` (run, engine)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Placed(_LINE))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("s3ray").setLevel(logging.INFO)
    move_log(**place)


def move_log(**place: object) -> None:
    """Set the context of later lines (round, phase); what is not named stays."""
    _place().update(place)


def log_apart(**place: object) -> None:
    """Give later lines of this thread a context of their own."""
    _OWN.place = dict(place)


def place_text() -> str:
    """The place as it stands in a line: ``run=x round=1 phase=generate engine=engine-0``."""
    place = _place()
    return " ".join(f"{key}={place[key]}" for key in ("run", "round", "phase", "engine") if key in place) or "-"


def pass_on_to_vllm() -> None:
    """Put the place of this moment into the lines of vLLM and of the processes that it starts."""
    os.environ["VLLM_LOGGING_PREFIX"] = f"{place_text()} "


def _place() -> dict[str, object]:
    place: dict[str, object] = getattr(_OWN, "place", _PLACE)
    return place
