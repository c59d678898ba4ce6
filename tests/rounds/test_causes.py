"""A stage says why its requests gave nothing, in the words of who refused them."""

from s3ray.rounds.journal import Causes
from s3ray.types import OutcomeStatus


def test_the_most_frequent_causes_come_first_with_what_was_said() -> None:
    causes = Causes()
    for num in range(5):
        causes.add(OutcomeStatus.FAILED, "refused_by_engine", f"HTTP 400: request {num} has a system role")
    for num in range(3):
        causes.add(OutcomeStatus.REJECTED, "duplicate", f"of r{num}")
    causes.add(OutcomeStatus.REJECTED, "empty", "")
    causes.add(OutcomeStatus.FAILED, "timeout", "no answer in 600 s")
    assert causes.most_common() == (
        "5 failed, refused_by_engine: HTTP 400: request 0 has a system role",
        "3 rejected, duplicate (one of them: of r0)",
        "1 rejected, empty",
    )
    assert causes.num_rejected == 4
