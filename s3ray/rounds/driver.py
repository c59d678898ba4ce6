"""The rounds, in the order of the paper (S3, arXiv 2310.13671, Algorithms 1 to 3). No Ray, torch or vLLM import.

Every step leaves its result on disk before the next begins, and is skipped if that result exists, so the same command
continues after any interruption. Only the driver writes the rounds and students of the run folder.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from s3ray.config.job import STAGES_ASIDE, VERDICTS, RunConfig
from s3ray.curation.calibrate import Calibration
from s3ray.curation.sketch import uses_sketches
from s3ray.errors import DeadEndError
from s3ray.machine import collect_rarely
from s3ray.rounds.journal import RoundJournal, Tally, total
from s3ray.rounds.judge import CalibrationJudge, ExampleJudge, NoteJudge, calibration_stage
from s3ray.rounds.stage import Judge, Stage
from s3ray.rounds.students import Students, Trainer
from s3ray.storage.contents import Notes
from s3ray.storage.run_folder import RunStore, TableWriter
from s3ray.strategies import make_strategy
from s3ray.strategies.base import NoteStage, RoundContext, StagePlan, Strategy
from s3ray.strategies.mistake_stream import MistakeStream
from s3ray.tables import (
    Chunk,
    count_outcomes,
    example_schema,
    examples_from_table,
    join_tables,
    outcomes_from_table,
    table_from_examples,
)
from s3ray.tasks import Task
from s3ray.tasks.gold import GoldSplit
from s3ray.telemetry.events import ChunkWritten, EventLog, RoundClosed, StageFinished, StageStarted
from s3ray.telemetry.records import from_plain
from s3ray.types import Example

ROWS_BEFORE = "before.parquet"
"""In a round written by ``reparse``: the rows from which its requests were made, if they depend on any."""


class Generator(Protocol):
    """What the driver needs of a pool of engines."""

    @property
    def works_while_training(self) -> bool:
        """Whether ``generate`` may be called while a student is trained."""

    def generate(self, source: Stage) -> Iterator[Chunk]:
        """Answer the requests of a stage; each chunk is on disk and settled before the next is asked for."""

    def pause(self) -> None:
        """Make way for training; the next ``generate`` brings the engines back."""

    def prepare(self) -> None:
        """Devices are free and ``generate`` will be called soon: begin to bring the engines back; returns at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run consists of. ``requests`` are the fingerprints for request ids, see ``RunStore.requests``."""

    config: RunConfig
    task: Task
    gold: GoldSplit
    store: RunStore
    events: EventLog
    requests: Mapping[str, str]
    generator: Generator
    trainer: Trainer


class JournalSource(Protocol):
    """Outcomes that another lineage already has for this run's requests (used by ``reparse``)."""

    def fill(self, round_: int, plan: StagePlan) -> StagePlan:
        """Write a stage's journal before the stage reads it; returns the plan with none of its requests drawn."""


