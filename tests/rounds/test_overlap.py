"""A round is written from a student's first mistakes while the student is still being scored; nothing else changes."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3ray.errors import TrainerError
from s3ray.rounds.stage import Stage
from s3ray.storage.run_folder import RunStore
from s3ray.tables import Chunk, table_from_outcomes
from s3ray.types import GenerationRequest, Outcome, StudentJob, StudentResult
from tests.rounds.test_driver import (
    Interrupted,
    ScriptedGenerator,
    ScriptedTrainer,
    _journal,
    _read,
    config,
    drive,
    write_mistakes,
)

BLOCK_ROWS = 5
LAST = 3
"""Number of the last of the blocks of 20 rows; the third has no mistakes."""
MISTAKES = {0: (0, 2, 3, 11 + BLOCK_ROWS), 1: (1, 4, 19)}
WAIT_S = 20


class BlockTrainer(ScriptedTrainer):
    """Scores block by block, as the real one does; ``before`` each it is asked."""

    def __init__(self, before: Callable[[int, int], None] = lambda round_, block: None) -> None:
        super().__init__()
        self.scored: list[tuple[int, int]] = []
        self.is_over = threading.Event()
        self.is_over.set()
        self._before = before

    def train(self, job: StudentJob) -> StudentResult:
        self.is_over.clear()
        try:
            return super().train(job)
        finally:
            self.is_over.set()

    def _mine(self, job: StudentJob) -> None:
        store = RunStore(job.output)
        rows = _read(str(job.mine_path))
        missed = [rows[place] for place in MISTAKES.get(job.round, ())]
        for block in range(LAST + 1):
            if store.has(f"mistakes/{block:06d}.parquet"):
                continue
            self._before(job.round, block)
            here = [row for row in rows[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS] if row in missed]
            write_mistakes(job, block, here)
            self.scored.append((job.round, block))


class TellingGenerator(ScriptedGenerator):
    """Says which round it was asked to write, as soon as it is; who waits for that is not left waiting if it dies."""

    def __init__(self, *, overlaps: bool = True, seed: int = 0, die_after: int | None = None) -> None:
        super().__init__(seed, die_after)
        self.works_while_training = overlaps
        self.asked = {round_: threading.Event() for round_ in range(3)}

    def generate(self, source: Stage) -> Iterator[Chunk]:
        try:
            yield from super().generate(source)
        except Interrupted:
            for event in self.asked.values():
                event.set()
            raise

    def _outcome(self, request: GenerationRequest) -> Outcome:
        self.asked[request.round].set()
        return super()._outcome(request)


def data(store: RunStore) -> dict[str, bytes]:
    """Every table of rounds and students, but for the journal."""
    names = [name for name in (*store.files("rounds"), *store.files("students")) if name.endswith(".parquet")]
    return {name: store.path(name).read_bytes() for name in names if "/chunks/" not in name}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """What a run without overlap writes."""
    store, generator, _ = drive(config(tmp_path), tmp_path / "apart", TellingGenerator(overlaps=False), BlockTrainer())
    assert [sum(request.round == num for request in generator.answered) for num in (1, 2)] == [4, 3]
    return data(store)


def test_a_round_begins_before_the_student_before_it_is_scored(tmp_path: Path, expected: dict[str, bytes]) -> None:
    generator = TellingGenerator(seed=3)

    def before(round_: int, block: int) -> None:
        if block == LAST and round_ < 2 and not generator.asked[round_ + 1].wait(WAIT_S):
            raise AssertionError(f"round {round_ + 1} waits for the last block of student {round_}")

    store, _, trainer = drive(config(tmp_path), tmp_path / "run", generator, BlockTrainer(before))
    assert data(store) == expected
    assert [job.round for job in trainer.jobs] == [0, 1, 2]
    events = [(event["event"], event["round"]) for event in store.events() if event["event"] != "chunk_written"]
    assert events.index(("stage_started", 1)) < events.index(("student_finished", 0))
    assert events.index(("student_finished", 0)) < events.index(("round_closed", 1))


def test_engines_that_leave_for_a_training_are_not_asked_before_it_is_over(tmp_path: Path) -> None:
    generator = TellingGenerator(overlaps=False)

    def before(round_: int, block: int) -> None:
        assert not any(generator.asked[later].is_set() for later in range(round_ + 1, 3))

    drive(config(tmp_path), tmp_path / "run", generator, BlockTrainer(before))


@pytest.mark.parametrize("round_", [0, 1])
@pytest.mark.parametrize("block", range(LAST + 1))
def test_a_trainer_that_dies_at_any_block_goes_on_after_it(
    tmp_path: Path, expected: dict[str, bytes], round_: int, block: int
) -> None:
    def before(num: int, at: int) -> None:
        if (num, at) == (round_, block):
            raise TrainerError("the train workers failed", "a hint")

    first, second = BlockTrainer(before), BlockTrainer()
    with pytest.raises(TrainerError, match="the train workers failed"):
        drive(config(tmp_path), tmp_path / "run", TellingGenerator(), first)
    store = RunStore(tmp_path / "run")
    assert store.rounds() == list(range(round_ + 1)), "a round is not closed before the student before it is kept"
    assert store.students() == list(range(round_))
    drive(config(tmp_path), tmp_path / "run", TellingGenerator(seed=5), second)
    assert data(store) == expected
    assert sorted(first.scored + second.scored) == [(num, at) for num in range(3) for at in range(LAST + 1)]
    journal = _journal(store)
    assert len(set(journal)) == len(journal), "a request was answered twice"


def test_a_run_whose_trainer_fails_does_not_wait_for_the_engines(tmp_path: Path) -> None:
    class Slow(TellingGenerator):
        def generate(self, source: Stage) -> Iterator[Chunk]:
            if source.plan.name != "extrapolate":
                yield from super().generate(source)
                return
            under_way = source.take(1)
            self.asked[under_way[0].round].set()
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline:
                time.sleep(0.01)
                yield Chunk(table=table_from_outcomes([]), engines={})
            raise AssertionError("nobody ends the run")

    def before(round_: int, block: int) -> None:
        if block == LAST and generator.asked[round_ + 1].wait(WAIT_S):
            raise TrainerError("the train workers failed", "a hint")

    generator = Slow()
    with pytest.raises(TrainerError, match="the train workers failed"):
        drive(config(tmp_path), tmp_path / "run", generator, BlockTrainer(before))


@pytest.mark.parametrize("die_after", range(20, 28))
@pytest.mark.parametrize("held_at", [1, LAST])
def test_a_driver_that_dies_while_a_student_is_scored_goes_on(
    tmp_path: Path, expected: dict[str, bytes], die_after: int, held_at: int
) -> None:
    """The trainer comes no further than a block for as long as the driver lives."""
    has_died = threading.Event()
    generator = TellingGenerator(die_after=die_after)

    def before(round_: int, block: int) -> None:
        if block == held_at and round_ < 2:
            generator.asked[round_ + 1].wait(WAIT_S)
        if has_died.is_set():
            raise Interrupted

    first, second = BlockTrainer(before), BlockTrainer()
    with pytest.raises(Interrupted):
        drive(config(tmp_path), tmp_path / "run", generator, first)
    has_died.set()
    first.is_over.wait(WAIT_S)
    store, _, _ = drive(config(tmp_path), tmp_path / "run", TellingGenerator(seed=5), second)
    assert data(store) == expected
    scored = first.scored + second.scored
    assert len(set(scored)) == len(scored), "a block was scored twice"
    journal = _journal(store)
    assert len(set(journal)) == len(journal), "a request was answered twice"


def test_a_student_of_a_run_that_has_ended_is_not_kept(tmp_path: Path) -> None:
    class Broken(TellingGenerator):
        def generate(self, source: Stage) -> Iterator[Chunk]:
            if source.plan.name == "extrapolate":
                raise Interrupted
            return super().generate(source)

    has_died = threading.Event()

    def before(round_: int, block: int) -> None:
        if block == LAST:
            has_died.wait(WAIT_S)

    trainer = BlockTrainer(before)
    with pytest.raises(Interrupted):
        drive(config(tmp_path), tmp_path / "run", Broken(), trainer)
    has_died.set()
    for thread in threading.enumerate():
        if thread.name == "student":
            thread.join(WAIT_S)
    assert len(trainer.scored) == LAST + 1, "it was scored to its end"
    assert RunStore(tmp_path / "run").students() == []


def test_a_round_of_so_many_rows_waits_for_all_mistakes(tmp_path: Path) -> None:
    settings = config(tmp_path, strategy__rows=30)
    apart, _, _ = drive(settings, tmp_path / "apart", TellingGenerator(overlaps=False), BlockTrainer())
    together, _, trainer = drive(settings, tmp_path / "together", TellingGenerator(seed=2), BlockTrainer())
    assert data(together) == data(apart)
    assert trainer.num_rows[-1] == 30
