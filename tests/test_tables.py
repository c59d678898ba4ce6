"""Outcomes come back from a table as they went in, and a chunk is counted by how its rows ended."""

from s3ray.tables import count_outcomes, outcomes_from_table, table_from_outcomes
from s3ray.types import FailureReason, Outcome, OutcomeStatus, RejectionReason

KEPT = Outcome(
    request_id="a",
    index=7,
    status=OutcomeStatus.ACCEPTED,
    text="Fine.",
    raw=' "Fine."',
    finish_reason="stop",
    num_prompt_tokens=30,
    num_cached_tokens=16,
    num_output_tokens=3,
    engine="engine-0",
    attempt=2,
    seconds=0.5,
)
REFUSED = KEPT._replace(request_id="b", status=OutcomeStatus.REJECTED, reason=RejectionReason.REFUSAL.value, text="")
LOST = Outcome(request_id="c", index=9, status=OutcomeStatus.FAILED, reason=FailureReason.POISON.value)


def test_a_table_reads_back() -> None:
    outcomes = [KEPT, REFUSED, LOST]
    read = list(outcomes_from_table(table_from_outcomes(outcomes)))
    assert read == outcomes
    assert all(isinstance(outcome.status, OutcomeStatus) for outcome in read)
    assert list(outcomes_from_table(table_from_outcomes([]))) == []


def test_a_chunk_is_counted() -> None:
    assert count_outcomes(table_from_outcomes([KEPT, REFUSED, REFUSED, LOST])) == {
        "rows": 4,
        "ok": 1,
        "rejected": {"refusal": 2},
        "failed": {"poison": 1},
        "prompt_tokens": 90,
        "cached_tokens": 48,
        "output_tokens": 9,
    }
    assert count_outcomes(table_from_outcomes([]))["output_tokens"] == 0
