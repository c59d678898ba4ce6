"""Many stages in one source: the most urgent goes first, and every answer finds the stage that asked."""

import pytest

from s3ray.generator.shared_pool import SharedSource, by_stage
from s3ray.tables import table_from_outcomes
from s3ray.types import Outcome, OutcomeStatus
from tests.sources import InsistentSource, make_request


def stage(num: int) -> InsistentSource:
    return InsistentSource([make_request(index) for index in range(num)])


@pytest.fixture
def source() -> SharedSource:
    return SharedSource()


def test_the_most_urgent_stage_is_drawn_from_first_and_the_others_fill_up(source: SharedSource) -> None:
    late = source.join(stage(5), served_task="late", urgency=(0, 2))
    soon = source.join(stage(3), served_task="soon", urgency=(0, 1))
    assert [request.served_task for request in source.take(6)] == ["soon"] * 3 + ["late"] * 3
    now = source.join(stage(1), served_task="now", urgency=(-1, 9))
    assert [request.served_task for request in source.take(6)] == ["now", "late", "late"]
    assert len({late, soon, now}) == 3


def test_answers_find_their_way_back_with_the_index_that_their_stage_gave_them(source: SharedSource) -> None:
    numbers = [source.join(stage(4), served_task="", urgency=(number,)) for number in range(2)]
    requests = source.take(8)
    assert len({request.index for request in requests}) == 8
    outcomes = [
        Outcome(request_id=request.id, index=request.index, status=OutcomeStatus.ACCEPTED) for request in requests[::-1]
    ]
    parts = dict(by_stage(table_from_outcomes(outcomes)))
    assert sorted(parts) == numbers
    assert [part["index"].to_pylist() for part in parts.values()] == [[3, 2, 1, 0]] * 2
    assert all(part.schema == table_from_outcomes([]).schema for part in parts.values())


def test_who_has_left_gives_nothing_more_and_is_withdrawn_once(source: SharedSource) -> None:
    number = source.join(stage(4), served_task="", urgency=(0,))
    taken = source.take(2)
    source.leave(number)
    assert source.take(2) == []
    (withdrawn,) = source.take_withdrawn()
    assert all(request.index in withdrawn for request in taken)
    assert source.take_withdrawn() == []
    other = source.join(stage(4), served_task="", urgency=(0,))
    assert not any(request.index in withdrawn for request in source.take(4))
    assert other != number


def test_it_is_finished_when_it_is_closed_and_not_when_it_is_empty(source: SharedSource) -> None:
    """An empty one waits: a stage may join at any time, and answers may be on their way to one."""
    assert not source.finished
    assert source.is_waiting
    number = source.join(stage(1), served_task="", urgency=(0,))
    assert len(source.take(9)) == 1
    assert source.is_waiting
    source.leave(number)
    source.close()
    assert source.finished
    assert not source.is_waiting
