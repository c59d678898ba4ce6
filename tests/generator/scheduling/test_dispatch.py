"""Who gets what: nothing is lost, nothing ends twice, groups stay together, suspects run alone, none idles at the end.

Engines are stepped by hand. The random interleavings compare the dispatcher with a model of who holds what.
"""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.dispatch import make_work
from benchmarks.schedulers import BatchBarrier, StaticShards
from benchmarks.simulation import EngineShape, Scheduler, Simulation
from s3ray.generator.scheduling.dispatch import Assignment, Dispatcher
from s3ray.types import EngineLimits, EngineStats, GenerationRequest


class Source:
    """A fixed list of requests."""

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self.waiting = list(requests)
        self.finished = False
        self.is_waiting = False

    def take(self, num: int) -> list[GenerationRequest]:
        taken, self.waiting = self.waiting[:num], self.waiting[num:]
        return taken


def request(index: int, group: str | None = None, max_tokens: int | None = None) -> GenerationRequest:
    return GenerationRequest(
        id=str(index),
        index=index,
        stage="seed",
        round=0,
        template="seed",
        group=group or str(index),
        seed=0,
        max_tokens=max_tokens,
    )


def requests(num: int) -> list[GenerationRequest]:
    return [request(index) for index in range(num)]


def limits(num_seqs: int = 4, num_kv_tokens: int = 0) -> EngineLimits:
    return EngineLimits(
        max_num_seqs=num_seqs,
        max_num_batched_tokens=8192,
        max_model_len=2048,
        num_kv_tokens=num_kv_tokens,
        dtype="",
        device="",
    )


def pool(*engines: str, num_seqs: int = 4) -> Dispatcher:
    dispatcher = Dispatcher()
    for engine in engines:
        dispatcher.join(engine, limits(num_seqs))
    return dispatcher


def indexes(assignment: Assignment) -> list[int]:
    return [each.index for each, _ in assignment.requests]


def settle(
    dispatcher: Dispatcher, engine: str, answered: Sequence[int], timed_out: Sequence[int] = (), output: int = 50
) -> list[bool]:
    num = len(answered)
    verdicts = dispatcher.settle(
        engine, answered, prompt_tokens=[100] * num, output_tokens=[output] * num, timed_out=timed_out
    )
    return [True] * num if verdicts is None else verdicts


# -- how much ------------------------------------------------------------------------------------------------------


def test_an_engine_gets_what_it_decodes_at_once_and_a_little_more() -> None:
    dispatcher, source = pool("one", num_seqs=8), Source(requests(5000))
    assert indexes(dispatcher.assign("one", source)) == list(range(10))
    assert indexes(dispatcher.assign("one", source)) == []
    settle(dispatcher, "one", [3, 4])
    assert indexes(dispatcher.assign("one", source)) == [10, 11]


def test_requests_are_drawn_ahead_but_not_without_bound() -> None:
    dispatcher, source = pool("one", num_seqs=8), Source(requests(5000))
    dispatcher.assign("one", source)
    assert 5000 - len(source.waiting) < 1100


def test_tokens_bound_what_an_engine_holds_and_one_always_fits() -> None:
    dispatcher = Dispatcher()
    dispatcher.join("one", limits(num_seqs=64, num_kv_tokens=1000))
    source = Source([request(index, max_tokens=200) for index in range(5000)])
    assert len(dispatcher.assign("one", source).requests) == 4  # 1250 / (256 + 100), the one at the edge included
    dispatcher.join("small", limits(num_seqs=64, num_kv_tokens=16))
    assert len(dispatcher.assign("small", source).requests) == 1


def test_tokens_bound_what_an_engine_gets_of_one_group_too() -> None:
    dispatcher = Dispatcher()
    dispatcher.join("one", limits(num_seqs=64, num_kv_tokens=1000))
    source = Source([request(index, group="g", max_tokens=200) for index in range(5000)])
    assert indexes(dispatcher.assign("one", source)) == [0, 1, 2, 3]
    settle(dispatcher, "one", [1])
    assert indexes(dispatcher.assign("one", source)) == [4]


