"""Stages for benchmarks that ask how fast requests are answered."""

from collections.abc import Iterator, Sequence

from s3ray.config.job import RunConfig
from s3ray.curation.sketch import uses_sketches
from s3ray.generator.engines.fake import write_text
from s3ray.rounds.judge import ExampleJudge
from s3ray.rounds.stage import Ending, Stage
from s3ray.strategies.base import StagePlan
from s3ray.tasks import Task
from s3ray.types import Example, GenerationRequest, Origin, Outcome, Rejection, Source

_NUM_GOLD = 1000


class _KeepAll:
    """Judges nothing: curation has its own price."""

    def expect(self, coming: Sequence[tuple[GenerationRequest, Outcome]]) -> None:
        pass

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        return None


def _unrecorded(ending: Ending) -> None:
    pass


def unjudged_stage(requests: Iterator[GenerationRequest], max_requests: int | None = None) -> Stage:
    """A stage that sends every request, at most ``max_requests``, and keeps every outcome; nothing is booked."""
    return Stage(StagePlan(name="seed", requests=requests, max_requests=max_requests), _KeepAll(), _unrecorded)


def curated_stage(
    config: RunConfig, task: Task, requests: Iterator[GenerationRequest], max_requests: int | None = None
) -> Stage:
    """A stage that sends every request and keeps what the curation of a job does, beside gold of 1,000 rows."""
    texts = [write_text(-1 - number, 64)[0] for number in range(_NUM_GOLD)]
    origin = Origin(source=Source.GOLD)
    gold = [
        Example(id=f"gold-{number}", fields={task.written: text}, origin=origin) for number, text in enumerate(texts)
    ]
    judge = ExampleJudge(task, gold, (), config.curation, _unkept, sketches=uses_sketches(config))
    return Stage(StagePlan(name="seed", requests=requests, max_requests=max_requests), judge, _unrecorded)


def _unkept(example: Example) -> None:
    pass
