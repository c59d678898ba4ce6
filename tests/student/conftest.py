"""A BERT that trains in seconds, and example tables for it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from s3ray.config.job import StudentConfig
from s3ray.tables import table_from_examples
from s3ray.tasks import Task, load_task
from s3ray.types import Example, Origin, Source, StudentJob
from tests.models import make_bert

SIGNS = {"positive": ("lovely", "superb", "charming"), "negative": ("dreadful", "dull", "broken")}
SUBJECTS = ("film", "phone", "soup", "hotel", "song", "book", "chair")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a BERT that knows the words of these reviews."""
    words = [word for sign in SIGNS.values() for word in sign] + [*SUBJECTS, "the", "was", "and"]
    return str(make_bert(tmp_path_factory.mktemp("tiny_bert"), words))


@pytest.fixture(scope="session")
def reviews() -> Task:
    return load_task("review_sentences")


@pytest.fixture(scope="session")
def questions() -> Task:
    return load_task("adversarial_qa")


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students compute in float32 whatever this machine's CPU has: for tests that compare what two ways compute."""
    monkeypatch.setattr("s3ray.student.model.cpu_flags", frozenset)


@pytest.fixture
def config(tiny_bert: str) -> StudentConfig:
    return StudentConfig(model=tiny_bert, learning_rate=2e-3, batch_size=8, epochs=3, max_length=32)


def review(number: int, label: str, text: str | None = None) -> Example:
    sign, subject = SIGNS[label][number % 3], SUBJECTS[number % len(SUBJECTS)]
    tail = " and the ".join(SUBJECTS[: 1 + number % 4])
    return Example(
        id=f"r{number}",
        fields={"text": text or f"the {subject} was {sign}, the {tail}"},
        label=label,
        origin=Origin(source=Source.GOLD),
    )


@pytest.fixture(scope="session")
def toy_reviews() -> Callable[[range], list[Example]]:
    """Reviews whose label one word gives away; texts of different lengths."""

    def make(numbers: range) -> list[Example]:
        return [review(number, "positive" if number % 2 else "negative") for number in numbers]

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Task, Sequence[Example]], str]:
    """Writes an example table and gives its path."""

    def write(name: str, task: Task, examples: Sequence[Example]) -> str:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table_from_examples(examples, task.fields, task.has_labels), path)
        return str(path)

    return write


@pytest.fixture
def job(
    tmp_path: Path,
    reviews: Task,
    toy_reviews: Callable[[range], list[Example]],
    write: Callable[[str, Task, Sequence[Example]], str],
) -> StudentJob:
    """49 rows in batches of 8: the last batch has one row, so a second worker has none."""
    return StudentJob(
        round=1,
        train_path=write("train", reviews, toy_reviews(range(49))),
        select_path=write("select", reviews, toy_reviews(range(100, 120))),
        mine_path=write("mine", reviews, toy_reviews(range(200, 231))),
        test_path=write("test", reviews, toy_reviews(range(300, 340))),
        output=str(tmp_path / "students" / "1"),
        seed=7,
    )
