"""Rounds ahead of themselves: shares decide what is asked for, whatever is fast, slow or killed."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s3ray.config.job import RunConfig, StrategyConfig, to_yaml
from s3ray.config.shaping import data_shaping
from s3ray.devices import local_facts
from s3ray.errors import PoolError, TrainerError
from s3ray.generator.local_pool import LocalPool, alone
from s3ray.generator.worker import only_task
from s3ray.monitor.metrics import build_metrics
from s3ray.placement.place import plan_placement
from s3ray.report.export import export_dataset
from s3ray.report.run import write_report
from s3ray.rounds.driver import Driver, Parts
from s3ray.rounds.stage import Stage
from s3ray.storage.run_folder import RunStore
from s3ray.strategies import make_strategy
from s3ray.tables import Chunk, outcomes_from_table
from s3ray.telemetry.events import EventLog, read_events
from s3ray.types import AHEAD, GenerationRequest, Outcome, StudentJob, StudentResult
from tests.rounds.test_driver import (
    GOLD,
    TASK,
    Interrupted,
    ScriptedGenerator,
    ScriptedTrainer,
    _read,
    config,
    drive,
    write_mistakes,
)
from tests.rounds.test_overlap import data
from tests.strategies.given import REVIEWS, context, first, gold_rows, mistakes_of

ROUNDS = 3
ROWS = 12 + 5 * ROUNDS
WAIT_S = 20
PER_MISTAKE: dict[str, Any] = {"strategy__per_mistake": 2}
EQUAL_ROWS: dict[str, Any] = {"strategy__rows": ROWS}
MODES = pytest.mark.parametrize("mode", [PER_MISTAKE, EQUAL_ROWS], ids=["per_mistake", "rows"])


def job(tmp_path: Path, mode: dict[str, Any], ahead: float = 0.5, **overrides: Any) -> RunConfig:
    return config(tmp_path, strategy__rounds=ROUNDS, strategy__ahead=ahead, **mode, **overrides)


class Generator(ScriptedGenerator):
    """May have engines that leave for a training; every seventh of its texts is refused as a copy of the one before."""

    def __init__(self, *, overlaps: bool = True, seed: int = 0, die_after: int | None = None) -> None:
        super().__init__(seed, die_after)
        self.works_while_training = overlaps
        self.is_ahead = {round_: threading.Event() for round_ in range(ROUNDS + 2)}

    def generate(self, source: Stage) -> Iterator[Chunk]:
        yield from super().generate(source)
        if source.plan.name == AHEAD and self.answered:
            self.is_ahead[self.answered[-1].round].set()

    def _outcome(self, request: GenerationRequest) -> Outcome:
        outcome = super()._outcome(request)
        same = "the same words again and again and again"
        return outcome._replace(text=same, raw=same) if request.seed % 7 == 0 else outcome


class Trainer(ScriptedTrainer):
    """Its students err on the first 8, 6 and 4 rows of gold."""

    def _mine(self, job: StudentJob) -> None:
        write_mistakes(job, 0, _read(str(job.mine_path))[: 8 - 2 * job.round])


class PatientTrainer(Trainer):
    """Trains a student only when all that can be written meanwhile has been."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.waited: list[int] = []
        self._generator = generator

    def train(self, job: StudentJob) -> StudentResult:
        if 1 <= job.round < ROUNDS:
            assert self._generator.is_ahead[job.round + 1].wait(WAIT_S), f"nothing was written beside {job.round}"
            self.waited.append(job.round)
        return super().train(job)


def requests(generator: ScriptedGenerator, stage: str) -> dict[int, list[GenerationRequest]]:
    """By round, in the order of the sequence."""
    found = sorted((r for r in generator.answered if r.stage == stage), key=lambda r: (r.round, r.index))
    return {round_: [r for r in found if r.round == round_] for round_ in range(ROUNDS + 1)}


def kept(store: RunStore) -> dict[str, bytes]:
    """Every table but those of requests: which ones are sent beyond a quota depends on the order of answers."""
    return {name: content for name, content in data(store).items() if "/re" not in name}


def journal(store: RunStore) -> list[str]:
    chunks = [
        chunk
        for num in range(ROUNDS + 1)
        for stage in ("reasons", "seed", AHEAD, "extrapolate")
        for chunk in store.read_chunks(num, stage)
    ]
    return [outcome.request_id for chunk in chunks for outcome in outcomes_from_table(chunk)]


@MODES
@pytest.mark.parametrize("ahead", [0.3, 0.5, 1.0])
def test_a_run_that_writes_ahead_and_one_whose_phases_take_turns_write_the_same(
    tmp_path: Path, mode: dict[str, Any], ahead: float
) -> None:
    settings = job(tmp_path, mode, ahead)
    apart, _, _ = drive(settings, tmp_path / "apart", Generator(overlaps=False), Trainer())
    generator = Generator(seed=3)
    trainer = PatientTrainer(generator)
    together, _, _ = drive(settings, tmp_path / "together", generator, trainer)
    assert kept(together) == kept(apart)
    assert trainer.waited == [1, 2], "each student but the first and the last was trained while engines wrote"


