"""What single stages ask for, without a driver."""

from collections import Counter
from typing import Any

import pytest

from s3ray.config.job import PlusConfig, StrategyConfig
from s3ray.strategies import STRATEGIES, make_strategy
from s3ray.strategies.base import TrainingSet
from s3ray.tasks import Task
from tests.strategies.given import ADVERSARIAL, NOTES, QNLI, REASONS, REVIEWS, context, first, plans


def test_s3_seeds_with_k_reasons_of_the_requested_label() -> None:
    (plan,) = plans("s3", context(REVIEWS, notes={"reasons": REASONS}), seed_examples=10, reasons_per_prompt=3)
    assert plan.quota == {"negative": 5, "positive": 5}
    for request in first(plan, 20):
        assert request.label is not None
        assert len(set(request.reasons)) == 3
        assert set(request.reasons) <= set(REASONS[request.label])
        assert request.parent is None


def test_reasons_are_asked_for_where_the_task_has_a_prompt() -> None:
    strategy = make_strategy(StrategyConfig(name="s3"))
    (stage,) = strategy.note_stages(context(REVIEWS))
    assert {request.label for request in stage.plan.requests} == {"negative", "positive"}
    assert (stage.keys, stage.num_each) == (("negative", "positive"), 20)
    assert list(strategy.note_stages(context(REVIEWS, round_=1))) == []
    assert list(strategy.note_stages(context(QNLI))) == []
    without = make_strategy(StrategyConfig(name="s3", rationales=False))
    assert list(without.note_stages(context(REVIEWS))) == []


def test_the_requests_of_a_note_stage_are_of_its_keys_in_turn() -> None:
    """The judge of notes goes by place."""
    (stage,) = make_strategy(StrategyConfig(name="s3")).note_stages(context(REVIEWS))
    for request in stage.plan.requests:
        assert request.label == stage.keys[request.index % len(stage.keys)]


def test_subjects_are_asked_for_as_many_rows_as_there_are() -> None:
    def num_kept(rows: int) -> int:
        (stage,) = make_strategy(StrategyConfig(name="zerogen", rows=rows)).note_stages(context(REVIEWS))
        assert 10 * len(list(stage.plan.requests)) >= 4 * stage.num_each
        return stage.num_each

    assert num_kept(50) == 100
    assert num_kept(200_000) == 200_000 / 32


def test_faithful_s3_writes_one_example_per_mistake_with_its_label_and_context() -> None:
    given = context(QNLI, round_=1)
    (plan,) = plans("s3", given)
    requests = list(plan.requests)
    assert plan.quota is None
    assert sorted(request.parent.id for request in requests if request.parent) == [
        mistake.example.id for mistake in given.mistakes.all()
    ]
    for request in requests:
        assert request.parent is not None
        assert request.label == request.parent.label
        assert request.context == {"sentence": request.parent.fields["sentence"]}


def test_span_requests_carry_passage_and_answer() -> None:
    (seeds,) = plans("s3", context(ADVERSARIAL), seed_examples=4)
    (rewrites,) = plans("s3", context(ADVERSARIAL, round_=1))
    for request in [*first(seeds, 4), *rewrites.requests]:
        assert request.answer is not None
        assert request.context["context"][request.answer.start :].startswith(request.answer.text)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("s3", [10, 8, 7]), ("progen", [10, 8, 7]), ("transfer", [10, 8, 7, 10]), ("llm2llm", [0, 13, 12])],
)
def test_rounds_share_the_rows_that_the_seed_set_leaves(name: str, sizes: list[int]) -> None:
    settings = {"seed_examples": 10, "rows": 25, "rounds": 2}
    planned = [
        sum(plan.target or 0 for plan in plans(name, context(REVIEWS, num), **settings)) for num in range(len(sizes))
    ]
    assert planned == sizes
    strategy = make_strategy(StrategyConfig(name=name, **settings))  # type: ignore[arg-type]
    assert strategy.last_round == len(sizes) - 1
    assert [strategy.num_rows(num, 4) for num in range(len(sizes))] == sizes


def test_variants_of_one_mistake_follow_each_other_and_share_a_prefix() -> None:
    (plan,) = plans("s3", context(REVIEWS, round_=1), seed_examples=1, rows=17, rounds=1)
    requests = first(plan, 16)
    parents = [request.parent.id for request in requests if request.parent]
    assert [parents[start : start + 4].count(parents[start]) for start in range(0, 16, 4)] == [4, 4, 4, 4]
    assert len({request.group for request in requests}) == 4


def test_every_mistake_has_its_turn_before_the_rows_are_full() -> None:
    (plan,) = plans("s3", context(REVIEWS, round_=1, num_mistakes=12), seed_examples=1, rows=14, rounds=1)
    assert len({request.parent.id for request in first(plan, 13) if request.parent}) == 12


def test_goldgen_imitates_gold_whether_right_or_wrong() -> None:
    seed, imitate = plans("goldgen", context(REVIEWS), rows=34, seed_examples=10)
    assert (seed.target, imitate.target) == (10, 24)
    counts = Counter(request.parent.id for request in first(imitate, 24) if request.parent)
    assert len(counts) == 12
    assert set(counts.values()) == {2}


