"""Each request is with one engine, waits, or has ended; a lost engine's requests are handed out again, not for ever."""

from s3ray.generator.ledger import Ledger
from s3ray.types import FailureReason, GenerationRequest, Outcome, OutcomeStatus


def request(name: str) -> GenerationRequest:
    return GenerationRequest(id=name, index=0, stage="seed", round=0, template="seed", group="g", seed=0)


def answer(name: str) -> Outcome:
    return Outcome(request_id=name, index=0, status=OutcomeStatus.ACCEPTED)


def test_a_lost_engine_gives_back_what_it_held() -> None:
    ledger = Ledger(max_attempts=3)
    ledger.hand_out("one", [request("a"), request("b")])
    ledger.settle("one", [answer("a")])
    assert ledger.lose("one") == []
    assert ledger.num_held_by("one") == 0
    assert [back.id for back in ledger.take_returned(5)] == ["b"]
    assert ledger.attempt("b") == 2


def test_a_request_lost_too_often_ends_as_failed() -> None:
    ledger = Ledger(max_attempts=2)
    ledger.hand_out("one", [request("a")])
    assert ledger.lose("one") == []
    ledger.hand_out("two", ledger.take_returned(1))
    failed = ledger.lose("two")
    assert [(outcome.request_id, outcome.status, outcome.reason) for outcome in failed] == [
        ("a", OutcomeStatus.FAILED, FailureReason.ENGINE_LOST.value)
    ]
    assert ledger.take_returned(5) == []


def test_an_answer_counts_once_and_only_from_its_holder() -> None:
    ledger = Ledger(max_attempts=2)
    ledger.hand_out("one", [request("a")])
    assert ledger.settle("two", [answer("a")]) == []
    assert len(ledger.settle("one", [answer("a")])) == 1
    assert ledger.settle("one", [answer("a")]) == []


def test_drop_forgets_everything_under_way() -> None:
    ledger = Ledger(max_attempts=2)
    ledger.hand_out("one", [request("a")])
    ledger.drop()
    assert ledger.num_held_by("one") == 0
    assert ledger.lose("one") == []
    assert ledger.take_returned(5) == []