@MODES
def test_a_driver_that_dies_anywhere_goes_on_to_the_same_rows(tmp_path: Path, mode: dict[str, Any]) -> None:
    settings = job(tmp_path, mode)
    undisturbed, generator, _ = drive(settings, tmp_path / "undisturbed", Generator(), Trainer())
    expected = kept(undisturbed)
    first = next(place for place, request in enumerate(generator.answered) if request.round == 2)
    num = len(generator.answered)
    for die_after in range(first, num, (num - first) // 5):
        folder = tmp_path / f"run-{die_after}"
        with pytest.raises(Interrupted):
            drive(settings, folder, Generator(seed=die_after, die_after=die_after), Trainer())
        store, _, _ = drive(settings, folder, Generator(seed=5, overlaps=die_after % 2 == 0), Trainer())
        assert kept(store) == expected
        assert len(set(journal(store))) == len(journal(store)), "a request was answered twice"


class BesideTraining(LocalPool):
    """The shipped fake engine in this process, which goes on while a student is trained."""

    works_while_training = True


def on_fake_engine(settings: RunConfig, folder: Path, die_after: int | None = None) -> RunStore:
    """Run, or go on with, a job on an engine that may die after so many answers."""
    config = alone(settings)
    fake = config.generator.fake.model_copy(update={"die_after": die_after})
    config = config.model_copy(update={"generator": config.generator.model_copy(update={"fake": fake})})
    store = RunStore(folder)
    store.create({}, "")
    events = EventLog(store, "job", 1)
    plan = plan_placement(config, local_facts())
    with contextlib.closing(BesideTraining(config, only_task(config, TASK), plan, emit=events.emit)) as pool:
        parts = Parts(
            config=config,
            task=TASK,
            gold=GOLD,
            store=store,
            events=events,
            requests={"seed": "f", "later": "f"},
            generator=pool,
            trainer=Trainer(),
        )
        Driver(parts).run()
    return store


def test_a_fake_engine_that_dies_anywhere_leaves_the_same_rows(tmp_path: Path) -> None:
    settings = job(tmp_path, EQUAL_ROWS)
    undisturbed = on_fake_engine(settings, tmp_path / "undisturbed")
    expected, num = kept(undisturbed), len(journal(undisturbed))
    beside = sum(undisturbed.num_journalled(round_, stage) for round_ in (2, 3) for stage in (AHEAD, "extrapolate"))
    for die_after in range(num - beside, num, max(1, beside // 6)):
        folder = tmp_path / f"run-{die_after}"
        with pytest.raises(PoolError, match="scripted death"):
            on_fake_engine(settings, folder, die_after)
        store = on_fake_engine(settings, folder)
        assert kept(store) == expected
        assert len(set(journal(store))) == len(journal(store)), "a request was answered twice"


@MODES
@pytest.mark.parametrize("round_", range(1, ROUNDS))
def test_a_student_that_dies_while_rows_are_written_beside_it_is_trained_again(
    tmp_path: Path, mode: dict[str, Any], round_: int
) -> None:
    settings = job(tmp_path, mode)
    expected = kept(drive(settings, tmp_path / "undisturbed", Generator(), Trainer())[0])
    generator = Generator()

    class Mortal(Trainer):
        def train(self, job: StudentJob) -> StudentResult:
            if job.round == round_:
                generator.is_ahead[round_ + 1].wait(WAIT_S)
                raise TrainerError("the train workers failed", "a hint")
            return super().train(job)

    with pytest.raises(TrainerError, match="the train workers failed"):
        drive(settings, tmp_path / "run", generator, Mortal())
    store = RunStore(tmp_path / "run")
    assert store.rounds() == list(range(round_ + 1))
    assert store.num_journalled(round_ + 1, AHEAD), "what was written ahead is safe"
    drive(settings, tmp_path / "run", Generator(seed=5), Trainer())
    assert kept(store) == expected
    assert len(set(journal(store))) == len(journal(store)), "a request was answered twice"


def test_the_share_of_each_round_is_written_from_the_student_before_the_last(tmp_path: Path) -> None:
    settings = job(tmp_path, EQUAL_ROWS)
    store, generator, trainer = drive(settings, tmp_path / "run", Generator(), Trainer())
    ahead, rest = requests(generator, AHEAD), requests(generator, "extrapolate")
    assert [bool(ahead[num]) for num in range(ROUNDS + 1)] == [False, False, True, True], "round 1 has no such student"
    for num in (2, 3):
        of_earlier, of_last = (
            {row.id for row in _read(str(store.path(f"students/{num - back}/mistakes.parquet")))} for back in (2, 1)
        )
        assert {request.parent.id for request in ahead[num] if request.parent} <= of_earlier
        assert {request.parent.id for request in rest[num] if request.parent} <= of_last
        rows = store.read_table(store.accepted(num)).to_pylist()
        assert [row["off_policy"] for row in rows] == [True] * 2 + [False] * 3, "half of 5 rows, rounded down"
        assert store.read_json(store.round_report(num))["off_policy"] == 2
    assert "off_policy" not in store.read_table(store.accepted(1)).column_names
    assert trainer.num_rows == [12, 17, 22, 27]
    learned = _read(trainer.jobs[-1].train_path)
    assert sum(row.origin.off_policy for row in learned) == 4
    store.write_text("config.yaml", to_yaml(settings))
    export_dataset(store, None)
    exported = store.read_table("dataset/data/train.parquet")
    assert exported["off_policy"].to_pylist().count(True) == 4
    assert exported["off_policy"].null_count == 0
    assert "| off_policy | true: the gold row was a mistake" in store.path("dataset/README.md").read_text()
    write_report(store)
    assert '<td data-name="Kept, off-policy">2</td>' in store.path("report.html").read_text()
    assert [each.off_policy for each in build_metrics(store, list(read_events(store))).rounds] == [0, 0, 2, 2]


def test_rows_that_are_lost_ahead_are_written_from_the_last_student(tmp_path: Path) -> None:
    class Repeating(Generator):
        """All that it writes ahead in round 2 is one text."""

        def _outcome(self, request: GenerationRequest) -> Outcome:
            outcome = super()._outcome(request)
            same = request.stage == AHEAD and request.round == 2
            return outcome._replace(text="one text for all", raw="one text for all") if same else outcome

    store, generator, trainer = drive(job(tmp_path, EQUAL_ROWS), tmp_path / "run", Repeating(), Trainer())
    assert trainer.num_rows[-1] == ROWS
    assert store.read_json(store.round_report(2))["off_policy"] == 1
    assert len(requests(generator, AHEAD)[2]) == 2 * 8, "as many as `candidates_per_row` allows"


def test_each_student_gives_its_share_of_mistakes_and_a_gold_row_has_not_two_turns_before_another_has_one(
    tmp_path: Path,
) -> None:
    store, generator, _ = drive(job(tmp_path, PER_MISTAKE), tmp_path / "run", Generator(), Trainer())
    ahead, rest = (
        {num: {r.parent.id for r in asked if r.parent} for num, asked in requests(generator, stage).items()}
        for stage in (AHEAD, "extrapolate")
    )
    assert [(len(ahead[num]), len(rest[num])) for num in (1, 2, 3)] == [(0, 8), (4, 3), (3, 2)]
    assert len(requests(generator, AHEAD)[2]) == 2 * 4
    for num in (2, 3):
        of_last = {row.id for row in _read(str(store.path(f"students/{num - 1}/mistakes.parquet")))}
        assert not rest[num] & ahead[num] or of_last - ahead[num] <= rest[num]


def test_a_student_without_mistakes_leaves_all_rows_to_the_next_one(tmp_path: Path) -> None:
    class Better(Trainer):
        def _mine(self, job: StudentJob) -> None:
            if job.round != 1:
                super()._mine(job)

    # Without `rows` a round whose student makes no mistake writes nothing but what is written ahead.
    store, generator, trainer = drive(job(tmp_path, EQUAL_ROWS), tmp_path / "run", Generator(), Better())
    assert [len(requests(generator, AHEAD)[num]) > 0 for num in (2, 3)] == [True, False]
    assert trainer.num_rows == [12, 17, 19, 24]
    assert "off_policy" not in store.read_table(store.accepted(3)).column_names


@pytest.mark.parametrize("num_ahead", [0, 3, 5])
def test_what_is_asked_of_the_last_student_does_not_depend_on_what_was_kept_ahead(num_ahead: int) -> None:
    """Reading a run again by other rules finds each of its requests, however many rows are kept then."""
    strategy = make_strategy(StrategyConfig(name="s3", rounds=2, seed_examples=8, rows=28, ahead=0.5))
    given = context(REVIEWS, 2, earlier=mistakes_of(REVIEWS, gold_rows(REVIEWS, 6)))
    (usual,) = strategy.example_stages(replace(given, num_ahead=5))
    (plan,) = strategy.example_stages(replace(given, num_ahead=num_ahead))
    assert first(plan, 20) == first(usual, 20)
    assert (plan.target, plan.max_requests) == (10 - num_ahead, 8 * 10)
    (ahead,) = strategy.ahead_stages(given)
    assert ahead.target == 5
    assert not {request.id for request in first(ahead, 40)} & {request.id for request in first(plan, 40)}


@pytest.mark.parametrize("name", ["s3", "transfer", "llm2llm"])
def test_without_a_share_ahead_a_job_is_what_it_was(name: str) -> None:
    settings = StrategyConfig(name=name, rounds=2, seed_examples=8, rows=28)
    assert "ahead" not in data_shaping(settings), "runs of earlier versions go on"
    strategy = make_strategy(settings)
    given = context(REVIEWS, 2, earlier=mistakes_of(REVIEWS, gold_rows(REVIEWS, 6)))
    assert not list(strategy.ahead_stages(given))
    shares = make_strategy(settings.model_copy(update={"ahead": 1.0}))
    assert [shares.num_ahead(num, 10) for num in range(4)] == [0, 0, 10, 0]
    assert not list(shares.ahead_stages(replace(given, round=3))), "transfer writes a seed set then"
