"""A request is with one engine or two, or with none; it ends once, and the other copy is then called back."""

import pytest

from s3ray.generator.scheduling.estimates import Kind
from s3ray.generator.scheduling.ledger import Ledger, LedgerEntry
from s3ray.types import GenerationRequest


def entry(index: int) -> LedgerEntry:
    request = GenerationRequest(id=str(index), index=index, stage="seed", round=0, template="seed", group="g", seed=0)
    return LedgerEntry(request, Kind())


@pytest.fixture
def ledger() -> Ledger:
    """Engine one holds 0, 1 and 2; engine two has a copy of 1."""
    ledger = Ledger()
    entries = [entry(index) for index in range(3)]
    for engine in ("one", "two"):
        ledger.open(engine)
    ledger.assign(ledger.load_of("one"), entries, 0.0)
    ledger.assign(ledger.load_of("two"), entries[1:2], 0.0)
    return ledger


def test_a_copy_counts_once_and_is_a_second_attempt(ledger: Ledger) -> None:
    assert ledger.num_in_flight == 3
    assert (ledger.num_held_by("one"), ledger.num_held_by("two")) == (3, 1)
    copied = ledger.load_of("two").entries[1]
    assert copied.num_attempts == 2


@pytest.mark.parametrize(("first", "other"), [("one", "two"), ("two", "one")])
def test_the_first_answer_ends_a_request_and_cancels_the_other_copy(ledger: Ledger, first: str, other: str) -> None:
    assert ledger.end(first, 1) is not None
    assert ledger.end(other, 1) is None
    assert ledger.load_of(other).cancelled == [1]
    assert ledger.load_of(first).cancelled == []
    assert ledger.num_in_flight == 2


def test_an_answer_counts_only_from_who_holds_the_request(ledger: Ledger) -> None:
    assert ledger.end("two", 0) is None
    assert ledger.end("nobody", 0) is None
    assert ledger.end("one", 0) is not None
    assert ledger.end("one", 0) is None


@pytest.mark.parametrize(("lost", "left"), [("one", "two"), ("two", "one")])
def test_a_copy_lives_on_when_the_other_dies(ledger: Ledger, lost: str, left: str) -> None:
    alive = [each.request.index for each in ledger.close(lost) if each.holder is not None]
    assert alive == [1]
    assert ledger.end(left, 1) is not None


def test_a_lost_engine_gives_back_what_it_held_in_order(ledger: Ledger) -> None:
    assert [each.request.index for each in ledger.close("one")] == [0, 1, 2]
    assert ledger.num_in_flight == 1
    assert ledger.close("one") == []


def test_expected_tokens_are_booked_out_however_a_request_goes(ledger: Ledger) -> None:
    ledger.end("one", 1)
    ledger.release("one", 0)
    assert ledger.load_of("two").num_tokens == 0
    ledger.release("one", 2)
    assert ledger.load_of("one").num_tokens == 0
    assert ledger.num_output_tokens == ledger.num_in_flight == 0


def test_drop_forgets_everything_and_names_the_holders(ledger: Ledger) -> None:
    ledger.close("two")
    ledger.open("two")
    assert ledger.drop() == ["one"]
    assert ledger.num_in_flight == 0
    assert ledger.end("one", 0) is None