def test_context_tasks_have_one_stage_for_context_comes_first() -> None:
    assert list(make_strategy(StrategyConfig(name="zerogen", rows=8)).note_stages(context(QNLI))) == []
    (plan,) = plans("zerogen", context(QNLI), rows=8)
    assert all(request.context["sentence"] for request in first(plan, 8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gold", [(True, [])]),
        ("zerogen", [(False, [0])]),
        ("s3", [(False, [0]), (False, [0, 1])]),
        ("progen", [(False, [0]), (False, [0, 1])]),
        ("transfer", [(False, [0]), (False, [0, 1]), (False, [1, 2])]),
        ("llm2llm", [(True, []), (True, [1])]),
    ],
)
def test_what_each_student_learns_from(name: str, expected: list[tuple[bool, list[int]]]) -> None:
    def sets(**settings: Any) -> list[tuple[bool, list[int]]]:
        strategy = make_strategy(StrategyConfig(name=name, rows=20, seed_examples=8, rounds=1, **settings))
        found: list[TrainingSet] = [strategy.training(num) for num in range(strategy.last_round + 1)]
        return [(learned.gold, list(learned.rounds)) for learned in found]

    assert sets() == expected
    assert sets(train_on_gold=True) == [(True, rounds) for _, rounds in expected]


OTHERWISE: dict[str, Any] = {
    "name": "s3",
    "rounds": 3,
    "seed_examples": 10,
    "per_mistake": 2,
    "rows": 24,
    "rationales": False,
    "two_stage": True,
    "train_on_gold": True,
    "reasons_per_label": 7,
    "reasons_per_prompt": 2,
    "candidates_per_row": 3.0,
    "ahead": 0.5,
}


def round_0(name: str, **settings: Any) -> tuple[dict[str, object], list[Any]]:
    """The seed settings of a strategy, and all that its round 0 asks for and trains on."""
    usual = {"rows": 20, "seed_examples": 8, "rounds": 1}
    if name in ("gold", "llm2llm"):
        settings.pop("two_stage", None)
    if name not in ("s3", "transfer", "llm2llm"):
        settings.pop("ahead", None)
    strategy = make_strategy(StrategyConfig(name=name, **usual | settings))
    stages = list(strategy.note_stages(context(REVIEWS)))
    notes = {stage.plan.name: NOTES[stage.plan.name] for stage in stages}
    asked = [*(stage.plan for stage in stages), *strategy.example_stages(context(REVIEWS, notes=notes))]
    learned = strategy.training(0)
    found = [(plan.name, plan.quota, plan.max_requests, first(plan, 40)) for plan in asked]
    kept = [(stage.keys, stage.num_each) for stage in stages]
    return dict(strategy.seed_settings), [found, kept, learned.gold, sum(plan.target or 0 for plan in asked)]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("field", sorted({*StrategyConfig.model_fields} - {"name", "plus"}))
def test_equal_seed_settings_mean_an_equal_round_0(name: str, field: str) -> None:
    """Runs of a campaign that agree in them share round 0, whatever else they do."""
    (usual, was), (changed, now) = round_0(name), round_0(name, **{field: OTHERWISE[field]})
    assert (usual == changed) == (was == now)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"name": "s3"}, {"name": "s3plus", "plus": PlusConfig(near=False)}),
        ({"name": "s3"}, {"name": "transfer"}),
        ({"name": "s3", "rationales": False, "two_stage": True, "rows": 20}, {"name": "zerogen", "rows": 8}),
        ({"name": "gold"}, {"name": "llm2llm"}),
        ({"name": "progen"}, {"name": "zerogen", "rows": 8, "two_stage": False}),
    ],
)
def test_strategies_share_their_round_0_where_it_is_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    (one_settings, first_round), (other_settings, same) = round_0(**one), round_0(**other)
    assert one_settings == other_settings
    assert first_round == same


def test_without_mistakes_nothing_is_extrapolated() -> None:
    for name in ("s3", "llm2llm"):
        for settings in ({}, {"rows": 20, "seed_examples": 8}):
            (plan,) = plans(name, context(REVIEWS, round_=1, num_mistakes=0), **settings)
            assert list(plan.requests) == []


@pytest.mark.parametrize(
    ("name", "task", "round_", "settings", "known"),
    [
        ("s3", REVIEWS, 0, {"rationales": False}, "882247d98b1e36289948bd7161baeae3"),
        ("s3", QNLI, 1, {}, "8f58d2497d94470baedce87895477e55"),
        ("s3", ADVERSARIAL, 1, {"rows": 30, "seed_examples": 10}, "cf95da6a2c0d52e6d8d3f82118ec866a"),
        ("goldgen", QNLI, 0, {"rows": 20, "seed_examples": 0}, "db49976d012689b4300fbb4c42775a3f"),
    ],
)
def test_ids_of_requests_that_show_nothing_stay_what_they_were(
    name: str, task: Task, round_: int, settings: dict[str, Any], known: str
) -> None:
    """Journals of runs that are under way, and of those that are read again, find their requests by id."""
    (plan,) = plans(name, context(task, round_), **settings)
    assert first(plan, 1)[0].id == known
