"""The students of a run: trained one after the other, possibly in the background while the next round is written."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from s3ray.config.job import RunConfig
from s3ray.storage.contents import RoundRecord
from s3ray.storage.run_folder import CHECKER_SCORE, RunStore
from s3ray.strategies.mistake_stream import MistakeStream
from s3ray.strategies.probes import Probes, probes_from_table
from s3ray.tables import join_tables, mistakes_from_table, table_from_answers, table_from_mistakes
from s3ray.tasks import Task
from s3ray.telemetry.events import (
    CheckerFinished,
    CheckerStarted,
    EventLog,
    StudentFinished,
    StudentStarted,
    TestScored,
)
from s3ray.telemetry.logs import log_apart
from s3ray.telemetry.records import to_plain
from s3ray.types import Mistake, StudentJob, StudentResult

_LOOK_EVERY_S = 0.25  # train workers write blocks of mistakes into the run folder, without a signal


class BackgroundTraining:
    """A student that is trained in a thread, while the next round is written from the mistakes mined so far.

    Waiting for it has no limit here, because the trainer has its own.
    """

    def __init__(self, make: Callable[[], None], read_blocks: Callable[[int], Iterator[Sequence[Mistake]]]) -> None:
        """``make`` trains and saves the student; ``read_blocks(n)`` reads the blocks on disk after the first n."""
        self.mistakes = MistakeStream(is_complete=False)
        self._make = make
        self._read_blocks = read_blocks
        self._num_read = 0
        self._error: BaseException | None = None
        self._is_made = threading.Event()
        for work, name in ((self._run, "student"), (self._watch, "mistakes")):
            # Daemons: Ctrl-C ends the process although Ray Train waits in one of them.
            threading.Thread(target=work, name=name, daemon=True).start()

    def finish(self) -> None:
        """Wait until the student is finished.

        Raises:
            BaseException: the error that stopped it.
        """
        self.mistakes.all()

    def _run(self) -> None:
        try:
            self._make()
        except BaseException as error:  # raised again in the driver's thread
            self._error = error
        self._is_made.set()

    def _watch(self) -> None:
        try:
            while not self._is_made.wait(_LOOK_EVERY_S):
                self._take_in()
            if self._error is None:
                self._take_in()
        except BaseException as error:  # raised in the driver's thread, too
            self._error = error
        self.mistakes.end(self._error)

    def _take_in(self) -> None:
        for block in self._read_blocks(self._num_read):
            self._num_read += 1
            self.mistakes.add(block)


class Trainer(Protocol):
    """What a run needs of student training."""

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student from the base checkpoint and mine its mistakes.

        Blocks of mistakes appear one by one in ``mistakes/`` below ``job.output``, and are complete when this returns.
        """


