"""Stages for benchmarks that ask how fast requests are answered, not which of them are kept."""

from collections.abc import Iterator, Sequence

from s3ray.rounds.stage import Ending, Stage
from s3ray.strategies.base import StagePlan
from s3ray.types import GenerationRequest, Outcome, Rejection


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
