"""Engines make room for training GPU by GPU: what they leave are whole GPUs."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from s3ray.generator.scheduling.room import Holder, may_join, num_units, who_leaves


def half(engine: str, gpu: str, num_in_flight: int = 0, *, node: str = "a", is_leaving: bool = False) -> Holder:
    return Holder(engine=engine, node=node, gpu=gpu, num_in_flight=num_in_flight, is_leaving=is_leaving)


def loading(engine: str, node: str = "a") -> Holder:
    """It has not said yet which GPU it shares."""
    return Holder(engine=engine, node=node, is_ready=False)


def test_the_engines_of_one_gpu_leave_together_though_others_have_less_to_do() -> None:
    holders = [half("0", "x", 1), half("1", "y", 2), half("2", "x", 9), half("3", "y", 3)]
    assert who_leaves(holders, 1, 2) == ["1", "3"]


def test_whole_engines_leave_one_by_one_the_idlest_first_and_before_them_those_that_load() -> None:
    holders = [half("0", "", 5), half("1", "", 2), half("2", "", 7), loading("3")]
    assert who_leaves(holders, 3, 1) == ["3"]
    assert who_leaves(holders, 2, 1) == ["3", "1"]


def test_engines_that_leave_already_count_and_take_those_on_their_gpu_with_them() -> None:
    holders = [half("0", "x", 1, is_leaving=True), half("1", "y"), half("2", "x", 9), half("3", "y")]
    assert who_leaves(holders, 1, 2) == ["0", "2"]


def test_engines_that_start_are_taken_to_fill_the_gpus_that_others_share() -> None:
    holders = [half("0", "x"), loading("1"), loading("2"), loading("3")]
    assert who_leaves(holders, 2, 2) == []
    assert may_join(holders[:3], "a", 2, 2)
    assert not may_join(holders, "a", 2, 2)
    assert num_units(holders) == 4, "each of them may be alone on a GPU, so a student waits until they have said where"


def test_no_engine_starts_on_a_gpu_that_is_being_left_nor_where_only_a_whole_one_is_free() -> None:
    holders = [half("0", "x", is_leaving=True), half("1", "y")]
    assert not may_join(holders, "a", 2, 2)
    alone = [half("1", "y")]
    assert may_join(alone, "a", 1, 2)
    assert not may_join(alone, "b", 1, 2)


@given(
    places=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 9)), max_size=18),
    num_allowed=st.integers(0, 6),
)
def test_what_stays_holds_no_more_gpus_than_allowed_and_no_gpu_is_left_by_halves(
    places: list[tuple[str, str, int]], num_allowed: int
) -> None:
    holders = [half(str(number), gpu, num, node=node) for number, (node, gpu, num) in enumerate(places)]
    leaving = set(who_leaves(holders, num_allowed, 3))
    assert num_units([holder for holder in holders if holder.engine not in leaving]) <= num_allowed
    by_gpu = Counter({(holder.node, holder.gpu, holder.engine in leaving) for holder in holders})
    assert all(len({is_leaving for *at, is_leaving in by_gpu if at == [*place]}) == 1 for *place, _ in by_gpu)
    assert num_units(holders) - num_units([h for h in holders if h.engine in leaving]) == min(
        num_allowed, num_units(holders)
    ), "no more leave than must"