class Driver:
    """Runs the rounds of one run to the end, continuing from what is in the run folder."""

    def __init__(self, parts: Parts, journal: JournalSource | None = None) -> None:
        """``journal`` provides outcomes that need no engine, in addition to those that the run has on disk."""
        self._parts = parts
        self._journal = journal
        self._store = parts.store
        self._events = parts.events
        self._task = parts.task
        self._strategy = make_strategy(parts.config.strategy)
        self._students = Students(
            config=parts.config,
            task=parts.task,
            store=parts.store,
            events=parts.events,
            trainer=parts.trainer,
            last_round=self._strategy.last_round,
            probes=self._strategy.probes,
            on_trained=self._prepare,
        )

    def run(self) -> None:
        """Do what is left of every round: write, train, find mistakes.

        Raises:
            RunError: the run cannot go on; everything finished so far is on disk.
        """
        collect_rarely()
        self.keep_gold()
        try:
            for round_ in range(self._strategy.last_round + 1):
                if round_ not in self._store.rounds():
                    self.write_round(round_)
                if round_ not in self._store.students():
                    self._make_student(round_)
        finally:
            self._students.end()

    def _make_student(self, round_: int) -> None:
        """Train and score a student; if engines may run meanwhile, it returns at once and the next round begins.

        What is written ahead is written during the training, the rest from the student's first mistakes on.
        """
        generator = self._parts.generator
        generator.pause()
        has_next = round_ < self._strategy.last_round and round_ + 1 not in self._store.rounds()
        self._students.make(round_, in_background=has_next and generator.works_while_training)

    def _prepare(self, round_: int, num_mistakes: int) -> None:
        """A student has left its devices: let engines load while its results are kept, if a round surely follows."""
        following, store = round_ + 1, self._store
        is_begun = bool(store.files(store.in_round(following, "")))
        writes = following <= self._strategy.last_round and num_mistakes and not is_begun
        if writes and self._strategy.num_rows(following, num_mistakes):
            self._parts.generator.prepare()

    def keep_gold(self) -> None:
        """Write the parts of gold into the run folder."""
        gold = self._parts.gold
        parts = {"extrapolate": gold.extrapolate, "select": gold.select, "test": gold.test}
        for part, examples in parts.items():
            if not self._store.has(self._store.gold(part)):
                self._store.write_table(self._store.gold(part), self._table(examples))

    def _table(self, examples: Sequence[Example]) -> pa.Table:
        return table_from_examples(examples, self._task.fields, self._task.has_labels)

    # -- writing a round -------------------------------------------------------------------------------------------

    def write_round(self, round_: int) -> None:
        """Run all stages of a round, then write its tables, then the marker that closes it."""
        context = self._context(round_)
        ahead = list(self._strategy.ahead_stages(context))
        if not ahead:
            self._students.wait_for_first()
        started = time.monotonic()
        config, task = self._parts.config, self._task
        has_soft = task.has_labels and config.curation.verify == "soft"
        journal = RoundJournal(self._store, round_, task.fields, task.has_labels, has_soft, bool(ahead))
        stages: dict[str, dict[str, Any]] = {}
        notes = {}
        if round_ == 0 and self._calibrates:
            stages[VERDICTS] = self._calibrate(context, journal)
        judge = self._judge(round_, journal)
        for plan in ahead:
            stages[plan.name] = self._run_stage(round_, plan, judge, journal)
        self._students.wait_for_first()
        for stage in self._strategy.note_stages(context):
            name = stage.plan.name
            stages[name], notes[name] = self._write_notes(round_, stage, journal)
        context = replace(context, notes=notes, num_ahead=journal.num_kept)
        for plan in self._strategy.example_stages(context):
            stages[plan.name] = self._run_stage(round_, plan, judge, journal)
        self._students.finish()
        self._close_round(round_, journal, stages, time.monotonic() - started)

    def _judge(self, round_: int, journal: RoundJournal) -> ExampleJudge:
        """Decides which examples of a round are kept, beside those of the rounds before it."""
        gold = self._parts.gold
        before = [num for num in self._strategy.training(round_).rounds if num < round_]
        return ExampleJudge(
            self._task,
            [*gold.extrapolate, *gold.select, *gold.test],
            self._synthetic(before),
            self._parts.config.curation,
            journal.keep,
            calibration=self._calibration(),
            sketches=uses_sketches(self._parts.config),
        )

    def _context(self, round_: int) -> RoundContext:
        config, store = self._parts.config, self._store
        return RoundContext(
            round=round_,
            task=self._task,
            gold=self._parts.gold.extrapolate,
            contexts=self._parts.gold.contexts,
            mistakes=self._students.mistakes(round_),
            earlier=self._students.earlier(round_) if config.strategy.ahead else MistakeStream(),
            prompts=self._task.note_prompts(config.generator.prompt_form),
            probes=lambda name: self._students.probes(round_, name),
            synthetic=lambda: self._rows_before(round_),
            history=lambda: [
                frozenset(store.read_table(store.mistakes_before(num))["id"].to_pylist()) for num in range(1, round_)
            ],
            fingerprint=self._parts.requests["later" if round_ else "seed"],
            seed=config.seed,
        )

    def _rows_before(self, round_: int) -> list[Example]:
        fields = self._task.fields
        return examples_from_table(rows_before(self._store, self._strategy, round_, fields), fields)

    def _synthetic(self, rounds: Iterable[int]) -> Iterator[Example]:
        """The synthetic rows of these rounds."""
        for num in rounds:
            table = self._store.read_table(self._store.accepted(num), self._task.fields)
            yield from examples_from_table(table, self._task.fields)

    @property
    def _calibrates(self) -> bool:
        config = self._parts.config
        asks = config.generates and config.curation.verify != "none" and config.curation.calibrate > 0
        return asks and self._task.has_labels

    def _calibrate(self, context: RoundContext, journal: RoundJournal) -> dict[str, Any]:
        """Ask the generator for the labels of gold rows, and write the calibration that follows."""
        judge = CalibrationJudge(self._task)
        plan = calibration_stage(context, self._parts.config.curation.calibrate)
        summary = self._run_stage(context.round, plan, judge, journal)
        calibration = judge.calibration()
        self._store.write_json(self._store.calibration(context.round), calibration and calibration.as_dict())
        return summary

    def _calibration(self) -> Calibration | None:
        if not self._calibrates:
            return None
        name = self._store.calibration(0)
        plain = self._store.read_json(name)
        return from_plain(Calibration, plain, self._store.url(name)) if plain is not None else None

    def _write_notes(
        self, round_: int, stage: NoteStage, journal: RoundJournal
    ) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """Run one note stage to its end; notes that are on disk already are read from there."""
        judge = NoteJudge(self._task, stage.keys, stage.num_each)
        summary = self._run_stage(round_, stage.plan, judge, journal)
        name = self._store.notes(round_, stage.plan.name)
        if not self._store.has(name):
            self._store.write_json(name, judge.notes)
        return summary, self._store.read_record(name, Notes)

    def _run_stage(self, round_: int, plan: StagePlan, judge: Judge, journal: RoundJournal) -> dict[str, Any]:
        """Run one stage to its end. Outcomes are written to disk before they are judged."""
        if self._journal is not None:
            plan = self._journal.fill(round_, plan)
        started = time.monotonic()
        stage = Stage(plan, judge, journal.record)
        tally = journal.tallies.setdefault(plan.name, Tally())
        with self._events.within(round=round_, phase="generate", stage=plan.name):
            num_known = self._store.num_journalled(round_, plan.name)
            self._events.emit(StageStarted(round=round_, stage=plan.name, target=plan.target, known=num_known))
            chunks = self._store.read_chunks(round_, plan.name)
            stage.replay(outcome for chunk in chunks for outcome in outcomes_from_table(chunk))
            if not stage.finished:
                self._generate(round_, stage)
            seconds = time.monotonic() - started
            summary = tally.summary() | {"seconds": seconds, "short": stage.missing}
            causes = tally.causes.most_common() if stage.missing or not tally.accepted else None
            self._events.emit(
                StageFinished(
                    round=round_,
                    stage=plan.name,
                    **summary,
                    given_up=stage.num_under_way,
                    thinking=tally.thinking,
                    causes=causes or None,
                )
            )
        return summary

    def _generate(self, round_: int, stage: Stage) -> None:
        for chunk in self._parts.generator.generate(stage):
            name = self._store.write_chunk(round_, stage.plan.name, chunk.table)
            stage.settle(outcomes_from_table(chunk.table))
            self._events.emit(
                ChunkWritten(
                    round=round_,
                    stage=stage.plan.name,
                    chunk=name,
                    **count_outcomes(chunk.table),
                    engines=chunk.engines,
                    accepted=stage.num_accepted,
                    target=stage.plan.target,
                    starving=tuple(stage.starving),
                )
            )
            self._students.check()

    def _close_round(
        self, round_: int, journal: RoundJournal, stages: Mapping[str, Mapping[str, Any]], seconds: float
    ) -> None:
        store = self._store
        journal.close()
        learned = self._strategy.training(round_)
        names = [store.gold("extrapolate")] * learned.gold
        names += [store.accepted(num) for num in learned.rounds]
        num_rows = self._write_training_set(round_, names)
        if not num_rows:
            raise _nothing_kept(round_, journal, store.url(store.rejected(round_)))
        written = total(tally for stage, tally in journal.tallies.items() if stage not in STAGES_ASIDE)
        totals = written.summary() | {"seconds": seconds}
        num_off = journal.num_off_policy
        more = {"off_policy": num_off} if self._parts.config.strategy.ahead else {}
        report = {"round": round_, **totals, "rows": num_rows, **more, "stages": stages}
        store.write_json(store.round_report(round_), report)
        self._events.emit(RoundClosed(round=round_, **written.summary(), rows=num_rows, off_policy=num_off))

    def _write_training_set(self, round_: int, names: Sequence[str]) -> int:
        """Put the rows of these tables into one, which appears if there are any; returns how many there are.

        One table is in memory at a time.
        """
        store, config, fields = self._store, self._parts.config, self._task.fields
        rounds, has_labels = self._strategy.training(round_).rounds, self._task.has_labels
        has_soft = has_labels and config.curation.verify == "soft" and bool(rounds)
        has_off_policy = config.strategy.ahead > 0 and max(rounds, default=0) > 1  # round 1 has one student before it
        schema = example_schema(fields, has_labels, has_soft, has_off_policy)
        none, num_rows = schema.empty_table(), 0
        writer: TableWriter | None = None
        for name in names:
            table = store.read_table(name, fields)
            if table.num_rows:
                writer = writer or store.table_writer(store.train(round_), schema)
                writer.write(join_tables([none, table]).select(schema.names))
                num_rows += table.num_rows
        if writer is not None:
            writer.close()
        return num_rows


def _nothing_kept(round_: int, journal: RoundJournal, table: str) -> DeadEndError:
    causes = total(tally for stage, tally in journal.tallies.items() if stage not in STAGES_ASIDE).causes
    listed = "".join(f"\n  {cause}" for cause in causes.most_common())
    blame = "The prompts of the task probably do not suit this generator. " if causes.num_rejected else ""
    hint = f"{blame}All of them are in {table}. Mend the cause, then begin anew with --fresh."
    return DeadEndError(f"round {round_} wrote no example that was kept{':' if listed else ''}{listed}", hint)


def rows_before(store: RunStore, strategy: Strategy, round_: int, fields: Sequence[str]) -> pa.Table:
    """The synthetic rows that the student before a round was trained on; after ``reparse``, those of the first run.

    ``fields`` are the task's.
    """
    own = store.in_round(round_, ROWS_BEFORE)
    rounds = strategy.training(round_ - 1).rounds
    names = [own] if store.has(own) else [store.accepted(num) for num in rounds]
    return join_tables(store.read_table(name, fields) for name in names)
