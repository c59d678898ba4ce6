"""What happened in a run, one JSON line an event: the truth that progress, status and the report are made from.

Invariant: an event is in the store's hands before any listener hears of it (in ``events.jsonl``; on an object store
some wait a moment, see ``segments``), and its name is one of those below.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from s3ray.masking import mask
from s3ray.monitor.logs import move_log
from s3ray.store import RunStore

Event = dict[str, Any]
Listener = Callable[[Event], None]

# Every event also carries time (unix seconds), run, attempt (1 for the first start of the run) and event.
EVENTS: dict[str, str] = {
    "run_started": "A driver took the run up, for the first time or again (resumed).",
    "engine_starting": "An engine of the pool is loading its model.",
    "engine_ready": "An engine can take work; its resolved limits are in the event.",
    "engine_lost": "An engine died with requests in flight; they go to others.",
    "engine_waiting": "An engine waits for a node with room; the others go on without it.",
    "engine_given_up": "An engine died too often; the others go on without it.",
    "engine_asleep": "An engine freed its GPU's memory for a training; it keeps its place.",
    "engine_awake": "An engine that slept can take work again.",
    "engine_stopped": "An engine was ended on purpose.",
    "stage_started": "A stage of a round began, or went on with the outcomes known from disk.",
    "chunk_written": "A chunk of outcomes is in the journal.",
    "stage_finished": "A stage has its examples, or gave up and says what is short.",
    "round_closed": "The round's tables are on disk and its counts balance.",
    "round_linked": "The round is the same as that of another run (from_run) of the campaign, and was copied.",
    "student_linked": "The student is the same as that of another run (from_run) of the campaign, and was copied.",
    "student_started": "A fresh student is being trained on all rounds so far.",
    "student_finished": "The student, its score on the selection part and its mistakes are on disk.",
    "checker_started": "The student that is to weigh written rows is being trained on gold, before the first student.",
    "checker_finished": "That student and its score on the selection part are on disk.",
    "test_scored": "The last student answered the test part, once.",
    "reparsed": "The generations of another lineage were read again into this one; no engine was asked.",
    "run_finished": "The run is complete.",
    "run_failed": "The run could not go on; what is on disk is safe.",
}


# Events of a campaign's own log, beside those of engines and what it takes over from its runs.
CAMPAIGN_EVENTS: dict[str, str] = {
    "campaign_started": "A campaign began or went on: of so many runs, so many are finished.",
    "campaign_finished": "No run of the campaign can go on: all are finished, but for those that failed.",
    "answers_dealt": "Engines that runs share answered, and the answers went to the runs that had asked.",
}


class _At(threading.local):
    """Where a thread is in the run."""

    def __init__(self) -> None:
        self.place: dict[str, Any] = {}


class EventLog:
    """The pen of one attempt of one run. Several threads may write; listeners hear one event after the other."""

    def __init__(self, store: RunStore, run: str, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._run = run
        self._attempt = attempt
        self._clock = clock
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._at = _At()

    def listen(self, listener: Listener) -> None:
        """Hand every later event to ``listener``, after it is on disk."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def within(self, **place: Any) -> Iterator[None]:
        """Put ``place`` (round, phase, stage) into every event of this thread until the block ends.

        Log lines carry round and phase until the next block.
        """
        before, self._at.place = self._at.place, self._at.place | place
        move_log(**self._at.place)
        try:
            yield
        finally:
            self._at.place = before

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event and tell the listeners.

        Raises:
            ValueError: ``event`` is neither in ``EVENTS`` nor in ``CAMPAIGN_EVENTS``.
        """
        if event not in EVENTS and event not in CAMPAIGN_EVENTS:
            raise ValueError(f"unknown event {event!r}; known: {', '.join((*EVENTS, *CAMPAIGN_EVENTS))}")
        record: Event = {"time": self._clock(), "run": self._run, "attempt": self._attempt, "event": event}
        self.pass_on(record | self._at.place | fields)

    def pass_on(self, record: Event) -> None:
        """Write an event of another log, a run's of this campaign, and tell the listeners."""
        record = mask(record)
        with self._lock:
            self._store.append_events([record])
            for listener in self._listeners:
                listener(record)