class Students:
    """Trains the students of one run, one after the other; the latest may still be in training in a thread."""

    def __init__(
        self,
        *,
        config: RunConfig,
        task: Task,
        store: RunStore,
        events: EventLog,
        trainer: Trainer,
        last_round: int,
        probes: Sequence[str] = (),
        on_trained: Callable[[int, int], None] | None = None,
    ) -> None:
        """``probes``: the tables that each student but the last probes, ``gold`` (extrapolation part) or ``train``.

        ``on_trained`` is called with the round and the number of mistakes of each student whose workers have gone,
        before its results are kept; not for one that is trained in the background.
        """
        self._config = config
        self._task = task
        self._store = store
        self._events = events
        self._trainer = trainer
        self._last_round = last_round
        self._probes = probes
        self._on_trained = on_trained
        self._background: BackgroundTraining | None = None
        self._has_ended = False

    def make(self, round_: int, *, in_background: bool) -> None:
        """Train, score and save a student.

        With ``in_background`` this happens in a thread: the call returns at once, ``wait_for_first`` and ``finish``
        wait for it.
        """
        if not in_background:
            self._train(round_, self._on_trained)
            return
        self._background = BackgroundTraining(partial(self._train_in_thread, round_), partial(self._blocks, round_ + 1))

    def mistakes(self, round_: int) -> MistakeStream:
        """The mistakes that a round is written from.

        They are made on gold, never on synthetic rows, so that extrapolation stays anchored in real data.
        """
        if self._background is not None:
            return self._background.mistakes
        return MistakeStream(*self._blocks(round_)) if round_ else MistakeStream()

    def earlier(self, round_: int) -> MistakeStream:
        """The mistakes of the student before the last one that precedes a round; none before round 2."""
        return MistakeStream(*self._blocks(round_ - 1)) if round_ >= 2 else MistakeStream()

    def wait_for_first(self) -> None:
        """Wait until the student in training, if there is one, has its first mistake or is known to have none."""
        if self._background is not None:
            self._background.mistakes.wait_for_first()

    def probes(self, round_: int, name: str) -> Probes:
        """What the student before a round predicts on table ``name``; waits for that student.

        The table is ``gold`` (gold's extrapolation part) or ``train`` (the student's own training set).
        """
        self.finish()
        return probes_from_table(self._store.read_table(self._store.source(round_, f"probes/{name}.parquet")))

    def check(self) -> None:
        """Raise if the student in training has failed, so that the run ends now and not after the current stage."""
        if self._background is not None:
            self._background.mistakes.check()

    def finish(self) -> None:
        """Wait until the student in training, if there is one, is saved."""
        if self._background is not None:
            self._background.finish()
            self._background = None

    def end(self) -> None:
        """The run is over: a student that is still in training will not be saved."""
        self._has_ended = True

    def _blocks(self, round_: int, num_known: int = 0) -> Iterator[Sequence[Mistake]]:
        """Read the blocks of mistakes that a round is written from, without the first ``num_known``."""
        for name in self._store.mistake_blocks(round_)[num_known:]:
            yield mistakes_from_table(self._store.read_table(name, self._task.fields), self._task.fields)

    def _train_in_thread(self, round_: int) -> None:
        log_apart(run=self._config.name)
        self._train(round_)

    def _train(self, round_: int, on_trained: Callable[[int, int], None] | None = None) -> None:
        """Train a fresh student on all rows so far; only the last student reads the test part.

        If synthetic rows are weighed, the checker that weighs them is trained first, once in a run.
        """
        store, config = self._store, self._config
        is_last = round_ == self._last_round
        num_rows = store.read_record(store.round_report(round_), RoundRecord)["rows"]
        train = store.train(round_)
        seen = {"gold": store.gold("extrapolate"), "train": train}
        checker = self._checker(round_) if config.student.weigh == "dimp" else None
        job = StudentJob(
            round=round_,
            train_path=store.url(train),
            select_path=store.url(store.gold("select")),
            mine_path=store.url(store.gold("extrapolate")),
            test_path=store.url(store.gold("test")) if is_last else None,
            output=store.url(store.in_student(round_, "")),
            seed=config.seed,
            checker=checker,
            probes={} if is_last else {name: store.url(seen[name]) for name in self._probes},
        )
        with self._events.within(round=round_, phase="train"):
            self._events.emit(StudentStarted(round=round_, rows=num_rows, workers=config.student.workers))
            result = self._trainer.train(job)
            if not self._has_ended:
                mistakes = self._all_mistakes(round_)
                if on_trained is not None:
                    on_trained(round_, mistakes.num_rows)
                self._keep(round_, result, mistakes)

    def _checker(self, round_: int) -> str:
        """Train the checker (``student.weigh: dimp``) on the extrapolation part, unless it exists; returns its URL."""
        store = self._store
        place = store.url("checker")
        if store.has(CHECKER_SCORE):
            return place
        gold = store.gold("extrapolate")
        job = StudentJob(
            round=round_,
            train_path=store.url(gold),
            select_path=store.url(store.gold("select")),
            mine_path=None,
            test_path=None,
            output=place,
            seed=self._config.seed,
        )
        with self._events.within(round=round_, phase="train"):
            num_rows = store.read_table(gold).num_rows
            self._events.emit(CheckerStarted(round=round_, rows=num_rows, workers=self._config.student.workers))
            result = self._trainer.train(job)
            if not self._has_ended:
                report = _training(result)
                store.write_json(CHECKER_SCORE, to_plain(report) | {"main": result.select.main})
                self._events.emit(CheckerFinished(round=round_, **report))
        return place

    def _all_mistakes(self, round_: int) -> pa.Table:
        """The mistakes of a student that has found all of them."""
        store = self._store
        blocks = [store.read_table(name) for name in store.files(store.in_student(round_, "mistakes"))]
        none = table_from_mistakes((), self._task.fields, self._task.has_labels)
        return join_tables([*blocks, none]).combine_chunks()

    def _keep(self, round_: int, result: StudentResult, mistakes: pa.Table) -> None:
        store = self._store
        store.write_table(store.mistakes(round_), mistakes)
        if result.test is not None:
            store.write_table(store.answers(round_), table_from_answers(result.test_answers))
        report = {
            "round": round_,
            **_training(result),
            "mistakes": mistakes.num_rows,
            "mined": result.mine.num_examples if result.mine else None,
        }
        more = {
            "main": result.select.main,
            "mine": dict(result.mine.values) if result.mine else None,
            "test": dict(result.test.values) if result.test else None,
            "num_test": result.test.num_examples if result.test else None,
        }
        store.write_json(store.score(round_), to_plain(report) | more)
        self._events.emit(StudentFinished(phase="score", **report))
        if result.test is not None:
            values = dict(result.test.values)
            num_test = result.test.num_examples
            self._events.emit(TestScored(round=round_, phase="score", test=values, num_examples=num_test))


def _training(result: StudentResult) -> dict[str, Any]:
    """How a training went, for files and events."""
    return {
        "rows": result.num_rows,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "select": dict(result.select.values),
        "seconds": dict(result.seconds),
    }
