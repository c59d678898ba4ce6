"""Runs that share a pool and devices: nobody gets another's answers, and an error reaches everybody."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.campaign import simulate
from benchmarks.campaign_simulation import CampaignSimulation, RunShape
from s3ray.campaign.reuse import SharedWork, TrainedStudent
from s3ray.campaign.sharing import (
    Demand,
    DeviceQueue,
    Devices,
    PoolService,
    Remaining,
    RunGenerator,
    RunTrainer,
    Shares,
)
from s3ray.errors import PoolError
from s3ray.generator.shared_pool import SharedSource
from s3ray.storage.run_folder import RunStore
from s3ray.tables import Chunk, outcomes_from_table, table_from_outcomes
from s3ray.types import EngineReport, Outcome, OutcomeStatus, Score, StudentJob, StudentResult
from tests.sources import InsistentSource, make_request

WAIT_S = 20
NOTHING_LEFT = Remaining(num_rows=0, work=0)


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
        generator = RunGenerator(service=service, served_task=name, urgency=lambda: (0, num))
        for chunk in generator.generate(stage):  # type: ignore[arg-type]
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


def without_gpus(num_engines: int, max_workers: int) -> Devices:
    """Devices of a machine without GPUs, where engines and trainings have nothing to pass to each other."""
    return Devices(
        num_devices=0,
        per_engine=1,
        per_worker=0,
        num_engines=num_engines,
        min_workers=1,
        max_workers=max_workers,
        is_split=True,
        num_trainings=1,
    )


def one_training_at_a_time() -> DeviceQueue:
    return DeviceQueue(without_gpus(num_engines=1, max_workers=1), lambda: 0, lambda: 1, lambda: NOTHING_LEFT)


def test_students_train_in_the_order_of_urgency_and_never_more_than_may() -> None:
    queue = one_training_at_a_time()
    order: list[int] = []
    all_wait = threading.Event()

    def train(number: int) -> None:
        with queue.training((number,), work=1.0, most_workers=8) as num_workers:
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


def test_a_student_takes_no_more_workers_than_its_batches_have_rows_for() -> None:
    queue = DeviceQueue(gpus(), lambda: 0, lambda: 0, lambda: NOTHING_LEFT)
    for most_workers, granted in ((1, 1), (3, 3), (9, 4)):
        with queue.training((0,), work=1.0, most_workers=most_workers) as num_workers:
            assert num_workers == granted


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
    students: SharedWork[TrainedStudent] = SharedWork()
    copied: list[str] = []
    asked: list[tuple[int, int]] = []
    results: list[StudentResult] = []
    for number, name in enumerate(("a", "b")):
        store = RunStore(tmp_path / name)
        counting = CountingTrainer(store)
        trainer = RunTrainer(
            make_trainer=partial(_the_same, counting),
            most_workers=8,
            devices=queue,
            students=students,
            store=store,
            urgency=partial(tuple, [number]),
            work=lambda job: 1.0,
            training_id=lambda job: "same",
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


def gpus(num_devices: int = 8, per_engine: float = 1, min_workers: int = 1, max_workers: int = 4) -> Devices:
    return Devices(
        num_devices=num_devices,
        per_engine=per_engine,
        per_worker=1,
        num_engines=int(num_devices / per_engine),
        min_workers=min_workers,
        max_workers=max_workers,
        is_split=False,
    )


def demand(num_stages: int = 0, num_waiting: int = 0, num_training: int = 0, num_workers: int = 0) -> Demand:
    return Demand(num_stages=num_stages, num_waiting=num_waiting, num_training=num_training, num_workers=num_workers)


def test_engines_have_all_devices_while_nobody_trains() -> None:
    assert Shares(gpus()).num_units(demand(num_stages=3)) == 8


def test_engines_make_room_for_a_student_and_it_waits_until_they_have_left() -> None:
    shares = Shares(gpus(min_workers=2))
    waiting = demand(num_stages=3, num_waiting=1)
    assert shares.num_units(waiting) == 6
    assert shares.num_workers(waiting, num_units=8, part=1.0) == 0
    assert shares.num_workers(waiting, num_units=6, part=1.0) == 2


def test_engines_keep_the_part_that_generation_has_cost() -> None:
    shares = Shares(gpus())
    shares.learn("generate", 300.0, 1)
    shares.learn("train", 100.0, 1)
    assert shares.num_units(demand(num_stages=3, num_waiting=8)) == 6


def test_one_student_trains_however_much_there_is_to_generate() -> None:
    shares = Shares(gpus(num_devices=4, per_engine=4))
    shares.learn("generate", 1e6, 1)
    shares.learn("train", 1.0, 1)
    assert shares.num_units(demand(num_stages=3, num_waiting=1)) == 0
    assert shares.num_workers(demand(num_stages=3, num_waiting=1), num_units=0, part=1.0) == 4


def test_engines_that_share_a_gpu_make_room_by_whole_gpus() -> None:
    for per_engine, each in ((0.5, 2), (0.3, 3)):
        shares = Shares(gpus(per_engine=per_engine))
        assert shares.num_units(demand(num_stages=3)) == 8
        assert shares.num_units(demand(num_stages=3, num_waiting=1)) == 7, f"{each} engines on each GPU"
        assert shares.num_workers(demand(num_stages=3, num_waiting=1), num_units=8, part=1.0) == 0
        assert shares.num_workers(demand(num_stages=3, num_waiting=1), num_units=7, part=1.0) == 1


def test_with_nothing_to_generate_students_share_all_devices_by_their_work() -> None:
    shares = Shares(gpus(max_workers=8))
    assert shares.num_units(demand(num_waiting=2)) == 0
    assert shares.num_workers(demand(num_waiting=2), num_units=0, part=0.75) == 6
    assert shares.num_workers(demand(num_waiting=1, num_training=1, num_workers=6), num_units=0, part=1.0) == 2


def test_split_leaves_each_side_its_own() -> None:
    shares = Shares(without_gpus(num_engines=2, max_workers=2))
    assert shares.num_units(demand(num_waiting=5)) == 2
    assert shares.num_workers(demand(num_waiting=5), num_units=2, part=0.2) == 2
    assert shares.num_workers(demand(num_waiting=4, num_training=1, num_workers=2), num_units=2, part=0.2) == 0


@given(
    num_engines=st.integers(0, 8),
    num_workers=st.integers(0, 8),
    num_waiting=st.integers(0, 9),
    num_stages=st.integers(0, 3),
    part=st.floats(0.01, 1.0),
    costs=st.lists(st.floats(1.0, 1e5), min_size=2, max_size=2),
)
def test_no_device_is_promised_twice_and_there_is_always_a_way_on(
    num_engines: int, num_workers: int, num_waiting: int, num_stages: int, part: float, costs: list[float]
) -> None:
    num_engines = min(num_engines, 8 - num_workers)
    shares = Shares(gpus(min_workers=2))
    for phase, cost in zip(("generate", "train"), costs, strict=True):
        shares.learn(phase, cost, 1)
    now = demand(num_stages=num_stages, num_waiting=num_waiting, num_training=num_workers // 2, num_workers=num_workers)
    granted = shares.num_workers(now, num_engines, part) if num_waiting else 0
    assert granted == 0 or (2 <= granted <= 4 and num_workers + num_engines + granted <= 8)
    allowed = shares.num_units(now)
    assert 0 <= allowed <= 8 - num_workers
    if num_waiting and not num_workers:
        assert shares.num_workers(now, min(num_engines, allowed), part), "nobody trains and nobody will"


def test_a_student_gets_the_workers_with_which_it_is_done_when_all_the_rest_may_be() -> None:
    shares = Shares(gpus(max_workers=8))
    shares.learn("generate", 400.0, 1, 100)
    assert shares.least_workers(50.0, Remaining(num_rows=0, work=100.0), 0.0) == 1, "nothing is known of students"
    shares.learn("train", 100.0, 1, 50.0)
    assert shares.work_s(25.0) == 50.0
    # 100 s of it alone; 8 devices take 100 s for the rest.
    assert shares.least_workers(50.0, Remaining(num_rows=150, work=100.0), 0.0) == 1
    # 50 s for the rest: two workers, which are what the engines, with four fifths of the cost, leave.
    assert shares.least_workers(50.0, Remaining(num_rows=50, work=100.0), 0.0) == 2
    assert shares.least_workers(50.0, Remaining(num_rows=1, work=50.0), 0.0) == 2
    assert shares.least_workers(50.0, Remaining(num_rows=0, work=50.0), 0.0) == 8
    assert shares.least_workers(50.0, Remaining(num_rows=0, work=50.0), 100.0) == 4
    split = Shares(without_gpus(num_engines=2, max_workers=2))
    split.learn("generate", 400.0, 1, 100)
    split.learn("train", 100.0, 1, 50.0)
    assert split.least_workers(50.0, Remaining(num_rows=0, work=50.0), 0.0) == 1


def test_a_student_begins_with_most_of_the_workers_that_it_needs_and_waits_where_there_are_few() -> None:
    shares = Shares(gpus(max_workers=8))
    now = demand(num_waiting=1, num_training=1, num_workers=5)
    assert shares.num_workers(now, num_units=0, part=1.0, least=4) == 3
    assert shares.num_workers(now, num_units=0, part=1.0, least=5) == 0


def test_a_simulated_campaign_ends_with_its_devices_busy() -> None:
    sizes = {"generate_s": [600.0, 200.0], "train_s": [60.0, 80.0]}
    shapes = [RunShape(**sizes, num_rows=[600, 200], work=[60, 80]) for _ in range(12)]
    result = CampaignSimulation(shapes, gpus()).run()
    assert result.spent_s["generating"] > 12 * 800.0 - 12
    assert (result.spent_s["generating"] + result.spent_s["training"]) / 8 / result.makespan_s > 0.85


def test_48_runs_keep_64_devices_busy() -> None:
    assert simulate(300)["busy_share"] > 0.965
    assert simulate(1500)["busy_share"] > 0.91