def test_lengths_are_learned_from_answers() -> None:
    dispatcher = Dispatcher()
    dispatcher.join("one", limits(num_seqs=1000, num_kv_tokens=4000))
    source = Source(requests(50_000))
    before = indexes(dispatcher.assign("one", source))
    for _ in range(100):
        settle(dispatcher, "one", before, output=10)
        before = indexes(dispatcher.assign("one", source))
    assert len(before) == pytest.approx(5000 / 110, abs=5)


def test_capacity_that_an_engine_reports_replaces_its_limit() -> None:
    dispatcher, source = pool("one", num_seqs=100), Source(requests(5000))
    dispatcher.report("one", EngineStats(capacity=8))
    assert len(dispatcher.assign("one", source).requests) == 10


def test_a_short_stage_keeps_all_engines_busy() -> None:
    dispatcher, source = pool("one", "two", "three", num_seqs=100), Source(requests(30))
    assert [len(dispatcher.assign(engine, source).requests) for engine in ("one", "two", "three")] == [10, 10, 10]


def test_an_engine_at_half_speed_gets_half_as_much_of_the_end() -> None:
    dispatcher = pool("fast", "slow", num_seqs=40)
    source = Source(requests(5000))
    for engine, tokens in (("fast", 8000), ("slow", 4000)):
        dispatcher.assign(engine, source)
        dispatcher.report(engine, EngineStats(num_running=40, num_output_tokens=tokens, busy_s=5))
    dispatcher.drop()
    short = Source(requests(60))
    assert len(dispatcher.assign("fast", short).requests) == 40
    assert len(dispatcher.assign("slow", short).requests) == 20


# -- which ---------------------------------------------------------------------------------------------------------


def test_a_group_that_is_scattered_in_the_source_goes_to_one_engine() -> None:
    dispatcher = pool("one", "two", num_seqs=16)
    num_groups = 32
    source = Source([request(index, group=f"context {index % num_groups}") for index in range(4096)])
    first, second = dispatcher.assign("one", source), dispatcher.assign("two", source)
    groups = [{each.group for each, _ in assignment.requests} for assignment in (first, second)]
    assert len(groups[0] | groups[1]) < 4
    assert not groups[0] & groups[1] or len(groups[0]) == 1


