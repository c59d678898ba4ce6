"""What strategies are given in tests: gold rows, a round's context, and whole runs with a scripted student."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s3ray.config.job import RunConfig, StrategyConfig
from s3ray.config.load import validate
from s3ray.storage.run_folder import RunStore
from s3ray.strategies import make_strategy
from s3ray.strategies.base import RoundContext, StagePlan
from s3ray.strategies.mistake_stream import MistakeStream
from s3ray.strategies.probes import Probes
from s3ray.tables import PROBE_SCHEMA, examples_from_table, table_from_mistakes
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import Context
from s3ray.types import Example, GenerationRequest, Mistake, Origin, Source, Span, StudentJob, StudentResult
from tests.rounds.test_driver import GOLD, ScriptedGenerator, ScriptedTrainer, drive

REVIEWS = load_task("review_sentences")
QNLI = load_task("qnli")
ADVERSARIAL = load_task("adversarial_qa")
REASONS = {"negative": ["slow", "cold", "dear", "loud"], "positive": ["quick", "warm", "cheap", "calm"]}
NOTES = {"reasons": REASONS, "subjects": {"": ["the tea", "the soup"]}, "patterns": {"0": ["irony"], "1": ["praise"]}}


def gold_rows(task: Task, num: int, source: Source = Source.GOLD) -> list[Example]:
    rows = []
    for number in range(num):
        fields = {name: f"{name} of {source} row {number}" for name in task.fields}
        label = task.labels[number % len(task.labels)] if task.has_labels else None
        answers = () if task.has_labels else (Span(text="row", start=fields["context"].index("row")),)
        origin = Origin(source=source)
        rows.append(Example(id=f"{source}-{number}", fields=fields, label=label, answers=answers, origin=origin))
    return rows


def other_label(task: Task, row: Example) -> str:
    return next((label for label in task.labels if label != row.label), "Bob")


def mistakes_of(task: Task, rows: Sequence[Example]) -> MistakeStream:
    return MistakeStream([Mistake(example=row, predicted=other_label(task, row), confidence=0.9) for row in rows])


def probes_of(rows: Sequence[Example], task: Task = REVIEWS) -> Probes:
    """A student that finds the truth, more or less surely, and whose features tell labels apart."""
    draw = np.random.default_rng(7)
    truth = draw.uniform(0.5, 1, len(rows))
    places = np.array([task.labels.index(row.label or "") if task.has_labels else 0 for row in rows], dtype=np.int64)
    own = np.eye(2)[places]
    probabilities = truth[:, None] * own + (1 - truth[:, None]) * (1 - own)
    features = draw.normal(size=(len(rows), 3)) + np.pad(2 * own, ((0, 0), (0, 1)))
    return Probes(
        ids=[row.id for row in rows],
        predicted=["?"] * len(rows),
        target_probability=truth,
        probabilities=probabilities if task.has_labels else np.zeros((len(rows), 0)),
        features=features.astype(np.float32),
    )


def context(task: Task, round_: int = 0, num_mistakes: int = 4, **changes: Any) -> RoundContext:
    gold, written = gold_rows(task, 12), gold_rows(task, 30, Source.SEED)
    contexts = [
        Context(
            id=row.id,
            fields={name: row.fields[name] for name in task.context_fields},
            answer=row.answers[0] if row.answers else None,
        )
        for row in gold
    ]
    values: dict[str, Any] = {
        "round": round_,
        "task": task,
        "gold": gold,
        "contexts": contexts if task.context_fields else [],
        "mistakes": mistakes_of(task, gold[:num_mistakes]),
        "fingerprint": "f",
        "seed": 0,
        "prompts": task.note_prompts("completion"),
        "probes": {"gold": probes_of(gold, task), "train": probes_of(written, task)}.__getitem__,
        "synthetic": lambda: written,
    }
    return RoundContext(**values | changes)


def plans(strategy: str, given: RoundContext, **settings: Any) -> list[StagePlan]:
    return list(make_strategy(StrategyConfig(name=strategy, **settings)).example_stages(given))


def first(plan: StagePlan, num: int) -> list[GenerationRequest]:
    return list(islice(plan.requests, num))


PLAIN: dict[str, Any] = {"curation": {"verify": "none"}, "student": {"weigh": "none"}}
"""Without what the preset of s3plus turns on outside its section; the scripted generator verifies nothing."""


# -- whole runs --------------------------------------------------------------------------------------------------------


def job(strategy: dict[str, Any], **sections: Any) -> RunConfig:
    """A job on the packaged task; the texts of the scripted generator are all different."""
    raw = {"name": "job", "task": "review_sentences", "generator": {"engine": "fake", "prompt_form": "completion"}}
    return validate(RunConfig, {**raw, "strategy": {"reasons_per_label": 4, **strategy}, **sections})


class Student(ScriptedTrainer):
    """Gets the gold rows wrong that ``wrong`` says for its round, gives them the other label, sees rows at random."""

    def __init__(
        self, wrong: Callable[[int], Sequence[Example]] = lambda round_: GOLD.extrapolate[: 4 - round_]
    ) -> None:
        super().__init__()
        self._wrong = wrong
        self.learned: list[list[Example]] = []

    def train(self, job: StudentJob) -> StudentResult:
        result = super().train(job)
        self.learned.append(read(job.train_path))
        for name, path in job.probes.items():
            RunStore(job.output).write_table(f"probes/{name}.parquet", _table(probes_of(read(path))))
        return result

    def _mine(self, job: StudentJob) -> None:
        found = mistakes_of(REVIEWS, self._wrong(job.round)).all()
        table = table_from_mistakes(found, REVIEWS.fields, REVIEWS.has_labels)
        RunStore(job.output).write_table("mistakes/000000.parquet", table)


def _table(probes: Probes) -> pa.Table:
    columns = [probes.ids, probes.predicted, probes.target_probability]
    columns += [probes.probabilities.tolist(), probes.features.tolist()]
    return pa.table(columns, schema=PROBE_SCHEMA)


def read(path: str) -> list[Example]:
    file = Path(path)
    return examples_from_table(RunStore(file.parent).read_table(file.name), REVIEWS.fields)


class Run:
    """A run that is over: what was asked, what each student learned, what each round kept."""

    def __init__(self, folder: Path, strategy: dict[str, Any], by: Student | None = None, **sections: Any) -> None:
        """``by`` is the scripted student; ``sections`` are those of the job."""
        self.student = by or Student()
        self.store, self.generator, _ = drive(job(strategy, **sections), folder, ScriptedGenerator(), self.student)

    def asked(self, round_: int, stage: str | None = None) -> list[GenerationRequest]:
        """The requests of a round, in the order of the sequence."""
        found = [r for r in self.generator.answered if r.round == round_ and stage in (None, r.stage)]
        return sorted(found, key=lambda request: (request.stage, request.index))

    def kept(self, round_: int) -> list[Example]:
        """The examples of a round."""
        return read(str(self.store.path(f"rounds/{round_}/accepted.parquet")))

    def notes(self, round_: int, stage: str) -> dict[str, list[str]]:
        """What a note stage left."""
        notes: dict[str, list[str]] = self.store.read_json(f"rounds/{round_}/{stage}.json")
        return notes

    @property
    def rows(self) -> list[int]:
        """How many rows each student learned from."""
        return [len(rows) for rows in self.student.learned]
