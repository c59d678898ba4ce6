"""A stage gives the same examples whatever the order in which outcomes arrive, and accounts for every request."""

import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.errors import StoreError
from s3ray.rounds.journal import Tally
from s3ray.rounds.stage import Ending, Stage
from s3ray.strategies.base import ANY, StagePlan
from s3ray.tasks.task import STILL_THINKING
from s3ray.types import NOT_YET, GenerationRequest, Outcome, OutcomeStatus, Rejection, RejectionReason


def request(index: int, label: str = "a") -> GenerationRequest:
    return GenerationRequest(
        id=f"r{index}", index=index, stage="seed", round=0, template="seed", label=label, group="g", seed=index
    )


def endless(labels: str = "a") -> Iterator[GenerationRequest]:
    index = 0
    while True:
        yield request(index, labels[index % len(labels)])
        index += 1


def outcome(asked: GenerationRequest, usable: bool = True) -> Outcome:
    status = OutcomeStatus.ACCEPTED if usable else OutcomeStatus.REJECTED
    return Outcome(request_id=asked.id, index=asked.index, status=status, reason="" if usable else "refusal", text="x")


class KeepUnless:
    """Keeps everything except the indices it is told; remembers the order in which it was asked."""

    def __init__(self, refused: set[int] | None = None) -> None:
        self.refused = refused or set()
        self.kept: list[int] = []

    def expect(self, coming: Sequence[tuple[GenerationRequest, Outcome]]) -> None:
        pass

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        if request.index in self.refused:
            return Rejection(reason=RejectionReason.DUPLICATE)
        self.kept.append(request.index)
        return None


def unbooked(ending: Ending) -> None:
    """For tests that do not look at the journal."""


def run(
    stage: Stage, unusable: set[int], draw: random.Random, num_at_once: int, num_outcomes: int = 10_000
) -> list[Outcome]:
    """Answer in any order until the stage is finished or has so many outcomes; returns them as they were settled."""
    in_flight: list[GenerationRequest] = []
    settled: list[Outcome] = []
    while not stage.finished and len(settled) < num_outcomes:
        in_flight += stage.take(max(0, num_at_once - len(in_flight)))
        if stage.finished:
            break
        assert in_flight, "an unfinished stage must have something under way"
        asked = in_flight.pop(draw.randrange(len(in_flight)))
        settled.append(outcome(asked, asked.index not in unusable))
        stage.settle(settled[-1:])
    return settled


@settings(deadline=None)
@given(
    unusable=st.sets(st.integers(0, 40), max_size=20),
    refused=st.sets(st.integers(0, 40), max_size=10),
    seed=st.integers(0, 1000),
    num_at_once=st.integers(1, 30),
)
def test_kept_examples_do_not_depend_on_arrival(
    unusable: set[int], refused: set[int], seed: int, num_at_once: int
) -> None:
    kept = []
    for draw, width in ((random.Random(0), 1), (random.Random(seed), num_at_once)):
        judge = KeepUnless(refused)
        plan = StagePlan(name="seed", requests=endless("ab"), quota={"a": 7, "b": 5}, max_requests=200)
        verdicts: list[Ending] = []
        stage = Stage(plan, judge, verdicts.append)
        run(stage, unusable, draw, width)
        assert stage.num_accepted == 12
        assert stage.missing == {}
        assert len({ending.request.id for ending in verdicts}) == len(verdicts)
        kept.append(judge.kept)
    assert kept[0] == kept[1]


@pytest.mark.parametrize("num_known", [0, 3, 10, 60])
def test_a_resumed_stage_ends_as_an_undisturbed_one(num_known: int) -> None:
    verdicts: list[Ending] = []

    def stage_with(record: Callable[[Ending], None]) -> tuple[Stage, KeepUnless]:
        judge = KeepUnless({4, 9})
        plan = StagePlan(name="seed", requests=endless("ab"), quota={"a": 10, "b": 10}, max_requests=200)
        return Stage(plan, judge, record), judge

    undisturbed, whole = stage_with(unbooked)
    run(undisturbed, {2, 3}, random.Random(1), 8)
    known = [outcome(request(index, "ab"[index % 2]), index not in {2, 3}) for index in range(num_known)]
    resumed, again = stage_with(verdicts.append)
    resumed.replay(known)
    run(resumed, {2, 3}, random.Random(2), 5)
    assert again.kept == whole.kept
    ended = {ending.request.id for ending in verdicts}
    assert {item.request_id for item in known} <= ended, "an outcome on disk was lost"


@settings(deadline=None)
@given(
    unusable=st.sets(st.integers(0, 60), max_size=40),
    seed=st.integers(0, 1000),
    width=st.integers(1, 20),
    lives=st.lists(st.integers(0, 25), max_size=3),
)
def test_a_stage_that_dies_again_and_again_is_gone_on_from_its_journal(
    unusable: set[int], seed: int, width: int, lives: list[int]
) -> None:
    def fresh(record: Callable[[Ending], None]) -> tuple[Stage, KeepUnless]:
        judge = KeepUnless({7, 8})
        plan = StagePlan(name="seed", requests=endless("aab"), quota={"a": 6, "b": 9}, max_requests=400)
        return Stage(plan, judge, record), judge

    undisturbed, whole = fresh(unbooked)
    run(undisturbed, unusable, random.Random(0), 1)
    journal: list[Outcome] = []
    judge, verdicts = KeepUnless(), list[Ending]()
    for place, num in enumerate([*lives, 10_000]):
        verdicts = []
        stage, judge = fresh(verdicts.append)
        stage.replay(journal)
        journal += run(stage, unusable, random.Random(seed + place), width, num)
        assert judge.kept == whole.kept[: len(judge.kept)], "what is kept never depends on where it was cut"
    assert judge.kept == whole.kept
    ended = [ending.request.id for ending in verdicts]
    assert sorted(ended) == sorted(item.request_id for item in journal), "every outcome on disk is booked, once"


