"""Work that runs of a campaign share: done once, by the first run that needs it, and copied into the others."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from s3ray.storage.contents import RoundRecord, ScoreRecord
from s3ray.storage.run_folder import CHECKER_SCORE, KEPT_BY_THE_RUN, RunStore
from s3ray.student.trained import TRAINED, training_id_at
from s3ray.types import StudentResult

Value = TypeVar("Value")


class SharedWork(Generic[Value]):
    """Pieces of work that are done or in progress, by a key over everything that determines the result."""

    def __init__(self) -> None:
        self._made: dict[str, Value] = {}
        self._making: set[str] = set()
        self._changed = threading.Condition()

    def note(self, key: str, value: Value) -> None:
        """Keep the result of a piece of work; if it was done more than once, the first result counts."""
        with self._changed:
            self._made.setdefault(key, value)
            self._making.discard(key)
            self._changed.notify_all()

    @contextlib.contextmanager
    def claimed(self, key: str) -> Iterator[Value | None]:
        """Wait while another run does it; then yields the result, or None if the caller is to do it.

        A run that leaves without a ``note`` leaves it to the next one.
        """
        with self._changed:
            while key in self._making and key not in self._made:
                self._changed.wait()
            made = self._made.get(key)
            if made is None:
                self._making.add(key)
        try:
            yield made
        finally:
            if made is None:
                with self._changed:
                    self._making.discard(key)
                    self._changed.notify_all()


def copy_round(source: RunStore, target: RunStore, round_: int) -> dict[str, Any]:
    """Copy a finished round, its marker last; the marker says which run it comes from. Returns the round's report.

    Raises:
        StoreError: a file cannot be read or written.
    """
    marker = target.round_report(round_)
    for file in source.files(source.in_round(round_, "")):
        if file != marker:
            target.copy_from(source, file)
    report: dict[str, Any] = {**source.read_record(marker, RoundRecord), "linked_from": source.name}
    target.write_json(marker, report)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """Where a trained student lies, and what its training alone cost, in worker-seconds (0: unknown).

    ``result`` is what it answered to ``questions`` (``student.trained.questions``); None if it was trained before this
    start of the campaign.
    """

    store: RunStore
    folder: str
    training_s: float
    questions: str = ""
    result: StudentResult | None = None


def trained_students(stores: Iterable[RunStore]) -> Iterator[tuple[str, TrainedStudent]]:
    """The finished students and checkers of runs, by training id (``student.trained.training_id``).

    Those whose model was removed, as in light copies of runs, are skipped.
    """
    for store in stores:
        scores = [store.score(num) for num in store.students()]
        for score in (*scores, CHECKER_SCORE):
            folder = score.rpartition("/")[0]
            if store.has(score) and store.has(f"{folder}/{TRAINED}"):
                cost = store.read_record(score, ScoreRecord)["seconds"].get("all_workers_train", 0.0)
                yield training_id_at(store.url(folder)), TrainedStudent(store=store, folder=folder, training_s=cost)


def copy_student(source: TrainedStudent, target: RunStore, folder: str, *, with_answers: bool) -> None:
    """Copy a trained student, the marker last; its answers too if ``with_answers``: this run asks the same questions.

    Raises:
        StoreError: a file cannot be read or written.
    """
    files = [file.removeprefix(f"{source.folder}/") for file in source.store.files(source.folder)]
    copied = [name for name in files if with_answers or "/" not in name]
    for name in (*(name for name in copied if name not in (*KEPT_BY_THE_RUN, TRAINED)), TRAINED):
        target.copy_from(source.store, f"{source.folder}/{name}", f"{folder}/{name}")
