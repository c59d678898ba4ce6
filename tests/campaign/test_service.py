"""Runs that share a pool and devices: nobody gets another's answers, and an error reaches everybody."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from s3ray.campaign.originals import Originals, TrainedStudent
from s3ray.campaign.service import DeviceQueue, PoolService, RunGenerator, RunTrainer
from s3ray.campaign.shares import Devices
from s3ray.errors import PoolError
from s3ray.generator.sharing import SharedSource
from s3ray.outcomes import Chunk, outcomes_from_table, table_from_outcomes
from s3ray.store import RunStore
from s3ray.types import EngineReport, Outcome, OutcomeStatus, Score, StudentJob, StudentResult
from tests.sources import InsistentSource, make_request

WAIT_S = 20


class ScriptedPool:
    """Answers in batches that mix the stages; fails after so many requests."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.is_closed = False
        self._fail_after = fail_after
        self._num_answered = 0

    def generate(self, source: SharedSource) -> Iterator[Chunk]:
        waiting: list[Any] = []
        while not source.finished:
            source.take_withdrawn()
            waiting += source.take(6)
            if self._fail_after is not None and self._num_answered >= self._fail_after:
                raise PoolError("no engine is left", "a hint")
            batch, waiting = waiting[:4], waiting[4:]
            if not batch:
                time.sleep(0.01)
                continue
            self._num_answered += len(batch)
            outcomes = [
                Outcome(
                    request_id=request.id,
                    index=request.index,
                    status=OutcomeStatus.ACCEPTED,
                    engine="engine-0",
                    num_output_tokens=2,
                    text=request.served_task,
                )
                for request in batch
            ]
            yield Chunk(
                table=table_from_outcomes(outcomes), engines={"engine-0": EngineReport(busy_s=self._num_answered / 10)}
            )

    def close(self) -> None:
        self.is_closed = True


def serve(pool: ScriptedPool, busy: list[float]) -> PoolService:
    return PoolService(pool, SharedSource(), emit=lambda event: None, on_busy=busy.append)  # type: ignore[arg-type]


def answer(service: PoolService, name: str, num: int, found: dict[str, Any]) -> None:
    stage = InsistentSource([make_request(index) for index in range(num)])
    texts: list[str] = []
    tokens, busy_s = 0, 0.0
    try:
        for chunk in RunGenerator(service, name, lambda: (0, num)).generate(stage):  # type: ignore[arg-type]
            outcomes = list(outcomes_from_table(chunk.table))
            stage.settle(outcomes)
            texts += [outcome.text for outcome in outcomes]
            tokens += chunk.engines["engine-0"].output_tokens
            busy_s += chunk.engines["engine-0"].own_busy_s or 0
        found[name] = (texts, tokens, pytest.approx(busy_s))
    except PoolError as error:
        found[name] = str(error)