def test_outcomes_of_strangers_are_refused() -> None:
    plan = StagePlan(name="seed", requests=endless(), quota={"a": 4}, max_requests=50)
    stranger = Outcome(request_id="stranger", index=1, status=OutcomeStatus.ACCEPTED, text="x")
    with pytest.raises(StoreError, match="never makes"):
        Stage(plan, KeepUnless(), unbooked).replay([outcome(request(0)), stranger])


def test_known_requests_are_not_sent_again() -> None:
    plan = StagePlan(name="seed", requests=endless(), quota={"a": 4}, max_requests=50)
    stage = Stage(plan, KeepUnless(), unbooked)
    stage.replay([outcome(request(0)), outcome(request(2))])
    sent = [asked.id for asked in stage.take(10)]
    assert sent[:2] == ["r1", "r3"]
    assert not {"r0", "r2"} & set(sent)


def test_without_a_quota_every_request_is_sent_once() -> None:
    plan = StagePlan(name="extrapolate", requests=iter([request(index) for index in range(5)]))
    verdicts: list[Ending] = []
    stage = Stage(plan, KeepUnless(), verdicts.append)
    taken = stage.take(3)
    stage.settle([outcome(asked) for asked in taken])
    taken = stage.take(9)
    assert [asked.index for asked in taken] == [3, 4]
    stage.settle([outcome(asked, usable=False) for asked in taken])
    assert stage.take(1) == []
    assert stage.finished
    assert (len(verdicts), stage.num_accepted) == (5, 3)


def test_an_empty_stage_is_finished_at_once() -> None:
    stage = Stage(StagePlan(name="extrapolate", requests=iter(())), KeepUnless(), unbooked)
    assert stage.take(4) == []
    assert stage.finished


def test_a_label_that_starves_is_named() -> None:
    judge = KeepUnless({index for index in range(100) if index % 2})
    plan = StagePlan(name="seed", requests=endless("ab"), quota={"a": 3, "b": 3}, max_requests=20)
    stage = Stage(plan, judge, unbooked)
    run(stage, set(), random.Random(0), 6)
    assert stage.missing == {"b": 3}


def test_a_starving_label_is_named_while_there_is_time() -> None:
    judge = KeepUnless({index for index in range(1000) if index % 2})
    plan = StagePlan(name="seed", requests=endless("ab"), quota={"a": 100, "b": 100}, max_requests=1600)
    stage = Stage(plan, judge, unbooked)
    run(stage, set(), random.Random(0), 6, num_outcomes=100)
    assert not stage.finished
    assert stage.starving == ["b"]


def test_a_label_that_is_full_does_not_starve() -> None:
    plan = StagePlan(name="seed", requests=endless("ab"), quota={"a": 20, "b": 20}, max_requests=41)
    stage = Stage(plan, KeepUnless({index for index in range(1000) if index % 2}), unbooked)
    stage.settle(outcome(sent) for sent in stage.take(41))
    assert stage.missing == {"b": 20}
    assert stage.starving == ["b"]


def test_no_more_is_asked_for_than_the_yield_calls_for() -> None:
    plan = StagePlan(name="seed", requests=endless(), quota={ANY: 10}, max_requests=1000)
    stage = Stage(plan, KeepUnless(), unbooked)
    assert len(stage.take(500)) <= 12


def test_an_outcome_settles_once() -> None:
    plan = StagePlan(name="seed", requests=endless(), quota={"a": 4}, max_requests=50)
    stage = Stage(plan, KeepUnless(), unbooked)
    first, *_ = stage.take(2)
    stage.settle([outcome(first)])
    with pytest.raises(KeyError):
        stage.settle([outcome(first)])


def test_a_stage_whose_requests_come_later_waits_and_is_not_over() -> None:
    come: list[GenerationRequest | None] = []

    def requests() -> Iterator[GenerationRequest]:
        while True:
            found = come.pop(0) if come else NOT_YET
            if found is None:
                return
            yield found

    judge = KeepUnless()
    stage = Stage(StagePlan(name="extrapolate", requests=requests()), judge, unbooked)
    assert (stage.take(3), stage.finished, stage.is_waiting) == ([], False, True)
    come.append(request(0))
    (first,) = stage.take(3)
    stage.settle([outcome(first)])
    assert (stage.take(3), stage.finished, stage.is_waiting) == ([], False, True)
    come += [request(1), None]
    (second,) = stage.take(3)
    assert not stage.is_waiting
    stage.settle([outcome(second)])
    stage.take(1)
    assert stage.finished
    assert judge.kept == [0, 1]


def test_answers_that_were_cut_within_thoughts_are_counted_apart_from_others_that_were_cut() -> None:
    tally = Tally()
    for index, detail in enumerate([STILL_THINKING, "cut after 9 words", STILL_THINKING]):
        asked = request(index)
        status, reason = OutcomeStatus.REJECTED, RejectionReason.TRUNCATED.value
        cut = outcome(asked)._replace(status=status, reason=reason, detail=detail)
        tally.add(Ending(request=asked, outcome=cut, status=status, reason=reason, detail=detail))
    assert (tally.thinking, tally.rejected) == (2, {"truncated": 3})