def test_what_is_left_of_a_small_group_goes_along() -> None:
    dispatcher = pool("one", num_seqs=8)
    source = Source([request(index, group=str(index // 4)) for index in range(4000)])
    assert indexes(dispatcher.assign("one", source)) == list(range(12))  # room for ten, the third group is not split


def test_the_longest_go_first_towards_the_end() -> None:
    dispatcher = pool("one", num_seqs=4)
    source = Source(
        [request(index, max_tokens=limit) for index, limit in enumerate((10, 20, 400, 30, 800, 40, 50, 60))]
    )
    assert indexes(dispatcher.assign("one", source))[:2] == [4, 2]


def test_what_waits_in_an_engine_is_short_where_all_its_slots_may_have_long_ones() -> None:
    dispatcher = pool("one", num_seqs=4)
    source = Source([request(index, max_tokens=100 * (index + 1)) for index in range(16)])
    assert indexes(dispatcher.assign("one", source)) == [*sorted(range(12, 16)), 0]


def test_the_longest_are_known_before_all_engines_have_joined() -> None:
    dispatcher = Dispatcher(num_engines=100)
    dispatcher.join("one", limits(16))
    source = Source([request(index, max_tokens=400 if index == 5999 else 40) for index in range(6000)])
    assert indexes(dispatcher.assign("one", source))[0] == 5999


def test_a_source_that_gives_more_after_all_is_back_in_order() -> None:
    dispatcher, source = pool("one", num_seqs=8), Source(requests(4))
    given = indexes(dispatcher.assign("one", source))
    assert given == [0, 1, 2, 3]
    source.waiting = [request(index, max_tokens=index % 7 + 10) for index in range(4, 6000)]
    for _ in range(200):
        settle(dispatcher, "one", given)
        given = indexes(dispatcher.assign("one", source))
    assert len(given) == 10
    assert given == sorted(given)


def test_all_requests_leave_in_order_where_no_length_says_otherwise() -> None:
    dispatcher, source = (
        pool("one", num_seqs=8),
        Source([request(index, group=str(index // 100)) for index in range(3000)]),
    )
    seen: list[int] = []
    while not dispatcher.is_empty or source.waiting:
        given = indexes(dispatcher.assign("one", source))
        seen += given
        settle(dispatcher, "one", given)
    assert seen == list(range(3000))


def measured_pool() -> Dispatcher:
    """Two engines of equal speed and one that is slow."""
    dispatcher = pool("fast", "other", "slow", num_seqs=8)
    warm_up = Source(requests(5000))
    for engine, tokens in (("fast", 8000), ("other", 8000), ("slow", 3000)):
        dispatcher.assign(engine, warm_up)
        dispatcher.report(engine, EngineStats(num_running=8, num_output_tokens=tokens, busy_s=5))
    dispatcher.drop()
    return dispatcher


def test_a_slow_engine_leaves_long_requests_to_others_and_they_keep_their_place() -> None:
    dispatcher = measured_pool()
    source = Source([request(index, max_tokens=4000 if 11 <= index < 20 else 40) for index in range(5000)])
    held = indexes(dispatcher.assign("slow", source))
    assert held == list(range(10))
    settle(dispatcher, "slow", held[:4])
    assert indexes(dispatcher.assign("slow", source)) == [10, 20, 21, 22]
    assert indexes(dispatcher.assign("fast", source)) == [*range(11, 20), 23]
    dispatcher.leave("fast", is_blamed=False)
    settle(dispatcher, "slow", held[4:6])
    assert indexes(dispatcher.assign("slow", source)) == [23, 24]
    assert indexes(dispatcher.assign("other", source)) == [*range(11, 20), 25]


def test_an_engine_that_turns_out_slow_gives_up_what_others_end_sooner() -> None:
    dispatcher = pool("fast", "slow", num_seqs=8)
    source = Source([request(index, max_tokens=2000 if index < 16 else 100) for index in range(200)])
    held = indexes(dispatcher.assign("slow", source))
    assert indexes(dispatcher.assign("fast", source))[:8] == list(range(8, 16))
    for engine, tokens in (("fast", 800), ("slow", 240)):
        dispatcher.report(engine, EngineStats(num_running=8, num_output_tokens=tokens, busy_s=2))
    assignment = dispatcher.assign("slow", source)
    assert sorted(assignment.cancel) == held[:8] == list(range(8))
    assert not {each.index for each, _ in assignment.requests} & set(range(16))
    assert settle(dispatcher, "slow", [0]) == [False]
    settle(dispatcher, "fast", [8, 9])
    again = dispatcher.assign("fast", source).requests
    assert [(each.index, attempt) for each, attempt in again] == [(0, 2), (1, 2)]


def test_a_slow_engine_keeps_what_it_has_nearly_written() -> None:
    dispatcher = pool("fast", "slow", num_seqs=8)
    source = Source([request(index, max_tokens=2000 if index < 16 else 100) for index in range(200)])
    for engine in ("slow", "fast"):
        dispatcher.assign(engine, source)
    for engine, tokens in (("fast", 8 * 900), ("slow", 8 * 600)):
        dispatcher.report(engine, EngineStats(num_running=8, num_output_tokens=tokens, busy_s=10))
    assert dispatcher.assign("slow", source).cancel == []


def test_a_slow_engine_gets_no_copies() -> None:
    dispatcher, source = measured_pool(), Source(requests(1))
    assert indexes(dispatcher.assign("fast", source)) == [0]
    assert indexes(dispatcher.assign("slow", source)) == []
    assert indexes(dispatcher.assign("other", source)) == [0]


# -- copies --------------------------------------------------------------------------------------------------------


def test_an_idle_engine_copies_what_others_hold_and_the_first_answer_wins() -> None:
    dispatcher, source = pool("one", "two", num_seqs=4), Source(requests(4))
    held = [indexes(dispatcher.assign(engine, source)) for engine in ("one", "two")]
    assert sorted(held[0] + held[1]) == [0, 1, 2, 3]
    assert settle(dispatcher, "two", held[1]) == [True, True]
    (copy,) = dispatcher.assign("two", source).requests
    assert copy[0].index in held[0]
    assert copy[1] == 2
    assert settle(dispatcher, "two", [copy[0].index]) == [True]
    assert dispatcher.assign("one", source) == Assignment(requests=[], cancel=[copy[0].index])
    assert settle(dispatcher, "one", held[0]) == [index != copy[0].index for index in held[0]]
    assert dispatcher.is_empty


def test_a_request_has_one_copy_at_most() -> None:
    dispatcher, source = pool("one", "two", "three"), Source(requests(1))
    assert indexes(dispatcher.assign("one", source)) == [0]
    assert indexes(dispatcher.assign("two", source)) == [0]
    assert indexes(dispatcher.assign("three", source)) == []


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_what_a_dead_engine_held_goes_to_others_with_the_next_attempt() -> None:
    dispatcher, source = pool("one", "two", num_seqs=4), Source(requests(5000))
    lost = indexes(dispatcher.assign("one", source))
    loss = dispatcher.leave("one", is_blamed=True)
    assert (loss.num_in_flight, loss.poisoned) == (5, [])
    again = dispatcher.assign("two", source).requests
    assert [(each.index, attempt) for each, attempt in again] == [(index, 2) for index in lost]


def test_a_timeout_is_asked_once_more_elsewhere_and_the_second_is_final() -> None:
    dispatcher, source = pool("one", "two"), Source(requests(5000))
    first = indexes(dispatcher.assign("one", source))[0]
    assert settle(dispatcher, "one", [first], timed_out=[first]) == [False]
    assert first not in indexes(dispatcher.assign("one", source))
    assert first in indexes(dispatcher.assign("two", source))
    assert settle(dispatcher, "two", [first], timed_out=[first]) == [True]


def test_the_only_engine_gets_its_timeout_again() -> None:
    dispatcher, source = pool("one"), Source(requests(1))
    dispatcher.assign("one", source)
    assert settle(dispatcher, "one", [0], timed_out=[0]) == [False]
    assert dispatcher.assign("one", source).requests[0][1] == 2


def test_a_slow_engine_takes_what_timed_out_at_the_only_fast_one() -> None:
    dispatcher, source = measured_pool(), Source(requests(1))
    dispatcher.leave("other", is_blamed=False)
    assert indexes(dispatcher.assign("fast", source)) == [0]
    assert settle(dispatcher, "fast", [0], timed_out=[0]) == [False]
    assert indexes(dispatcher.assign("fast", source)) == []
    assert indexes(dispatcher.assign("slow", source)) == [0]


def test_what_an_engine_lost_on_the_way_waits_again_and_the_engine_is_still_known() -> None:
    dispatcher, source = measured_pool(), Source(requests(30))
    held = indexes(dispatcher.assign("slow", source))
    assert len(held) == 5, "its share of the end, as slow as it is"
    dispatcher.take_back("slow")
    assert dispatcher.num_in_flight("slow") == 0
    assert len(dispatcher.assign("slow", source).requests) == 5
    assert set(held) < set(indexes(dispatcher.assign("fast", source)))


def test_an_engine_is_not_taken_for_slow_because_it_ran_suspects_alone() -> None:
    dispatcher, source = pool("one", "two", num_seqs=32), Source(requests(5000))
    held = indexes(dispatcher.assign("two", source))
    for _ in range(2):
        dispatcher.assign("one", source)
        dispatcher.leave("one", is_blamed=True)
        dispatcher.join("one", limits(32))
    settle(dispatcher, "two", held)
    for second in range(1, 21):
        (suspect,) = indexes(dispatcher.assign("two", source))
        settle(dispatcher, "two", [suspect])
        dispatcher.report("two", EngineStats(num_output_tokens=20 * second, busy_s=second))
    dispatcher.drop()
    dispatcher.assign("one", Source(requests(5000)))
    dispatcher.report("one", EngineStats(num_running=32, num_output_tokens=3200, busy_s=5))
    dispatcher.drop()
    short = Source(requests(60))
    assert [len(dispatcher.assign(engine, short).requests) for engine in ("one", "two")] == [30, 30]


def die(dispatcher: Dispatcher, engine: str) -> list[int]:
    poisoned = dispatcher.leave(engine, is_blamed=True).poisoned
    dispatcher.join(engine, limits(4))
    return [entry.request.index for entry in poisoned]


@pytest.mark.parametrize("poison", [0, 3, 4, 39])
def test_the_only_engine_finds_the_poison_and_answers_the_rest(poison: int) -> None:
    dispatcher, source = pool("one"), Source(requests(40))
    ended: list[int] = []
    for _ in range(200):
        held = indexes(dispatcher.assign("one", source))
        if poison in held:
            ended += die(dispatcher, "one")
        else:
            ended += [index for index, is_end in zip(held, settle(dispatcher, "one", held), strict=True) if is_end]
    assert sorted(ended) == list(range(40))
    assert dispatcher.is_empty


def test_others_go_on_while_one_runs_the_suspects() -> None:
    dispatcher, source = pool("one", "two"), Source(requests(5000))
    at_two = indexes(dispatcher.assign("two", source))
    for _ in range(2):
        dispatcher.assign("one", source)
        assert die(dispatcher, "one") == []
    for _ in range(5):
        (suspect,) = indexes(dispatcher.assign("one", source))
        settle(dispatcher, "two", at_two)
        at_two = indexes(dispatcher.assign("two", source))
        assert len(at_two) == 5
        assert indexes(dispatcher.assign("one", source)) == []
        settle(dispatcher, "one", [suspect])
    assert len(dispatcher.assign("one", source).requests) == 5


def test_a_suspect_is_no_poison_if_its_node_is_lost() -> None:
    dispatcher, source = pool("one"), Source(requests(1))
    for is_blamed in (True, True, False, True):
        assert indexes(dispatcher.assign("one", source)) == [0]
        assert dispatcher.leave("one", is_blamed=is_blamed).poisoned == []
        dispatcher.join("one", limits())
    assert indexes(dispatcher.assign("one", source)) == [0]
    (poison,) = dispatcher.leave("one", is_blamed=True).poisoned
    assert (poison.request.index, poison.num_deaths, poison.num_deaths_alone, poison.num_attempts) == (0, 4, 2, 5)


def test_a_suspect_that_lives_on_as_a_copy_is_not_copied_again() -> None:
    dispatcher, source = pool("one", "two", "three"), Source(requests(1))
    dispatcher.assign("one", source)
    assert die(dispatcher, "one") == []
    assert [indexes(dispatcher.assign(engine, source)) for engine in ("one", "two")] == [[0], [0]]
    assert die(dispatcher, "one") == []
    assert indexes(dispatcher.assign("three", source)) == []
    assert settle(dispatcher, "two", [0]) == [True]


def test_a_suspect_waits_until_its_engine_has_given_up_a_copy() -> None:
    dispatcher, source = pool("one", "two"), Source(requests(1))
    dispatcher.assign("one", source)
    dispatcher.assign("two", source)
    settle(dispatcher, "one", [0])
    source.waiting = [request(1)]
    for _ in range(2):
        assert indexes(dispatcher.assign("one", source)) == [1]
        die(dispatcher, "one")
    assert dispatcher.assign("two", source) == Assignment(requests=[], cancel=[0])
    assert indexes(dispatcher.assign("two", source)) == [1]


def test_requests_of_a_lost_node_are_not_suspected() -> None:
    dispatcher, source = pool("one"), Source(requests(5))
    for _ in range(5):
        assert len(dispatcher.assign("one", source).requests) == 5
        assert dispatcher.leave("one", is_blamed=False).poisoned == []
        dispatcher.join("one", limits(4))


def test_drop_forgets_requests_but_not_engines() -> None:
    dispatcher = pool("one", "two")
    dispatcher.assign("one", Source(requests(5000)))
    assert dispatcher.drop() == ["one"]
    assert dispatcher.is_empty
    assert settle(dispatcher, "one", [0]) == [False]
    assert len(dispatcher.assign("one", Source(requests(3))).requests) == 2


def test_a_stage_that_needs_no_more_leaves_the_requests_of_others_where_they_are() -> None:
    dispatcher, source = pool("one", num_seqs=8), Source(requests(30))
    held = indexes(dispatcher.assign("one", source))
    dispatcher.withdraw(range(5, 20))
    assignment = dispatcher.assign("one", source)
    assert sorted(assignment.cancel) == [index for index in held if 5 <= index < 20]
    assert indexes(assignment) == [20, 21, 22, 23, 24]
    assert settle(dispatcher, "one", [4, 5]) == [True, False]


def test_an_engine_joins_once() -> None:
    with pytest.raises(ValueError, match="one joins twice"):
        pool("one", "one")


# -- any order of events -------------------------------------------------------------------------------------------

ENGINES = ("one", "two", "three")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["assign", "assign", "answer", "timeout", "die", "vanish", "withdraw", "report", "crawl"]),
        st.sampled_from(ENGINES),
    ),
    max_size=80,
)


class Model:
    """Engines that do what they are told, and who holds what by the rules alone."""

    def __init__(self, num_requests: int) -> None:
        self.dispatcher = Dispatcher()
        mixed = [request(index, group=str(index % 5), max_tokens=10 + index * 7 % 90) for index in range(num_requests)]
        self.source = Source(mixed)
        self.held: dict[str, set[int]] = {}
        self.working: dict[str, list[int]] = {}  # what an engine works on, cancelled or not
        self.busy_s: Counter[str] = Counter()
        self.alone: dict[str, int] = {}
        self.deaths: Counter[int] = Counter()
        self.deaths_alone: Counter[int] = Counter()
        self.timeouts: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.num_requests = num_requests
        self.num_withdrawn = 0

    def join(self, engine: str) -> None:
        if engine not in self.held:
            self.dispatcher.join(engine, limits(3))
            self.held[engine], self.working[engine] = set(), []

    def assign(self, engine: str) -> None:
        self.join(engine)
        assignment = self.dispatcher.assign(engine, self.source)
        self.working[engine] = [index for index in self.working[engine] if index not in assignment.cancel]
        self.held[engine].difference_update(assignment.cancel)  # a slow engine gives up what others end sooner
        given = indexes(assignment)
        if given:
            assert engine not in self.alone, "a suspect got company"
        for index in given:
            assert not self.ended[index], "a request was given out after its end"
            if self.deaths[index] >= 2:
                assert given == [index], "a suspect was given out with others"
                assert not self.working[engine], "a suspect was given out to an engine at work"
                self.alone[engine] = index
            self.held[engine].add(index)
            self.working[engine].append(index)
            assert sum(index in held for held in self.held.values()) <= 2
        assert self.dispatcher.num_in_flight(engine) == len(self.held[engine])

    def answer(self, engine: str, *, is_timeout: bool = False) -> None:
        answered = self.working.get(engine, [])[:2]
        if not answered:
            return
        del self.working[engine][:2]
        expected = []
        for index in answered:
            is_held = index in self.held[engine]
            self.timeouts[index] += is_timeout and is_held
            is_end = is_held and (not is_timeout or self.timeouts[index] >= 2)
            expected.append(is_end)
            if is_end:
                self.end(index)
            elif is_held:
                self.held[engine].discard(index)
            if self.alone.get(engine) == index:
                del self.alone[engine]
        assert settle(self.dispatcher, engine, answered, answered if is_timeout else ()) == expected

    def report(self, engine: str, num_tokens_per_s: int) -> None:
        """Speeds differ by so much that ``crawl`` makes an engine slow."""
        self.join(engine)
        self.busy_s[engine] += 1
        seconds = self.busy_s[engine]
        stats = EngineStats(num_running=3, num_output_tokens=num_tokens_per_s * seconds, busy_s=seconds)
        self.dispatcher.report(engine, stats)

    def lose(self, engine: str, *, is_blamed: bool) -> None:
        held = self.held.pop(engine, set())
        del self.busy_s[engine]
        self.working.pop(engine, None)
        suspect = self.alone.pop(engine, None)
        loss = self.dispatcher.leave(engine, is_blamed=is_blamed)
        assert loss.num_in_flight == len(held)
        poisoned = [entry.request.index for entry in loss.poisoned]
        if is_blamed and suspect is not None:
            self.deaths_alone[suspect] += 1
        is_poison = is_blamed and suspect is not None and self.deaths_alone[suspect] >= 2
        assert poisoned == ([suspect] if is_poison else [])
        for index in held:
            self.deaths[index] += is_blamed
        for index in poisoned:
            self.end(index)

    def withdraw(self) -> None:
        """Every fifth part of the requests is a stage of its own, and the next one needs no more."""
        gone = range(self.num_withdrawn * 8, (self.num_withdrawn + 1) * 8)
        self.num_withdrawn += 1
        self.source.waiting = [each for each in self.source.waiting if each.index not in gone]
        self.dispatcher.withdraw(gone)
        for index in gone:
            if index < self.num_requests and not self.ended[index]:
                self.end(index)
        self.alone = {engine: index for engine, index in self.alone.items() if index not in gone}

    def end(self, index: int) -> None:
        self.ended[index] += 1
        for held in self.held.values():
            held.discard(index)

    def finish(self) -> None:
        """Everybody is well from here on."""
        for _ in range(400):
            for engine in ENGINES:
                self.assign(engine)
                self.answer(engine)
            if self.dispatcher.is_empty and not self.source.waiting:
                return
        raise AssertionError("it does not end")


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, num_requests=st.integers(0, 40))
def test_every_request_ends_exactly_once(steps: list[tuple[str, str]], num_requests: int) -> None:
    model = Model(num_requests)
    for action, engine in steps:
        if action == "assign":
            model.assign(engine)
        elif action in ("answer", "timeout"):
            model.answer(engine, is_timeout=action == "timeout")
        elif action == "withdraw":
            model.withdraw()
        elif action in ("report", "crawl"):
            model.report(engine, 1 if action == "crawl" else 30)
        else:
            model.lose(engine, is_blamed=action == "die")
    model.finish()
    assert model.ended == Counter(range(num_requests))


# -- against the alternatives --------------------------------------------------------------------------------------


def test_pulling_beats_shards_and_barriers_where_an_engine_is_slow() -> None:
    def makespan_s(scheduler: Scheduler) -> float:
        shapes = [EngineShape(num_slots=8), EngineShape(num_slots=8), EngineShape(num_slots=8, tokens_per_s=20.0)]
        return Simulation(scheduler, shapes, make_work(2000, seed=0)).run().makespan_s

    pull = makespan_s(Dispatcher())
    assert pull < 0.8 * makespan_s(StaticShards(3))
    assert pull < 0.9 * makespan_s(BatchBarrier(32))


def test_a_short_stage_takes_little_longer_than_its_longest_request() -> None:
    """A hundred requests an engine, of which a tenth is slow; nothing is known of any at the start."""
    shapes = [EngineShape(num_slots=32, tokens_per_s=20.0 if number % 10 == 3 else 40.0) for number in range(50)]
    assert Simulation(Dispatcher(50), shapes, make_work(5000, seed=0)).run().efficiency > 0.8


def test_pulling_comes_near_the_ideal_although_engines_die() -> None:
    """The simulation itself raises if a request ends twice, and does not end if one is lost."""
    shapes = [EngineShape(num_slots=4, dies_at=10.0 * number if number in (3, 5) else None) for number in range(40)]
    result = Simulation(Dispatcher(), shapes, make_work(5000, seed=1)).run()
    assert result.num_attempts > 5000
    assert result.efficiency > 0.9