def together(*calls: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive(), "a run waits for ever"


def test_every_run_gets_its_own_answers_and_its_part_of_the_counts() -> None:
    found: dict[str, Any] = {}
    busy: list[float] = []
    pool = ScriptedPool()
    service = serve(pool, busy)
    names = {f"run-{number}": 5 + number for number in range(5)}
    together(*(lambda name=name, num=num: answer(service, name, num, found) for name, num in names.items()))
    assert found == {name: ([name] * num, 2 * num, num / 10) for name, num in names.items()}
    assert sum(busy) == pytest.approx(sum(names.values()) / 10)
    service.close()
    assert pool.is_closed


def test_the_end_of_the_pool_is_the_end_of_every_run_with_its_own_message() -> None:
    found: dict[str, Any] = {}
    service = serve(ScriptedPool(fail_after=8), [])
    together(*(lambda name=name: answer(service, name, 20, found) for name in ("a", "b")))
    assert found == {"a": "no engine is left\n  a hint", "b": "no engine is left\n  a hint"}


def test_a_stopped_campaign_is_not_waited_for() -> None:
    found: dict[str, Any] = {}
    service = serve(ScriptedPool(), [])
    service.close()
    together(lambda: answer(service, "late", 3, found))
    assert found["late"] == "the campaign was stopped"


def one_training_at_a_time() -> DeviceQueue:
    """Devices of a machine without GPUs, where engines and trainings have nothing to pass to each other."""
    split = Devices(
        num_devices=0,
        per_engine=1,
        per_worker=0,
        num_engines=1,
        min_workers=1,
        max_workers=1,
        is_split=True,
        num_trainings=1,
    )
    return DeviceQueue(split, lambda: 0, lambda: 1)


def test_students_train_in_the_order_of_urgency_and_never_more_than_may() -> None:
    queue = one_training_at_a_time()
    order: list[int] = []
    all_wait = threading.Event()

    def train(number: int) -> None:
        with queue.training((number,), work=1.0) as num_workers:
            assert num_workers == 1
            order.append(number)
            all_wait.wait(WAIT_S)

    def let_go() -> None:
        deadline = time.monotonic() + WAIT_S
        while len(queue._waiting) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(order) == 1, "two train at once"
        all_wait.set()

    together(*(lambda number=number: train(number) for number in (3, 1, 2, 0)), let_go)
    assert order[1:] == sorted(order[1:])


def _the_same(trainer: "CountingTrainer", num_workers: int) -> "CountingTrainer":
    return trainer


class CountingTrainer:
    """Trains in no time and counts; a student that is there already is not trained again."""

    def __init__(self, store: RunStore) -> None:
        self.num_asked = 0
        self.num_trained = 0
        self._store = store

    def train(self, job: StudentJob) -> StudentResult:
        marker = f"{job.output.removeprefix(f'{self._store.root}/')}/trained.json"
        self.num_asked += 1
        is_new = not self._store.has(marker)
        if is_new:
            self.num_trained += 1
            self._store.write_json(marker, {"lineage": "same"})
        return StudentResult(
            round=0,
            num_rows=1,
            best_epoch=1,
            epochs=(),
            select=Score(main="accuracy", values={"accuracy": 1.0}, num_examples=1),
            mine=None,
            test=None,
            seconds={"start": 0.0, "train": 4.0 if is_new else 0.0, "score": 1.0},
        )


def train_in_two_runs(
    tmp_path: Path, questions: Callable[[StudentJob], str]
) -> tuple[list[tuple[int, int]], list[str], list[StudentResult]]:
    """The same student in runs a and b: how often was each trainer asked, and has it trained? Who was copied?"""
    queue = one_training_at_a_time()
    students: Originals[TrainedStudent] = Originals()
    copied: list[str] = []
    asked: list[tuple[int, int]] = []
    results: list[StudentResult] = []
    for number, name in enumerate(("a", "b")):
        store = RunStore(tmp_path / name)
        counting = CountingTrainer(store)
        trainer = RunTrainer(
            partial(_the_same, counting),
            queue,
            students,
            store,
            urgency=partial(tuple, [number]),
            work=lambda job: 1.0,
            lineage=lambda job: "same",
            questions=questions,
            on_copy=lambda student: copied.append(student.store.name),
        )
        job = StudentJob(
            round=number,
            train_path="",
            select_path="",
            mine_path=None,
            test_path=None,
            output=store.url("students/0"),
            seed=0,
        )
        results.append(trainer.train(job))
        asked.append((counting.num_asked, counting.num_trained))
    return asked, copied, results


def test_a_student_that_another_run_has_trained_is_asked_not_trained_and_costs_the_same(tmp_path: Path) -> None:
    asked, copied, results = train_in_two_runs(tmp_path, questions=lambda job: f"of round {job.round}")
    assert (asked, copied) == ([(1, 1), (1, 0)], ["a"])
    assert [result.seconds["all_workers"] for result in results] == [5.0, 5.0]


def test_a_student_that_has_answered_the_same_is_not_asked_again_and_costs_the_same(tmp_path: Path) -> None:
    asked, copied, (first, second) = train_in_two_runs(tmp_path, questions=lambda job: "the same")
    assert (asked, copied) == ([(1, 1), (0, 0)], ["a"])
    assert (first.round, second.round) == (0, 1)
    assert replace(second, round=0, seconds={}) == replace(first, seconds={})
    assert second.seconds["all_workers"] == first.seconds["all_workers"] == 5.0
    assert second.seconds["train"] == second.seconds["score"] == 0.0
    assert RunStore(tmp_path / "b").has("students/0/trained.json")
