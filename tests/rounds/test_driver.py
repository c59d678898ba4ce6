"""The rounds without Ray: a scripted generator and student show that the order is the paper's and that it resumes."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s3ray.config.job import GoldConfig, RunConfig
from s3ray.config.load import load_config
from s3ray.curation import sketch_index
from s3ray.curation.sketch import sketches
from s3ray.errors import DeadEndError, PoolError, RunError
from s3ray.rounds.driver import Driver, Parts
from s3ray.rounds.stage import Stage
from s3ray.storage.run_folder import RunStore
from s3ray.tables import (
    PROBE_SCHEMA,
    Chunk,
    examples_from_table,
    outcomes_from_table,
    table_from_mistakes,
    table_from_outcomes,
)
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import GoldSplit, load_gold
from s3ray.tasks.task import STILL_THINKING
from s3ray.telemetry.events import EventLog, StageFinished, read_events
from s3ray.types import (
    Answer,
    EpochReport,
    Example,
    GenerationRequest,
    Mistake,
    Outcome,
    OutcomeStatus,
    Score,
    StudentJob,
    StudentResult,
)

TASK = load_task("review_sentences")
GOLD = load_gold(TASK, GoldConfig(extrapolate=20, select=10, test=10))


class Interrupted(BaseException):
    """What kills a driver, as no handler expects it."""


class ScriptedGenerator:
    """Answers in random order with a text of its own for each request; may die after so many answers."""

    def __init__(self, seed: int = 0, die_after: int | None = None) -> None:
        self.works_while_training = True
        self.answered: list[GenerationRequest] = []
        self._draw = random.Random(seed)
        self._die_after = die_after

    def generate(self, source: Stage) -> Iterator[Chunk]:
        waiting: list[GenerationRequest] = []
        while not source.finished:
            waiting += source.take(7 - len(waiting))
            if source.finished:
                return
            if not waiting:
                assert source.is_waiting, "nothing is under way"
                time.sleep(0.002)
                continue
            self._draw.shuffle(waiting)
            batch, waiting = waiting[:3], waiting[3:]
            if self._die_after is not None and len(self.answered) >= self._die_after:
                raise Interrupted
            self.answered += batch
            yield Chunk(table=table_from_outcomes([self._outcome(request) for request in batch]), engines={})

    def _outcome(self, request: GenerationRequest) -> Outcome:
        draw = random.Random(request.seed)
        text = " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(8))
        if request.template == "reasons":
            text = f"1. {text[:20]}\n2. {text[20:40]}"
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.ACCEPTED,
            text=text,
            raw=text,
            num_output_tokens=8,
            engine="engine-0",
            attempt=1,
        )

    def pause(self) -> None:
        pass

    def prepare(self) -> None:
        pass


class ScriptedTrainer:
    """Calls the first ``4 - round`` gold rows mistakes; remembers its jobs and what they were given."""

    def __init__(self, die_in_round: int | None = None) -> None:
        self.jobs: list[StudentJob] = []
        self.num_rows: list[int] = []
        self._die_in_round = die_in_round

    def train(self, job: StudentJob) -> StudentResult:
        if job.round == self._die_in_round:
            raise Interrupted
        if job.mine_path is not None:
            self._mine(job)
        self.jobs.append(job)
        rows = _read(job.train_path)
        self.num_rows.append(len(rows))
        for name, path in job.probes.items():
            RunStore(job.output).write_table(f"probes/{name}.parquet", _probed(path, job.round))
        score = Score(main="accuracy", values={"accuracy": 0.5, "macro_f1": 0.5}, num_examples=10)
        return StudentResult(
            round=job.round,
            num_rows=len(rows),
            best_epoch=1,
            epochs=(EpochReport(epoch=1, loss=0.1, select=0.5, seconds=1.0),),
            select=score,
            mine=score,
            test=score if job.test_path else None,
            test_answers=tuple(_answers(job.test_path)) if job.test_path else (),
            seconds={"start": 0.0, "train": 1.0, "score": 0.0},
        )

    def _mine(self, job: StudentJob) -> None:
        write_mistakes(job, 0, _read(str(job.mine_path))[: 4 - job.round])


def write_mistakes(job: StudentJob, block: int, rows: Sequence[Example]) -> None:
    """One block, as a trainer writes it."""
    found = [Mistake(example=row, predicted="?", confidence=0.5) for row in rows]
    table = table_from_mistakes(found, TASK.fields, TASK.has_labels)
    RunStore(job.output).write_table(f"mistakes/{block:06d}.parquet", table)


def _answers(path: str) -> Iterator[Answer]:
    """Every other row right."""
    for place, row in enumerate(_read(path)):
        yield Answer(id=row.id, predicted="?", confidence=0.5, score=float(place % 2))


def _probed(path: str, round_: int) -> pa.Table:
    rows = _read(path)
    columns = [[row.id for row in rows], ["?"] * len(rows), [0.5] * len(rows), [[0.5, 0.5]] * len(rows)]
    return pa.table([*columns, [[float(round_)] * 3] * len(rows)], schema=PROBE_SCHEMA)


def _read(path: str) -> list[Example]:
    file = Path(path)
    return examples_from_table(RunStore(file.parent).read_table(file.name), TASK.fields)


def config(tmp_path: Path, **overrides: Any) -> RunConfig:
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: job\ntask: review_sentences\nstrategy: {name: s3, rounds: 2, seed_examples: 12, reasons_per_label: 4}\n"
        "generator: {engine: fake, prompt_form: completion}\n"
    )
    return load_config(job, {name.replace("__", "."): value for name, value in overrides.items()})


def drive(
    settings: RunConfig,
    folder: Path,
    generator: ScriptedGenerator | None = None,
    trainer: ScriptedTrainer | None = None,
    gold: GoldSplit = GOLD,
    task: Task = TASK,
) -> tuple[RunStore, ScriptedGenerator, ScriptedTrainer]:
    store = RunStore(folder)
    store.create({"strategy": settings.strategy.name}, "")
    generator, trainer = generator or ScriptedGenerator(), trainer or ScriptedTrainer()
    parts = Parts(
        config=settings,
        task=task,
        gold=gold,
        store=store,
        events=EventLog(store, "job", 1),
        requests={"seed": "f", "later": "f"},
        generator=generator,
        trainer=trainer,
    )
    Driver(parts).run()
    return store, generator, trainer


def test_s3_follows_the_algorithms(tmp_path: Path) -> None:
    store, generator, trainer = drive(config(tmp_path), tmp_path / "run")
    asked = [(request.round, request.stage) for request in generator.answered]
    assert asked == sorted(asked, key=lambda item: (item[0], item[1] != "reasons")), "rounds and stages are in order"
    # Round 1 writes one example for each of the 4 mistakes of student 0, round 2 for each of the 3 of student 1.
    assert trainer.num_rows == [12, 16, 19]
    for round_, num in ((1, 4), (2, 3)):
        mistakes = {row.id: row for row in _read(str(store.path(f"students/{round_ - 1}/mistakes.parquet")))}
        added = _read(str(store.path(f"rounds/{round_}/accepted.parquet")))
        assert len(added) == num
        for example in added:
            assert example.origin.parent is not None
            assert example.label == mistakes[example.origin.parent].label
    assert [job.test_path is None for job in trainer.jobs] == [True, True, False], "test is read by the last student"
    assert not {row.id for row in GOLD.extrapolate} & {row.id for row in _read(trainer.jobs[-1].train_path)}


def test_every_seed_prompt_has_reasons_of_its_label(tmp_path: Path) -> None:
    store, generator, _ = drive(config(tmp_path), tmp_path / "run")
    reasons = json.loads(store.path("rounds/0/reasons.json").read_text())
    assert {label: len(kept) for label, kept in reasons.items()} == {"negative": 4, "positive": 4}
    for request in generator.answered:
        if request.stage == "seed":
            assert set(request.reasons) <= set(reasons[request.label])
            assert len(request.reasons) == 3


class WeighingGenerator(ScriptedGenerator):
    """Doubts every third of its texts."""

    def _outcome(self, request: GenerationRequest) -> Outcome:
        outcome = super()._outcome(request)
        sure = 0.3 if request.seed % 3 == 0 else 0.8
        label_probabilities = (sure, 1 - sure) if request.label == TASK.labels[0] else (1 - sure, sure)
        return outcome if request.template == "reasons" else outcome._replace(label_probabilities=label_probabilities)


@pytest.mark.parametrize("verify", ["drop", "soft"])
def test_a_doubted_row_is_replaced_by_another_one(tmp_path: Path, verify: str) -> None:
    settings = config(tmp_path, curation__verify=verify, curation__calibrate=0)
    store, _, _ = drive(settings, tmp_path / "run", WeighingGenerator())
    report = store.read_json("rounds/0/round.json")
    assert report["accepted"] == 12
    assert report["rejected"]["doubted"] > 0
    refused = store.read_table("rounds/0/rejected.parquet").to_pylist()
    details = [row["detail"] for row in refused if row["reason"] == "doubted"]
    assert len(details) == report["rejected"]["doubted"]
    assert all("the generator gives negative 0." in detail for detail in details)
    for name in ("accepted", "train"):
        rows = _read(str(store.path(f"rounds/2/{name}.parquet")))
        softened = [row.soft[TASK.labels.index(row.label or "")] for row in rows if row.soft]
        assert softened == ([pytest.approx(0.8)] * len(rows) if verify == "soft" else [])


class YesMan(WeighingGenerator):
    """Finds everything positive, what is positive a little more, and knows what gold is."""

    def _outcome(self, request: GenerationRequest) -> Outcome:
        outcome = super()._outcome(request)
        wrong = request.template != "verify" and request.seed % 3 == 0
        positive = 0.95 if (request.label == "positive") != wrong else 0.8
        return (
            outcome if request.template == "reasons" else outcome._replace(label_probabilities=(1 - positive, positive))
        )


def test_verdicts_are_set_right_by_those_on_gold(tmp_path: Path) -> None:
    settings = config(tmp_path, curation__verify="soft", curation__calibrate=200)
    store, generator, _ = drive(settings, tmp_path / "run", YesMan())
    judged = [request for request in generator.answered if request.stage == "verdicts"]
    assert {(request.label, request.context["text"]) for request in judged} == {
        (row.label, row.fields["text"]) for row in GOLD.extrapolate
    }, "each row of the extrapolation part once, and no other"
    assert store.read_json("rounds/0/calibration.json")["accuracy"] == [0.5, 1.0]
    report = store.read_json("rounds/0/round.json")
    assert report["stages"]["verdicts"]["requested"] == len(GOLD.extrapolate)
    assert report["requested"] == report["stages"]["seed"]["requested"], "verdicts are no examples"
    for num in store.rounds():
        rows = _read(str(store.path(f"rounds/{num}/accepted.parquet")))
        assert {row.label for row in rows} == {"negative", "positive"} or num
        assert all(row.soft[TASK.labels.index(row.label or "")] > 0.5 for row in rows)
        refused = store.read_table(f"rounds/{num}/rejected.parquet").to_pylist()
        assert "doubted" in {row["reason"] for row in refused}
    assert not any(request.stage == "verdicts" and request.round for request in generator.answered)


def test_a_run_that_dies_while_gold_is_judged_asks_for_the_rest(tmp_path: Path) -> None:
    settings = config(tmp_path, curation__verify="drop", curation__calibrate=200)
    whole, _, _ = drive(settings, tmp_path / "whole", YesMan())
    with pytest.raises(Interrupted):
        drive(settings, tmp_path / "run", YesMan(die_after=7))
    store, generator, _ = drive(settings, tmp_path / "run", YesMan())
    assert 0 < len([r for r in generator.answered if r.stage == "verdicts"]) < len(GOLD.extrapolate)
    assert store.read_json("rounds/0/calibration.json") == whole.read_json("rounds/0/calibration.json")
    assert _final(store) == _final(whole)


def test_too_few_gold_rows_leave_verdicts_as_they_are(tmp_path: Path) -> None:
    settings = config(tmp_path, curation__verify="soft", curation__calibrate=5)
    store, _, _ = drive(settings, tmp_path / "run", WeighingGenerator())
    assert store.read_json("rounds/0/calibration.json") is None
    rows = _read(str(store.path("rounds/0/accepted.parquet")))
    assert {max(row.soft) for row in rows} == {0.8}


def test_rows_of_a_run_without_verdicts_have_no_column_for_them(tmp_path: Path) -> None:
    store, _, _ = drive(config(tmp_path), tmp_path / "run", WeighingGenerator())
    assert "soft" not in store.read_table("rounds/2/train.parquet").column_names


class RepeatingGenerator(ScriptedGenerator):
    """Writes many exact and near copies; sends a sketch with every other text."""

    def _outcome(self, request: GenerationRequest) -> Outcome:
        outcome = super()._outcome(request)
        if request.template == "reasons":
            return outcome
        draw = random.Random(request.seed)
        text = " ".join("".join(random.Random(draw.randrange(16)).choices("abcdefghij ", k=60)).split())
        place = draw.randrange(3 * len(text) // 2)
        text = text[:place] + "x" + text[place:] if place < len(text) else text
        return outcome._replace(text=text, sketch=sketches([text])[0] if request.index % 2 else b"")


def test_copies_found_by_sketches_are_those_of_the_exact_search_whatever_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketch_index, "_BLOCK", 4)
    exact, _, _ = drive(config(tmp_path, curation__search="exact"), tmp_path / "exact", RepeatingGenerator())
    settings = config(tmp_path, curation__search="sketch")
    for num in (9, 5):
        with pytest.raises(Interrupted):
            drive(settings, tmp_path / "run", RepeatingGenerator(seed=num, die_after=num))
    store, _, _ = drive(settings, tmp_path / "run", RepeatingGenerator(seed=3))
    assert _final(store) == _final(exact)
    tables = [run.read_table("rounds/0/rejected.parquet").to_pylist() for run in (store, exact)]
    copies, expected = ([row for row in rows if row["reason"] != "surplus"] for rows in tables)
    assert copies == expected
    assert "near_duplicate" in {row["reason"] for row in copies}


class SwappingGenerator(ScriptedGenerator):
    """Its engines make way for training; remembers what it was told to do, and which students were on disk then."""

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        self.works_while_training = False
        self.told: list[tuple[str, list[int]]] = []
        self._store = store

    def generate(self, source: Stage) -> Iterator[Chunk]:
        self.told.append(("generate", self._store.students()))
        return super().generate(source)

    def pause(self) -> None:
        self.told.append(("pause", self._store.students()))

    def prepare(self) -> None:
        self.told.append(("prepare", self._store.students()))


def test_engines_load_once_the_student_is_trained_if_a_round_follows(tmp_path: Path) -> None:
    generator = SwappingGenerator(RunStore(tmp_path / "run"))
    swapped, _, _ = drive(config(tmp_path), tmp_path / "run", generator)
    told = [item for item in generator.told if item[0] != "generate"]
    assert told == [("pause", []), ("prepare", []), ("pause", [0]), ("prepare", [0]), ("pause", [0, 1])]
    after = [generator.told[place + 1] for place, item in enumerate(generator.told[:-1]) if item[0] == "prepare"]
    assert after == [("generate", [0]), ("generate", [0, 1])]
    overlapping, _, _ = drive(config(tmp_path), tmp_path / "other")
    assert _final(swapped) == _final(overlapping)


def test_engines_are_not_loaded_for_a_round_without_mistakes_nor_where_the_strategy_ends(tmp_path: Path) -> None:
    class Faultless(ScriptedTrainer):
        def _mine(self, job: StudentJob) -> None:
            write_mistakes(job, 0, [])

    for name, trainer in (("s3", Faultless()), ("zerogen", ScriptedTrainer())):
        generator = SwappingGenerator(RunStore(tmp_path / name))
        settings = config(tmp_path, strategy__name=name, strategy__rows=None if name == "s3" else 12)
        drive(settings, tmp_path / name, generator, trainer)
        assert "prepare" not in {what for what, _ in generator.told}


@pytest.mark.parametrize("strategy", ["zerogen", "goldgen", "s3"])
def test_strategies_end_with_equal_rows(tmp_path: Path, strategy: str) -> None:
    settings = config(tmp_path, strategy__name=strategy, strategy__rows=30, strategy__seed_examples=12)
    _, _, trainer = drive(settings, tmp_path / "run")
    assert trainer.num_rows[-1] == 30


def test_gold_trains_on_the_extrapolation_part_without_a_generator(tmp_path: Path) -> None:
    store, generator, trainer = drive(config(tmp_path, strategy__name="gold"), tmp_path / "run")
    assert generator.answered == []
    assert [row.id for row in _read(trainer.jobs[0].train_path)] == [row.id for row in GOLD.extrapolate]
    assert store.rounds() == store.students() == [0]


def _final(store: RunStore) -> list[str]:
    return [row.id for num in store.rounds() for row in _read(str(store.path(f"rounds/{num}/accepted.parquet")))]


def _journal(store: RunStore) -> list[str]:
    return [
        outcome.request_id
        for num in (0, 1, 2)
        for stage in ("reasons", "seed", "extrapolate")
        for chunk in store.read_chunks(num, stage)
        for outcome in outcomes_from_table(chunk)
    ]


@pytest.mark.parametrize("die_after", [0, 1, 5, 11, 16, 21])
def test_a_driver_killed_while_generating_goes_on(tmp_path: Path, die_after: int) -> None:
    undisturbed, _, _ = drive(config(tmp_path), tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        drive(config(tmp_path), tmp_path / "run", ScriptedGenerator(die_after=die_after))
    store, _, _ = drive(config(tmp_path), tmp_path / "run", ScriptedGenerator(seed=5))
    assert _final(store) == _final(undisturbed)
    journal = _journal(store)
    assert len(set(journal)) == len(journal), "a request was answered twice"
    asked = [row["request_id"] for num in store.rounds() for row in _requests(store, num)]
    assert sorted(asked) == sorted(journal), "journal and requests differ"


def _requests(store: RunStore, num: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.read_table(f"rounds/{num}/requests.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("round_", [0, 1, 2])
def test_a_driver_killed_while_training_repeats_only_that_student(tmp_path: Path, round_: int) -> None:
    first = ScriptedTrainer(die_in_round=round_)
    with pytest.raises(Interrupted):
        drive(config(tmp_path), tmp_path / "run", trainer=first)
    assert [job.round for job in first.jobs] == list(range(round_))
    store, generator, second = drive(config(tmp_path), tmp_path / "run")
    assert [job.round for job in second.jobs] == list(range(round_, 3))
    assert all(request.round > round_ for request in generator.answered)
    undisturbed, _, _ = drive(config(tmp_path), tmp_path / "undisturbed")
    assert _final(store) == _final(undisturbed)


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    drive(config(tmp_path), tmp_path / "run")
    _, generator, trainer = drive(config(tmp_path), tmp_path / "run")
    assert generator.answered == []
    assert trainer.jobs == []


def test_a_round_without_examples_stops_the_run_with_a_way_out(tmp_path: Path) -> None:
    class Mute(ScriptedGenerator):
        def _outcome(self, request: GenerationRequest) -> Outcome:
            return Outcome(
                request_id=request.id, index=request.index, status=OutcomeStatus.REJECTED, reason="empty", raw=""
            )

    with pytest.raises(RunError, match=r"rejected\.parquet"):
        drive(config(tmp_path), tmp_path / "run", Mute())


def test_errors_of_the_pool_come_through(tmp_path: Path) -> None:
    class Broken(ScriptedGenerator):
        def generate(self, source: Stage) -> Iterator[Chunk]:
            raise PoolError("no engine is left")

    with pytest.raises(PoolError):
        drive(config(tmp_path), tmp_path / "run", Broken())


class RefusingGenerator(ScriptedGenerator):
    """Refuses every example, as a server does that does not take what all of them have."""

    def _outcome(self, request: GenerationRequest) -> Outcome:
        outcome = super()._outcome(request)
        if request.template == "reasons":
            return outcome
        detail = f"HTTP 400: no role {request.id}"
        return outcome._replace(status=OutcomeStatus.FAILED, reason="refused_by_engine", detail=detail, text="", raw="")


def test_a_round_without_an_example_says_what_the_requests_were_told(tmp_path: Path) -> None:
    with pytest.raises(DeadEndError) as caught:
        drive(config(tmp_path), tmp_path / "a", RefusingGenerator(), ScriptedTrainer())
    said = str(caught.value)
    assert "failed, refused_by_engine: HTTP 400: no role " in said
    assert "do not suit" not in said


class ThinkingGenerator(ScriptedGenerator):
    """Is cut within its thoughts whenever it is to write an example."""

    def _outcome(self, request: GenerationRequest) -> Outcome:
        outcome = super()._outcome(request)
        if request.template == "reasons":
            return outcome
        return outcome._replace(status=OutcomeStatus.REJECTED, reason="truncated", detail=STILL_THINKING, text="")


def test_the_end_of_a_stage_says_why_its_requests_gave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DeadEndError, match="do not suit this generator"):
        drive(config(tmp_path), tmp_path / "run", ThinkingGenerator())
    ends = [event for event in read_events(RunStore(tmp_path / "run")) if isinstance(event, StageFinished)]
    reasons, seed = ends[0], ends[-1]
    assert seed.thinking == seed.requested > 0
    assert seed.causes == (f"{seed.requested} rejected, truncated (one of them: {STILL_THINKING})",)
    assert (reasons.thinking, reasons.causes) == (0, None), "a stage that has what it wanted says nothing"
