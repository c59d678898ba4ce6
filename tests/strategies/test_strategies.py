"""What each strategy asks for: the paper's definitions, and the contract that all strategies keep."""

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from s3ray.methods import StrategyConfig
from s3ray.mistakes import Mistakes
from s3ray.stage import StagePlan
from s3ray.strategies import STRATEGIES, make_strategy
from s3ray.strategies.base import RoundContext
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import Context
from s3ray.types import Example, GenerationRequest, Mistake, Origin, Source, Span

REVIEWS = load_task("review_sentences")
QNLI = load_task("qnli")
ADVERSARIAL = load_task("adversarial_qa")
REASONS = {"negative": ["slow", "cold", "dear", "loud"], "positive": ["quick", "warm", "cheap", "calm"]}


def gold_rows(task: Task, num: int) -> list[Example]:
    rows = []
    for number in range(num):
        fields = {name: f"{name} of gold row {number}" for name in task.fields}
        label = task.labels[number % len(task.labels)] if task.has_labels else None
        answers = () if task.has_labels else (Span(text="gold", start=fields["context"].index("gold")),)
        origin = Origin(source=Source.GOLD)
        rows.append(Example(id=f"gold-{number}", fields=fields, label=label, answers=answers, origin=origin))
    return rows


def context(task: Task, round_: int = 0, num_mistakes: int = 4, **changes: Any) -> RoundContext:
    gold = gold_rows(task, 12)
    contexts = [
        Context(
            id=row.id,
            fields={name: row.fields[name] for name in task.context_fields},
            answer=row.answers[0] if row.answers else None,
        )
        for row in gold
    ]
    values: dict[str, Any] = {
        "round": round_,
        "task": task,
        "gold": gold,
        "contexts": contexts if task.context_fields else [],
        "mistakes": Mistakes([Mistake(example=row, predicted="x", confidence=0.9) for row in gold[:num_mistakes]]),
        "fingerprint": "f",
        "seed": 0,
        "with_reasons": True,
    }
    return RoundContext(**values | changes)


def plans(strategy: str, given: RoundContext, **settings: Any) -> list[StagePlan]:
    return list(make_strategy(StrategyConfig(name=strategy, **settings)).example_stages(given))  # type: ignore[arg-type]


def first(plan: StagePlan, num: int) -> list[GenerationRequest]:
    return list(islice(plan.requests, num))


def test_s3_seeds_with_k_reasons_of_the_requested_label() -> None:
    (plan,) = plans("s3", context(REVIEWS, reasons=REASONS), seed_examples=10, reasons_per_prompt=3)
    assert plan.quota == {"negative": 5, "positive": 5}
    for request in first(plan, 20):
        assert request.label is not None
        assert len(set(request.reasons)) == 3
        assert set(request.reasons) <= set(REASONS[request.label])
        assert request.parent is None


def test_s3_asks_for_reasons_once_and_only_where_the_task_has_a_prompt() -> None:
    strategy = make_strategy(StrategyConfig(name="s3"))
    plan = strategy.reason_stage(context(REVIEWS))
    assert plan is not None
    assert {request.label for request in plan.requests} == {"negative", "positive"}
    assert strategy.reason_stage(context(REVIEWS, round_=1)) is None
    assert strategy.reason_stage(context(QNLI, with_reasons=False)) is None
    without = make_strategy(StrategyConfig(name="s3", rationales=False))
    assert without.reason_stage(context(REVIEWS)) is None


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


def test_s3_at_a_fixed_size_shares_the_rows_over_the_rounds() -> None:
    settings = {"seed_examples": 10, "rows": 25, "rounds": 2}
    sizes = [sum(plan.target or 0 for plan in plans("s3", context(REVIEWS, num), **settings)) for num in range(3)]
    assert sizes == [10, 8, 7]


def test_variants_of_one_mistake_follow_each_other_and_share_a_prefix() -> None:
    (plan,) = plans("s3", context(REVIEWS, round_=1), seed_examples=1, rows=17, rounds=1)
    requests = first(plan, 16)
    parents = [request.parent.id for request in requests if request.parent]
    assert [parents[start : start + 4].count(parents[start]) for start in range(0, 16, 4)] == [4, 4, 4, 4]
    assert len({request.group for request in requests}) == 4


def test_every_mistake_has_its_turn_before_the_rows_are_full() -> None:
    (plan,) = plans("s3", context(REVIEWS, round_=1, num_mistakes=12), seed_examples=1, rows=14, rounds=1)
    assert len({request.parent.id for request in first(plan, 13) if request.parent}) == 12


def test_zerogen_sees_labels_only() -> None:
    (plan,) = plans("zerogen", context(REVIEWS), rows=20)
    assert plan.target == 20
    assert all(request.reasons == () and request.parent is None for request in first(plan, 30))


def test_goldgen_imitates_gold_whether_right_or_wrong() -> None:
    seed, imitate = plans("goldgen", context(REVIEWS), rows=34, seed_examples=10)
    assert (seed.target, imitate.target) == (10, 24)
    counts = Counter(request.parent.id for request in first(imitate, 24) if request.parent)
    assert len(counts) == 12
    assert set(counts.values()) == {2}


def test_gold_writes_nothing() -> None:
    assert plans("gold", context(REVIEWS)) == []
    assert make_strategy(StrategyConfig(name="gold")).trains_on_gold


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("task", [REVIEWS, QNLI, ADVERSARIAL], ids=lambda task: task.name)
@pytest.mark.parametrize("round_", [0, 1])
def test_contract(name: str, task: Task, round_: int) -> None:
    settings: dict[str, Any] = {"rows": 20, "seed_examples": 8, "rounds": 1}
    given = context(task, round_)
    requests = [request for plan in plans(name, given, **settings) for request in first(plan, 40)]
    again = [request for plan in plans(name, given, **settings) for request in first(plan, 40)]
    assert [request.id for request in requests] == [request.id for request in again]
    assert len({request.id for request in requests}) == len(requests)
    assert len({request.seed for request in requests}) >= 0.9 * len(requests)
    reseeded = list(plans(name, context(task, round_, seed=1, fingerprint="g"), **settings))
    assert not {request.id for plan in reseeded for request in first(plan, 40)} & {request.id for request in requests}
    for form in ("chat", "completion"):
        for request in requests:
            prompt = task.render(request, form)
            assert prompt.text or prompt.user


OTHERWISE: dict[str, Any] = {
    "name": "s3",
    "rounds": 3,
    "seed_examples": 10,
    "per_mistake": 2,
    "rows": 24,
    "rationales": False,
    "reasons_per_label": 7,
    "reasons_per_prompt": 2,
    "candidates_per_row": 3.0,
}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("field", sorted(StrategyConfig.model_fields))
def test_seed_settings_are_all_that_shapes_round_0(name: str, field: str) -> None:
    """Runs whose other settings differ share their seed set."""

    def round_0(**settings: Any) -> list[Any]:
        strategy = make_strategy(StrategyConfig(name=name, **{"rows": 20, "seed_examples": 8, "rounds": 1} | settings))  # type: ignore[arg-type]
        reasons = strategy.reason_stage(context(REVIEWS))
        found = [reasons, *strategy.example_stages(context(REVIEWS, reasons=REASONS if reasons else {}))]
        return [plan and (plan.name, plan.quota, plan.max_requests, first(plan, 40)) for plan in found]

    if field not in make_strategy(StrategyConfig(name=name, rows=20, seed_examples=8)).seed_settings:  # type: ignore[arg-type]
        assert round_0(**{field: OTHERWISE[field]}) == round_0()


def test_without_mistakes_nothing_is_extrapolated() -> None:
    for settings in ({}, {"rows": 20, "seed_examples": 8}):
        (plan,) = plans("s3", context(REVIEWS, round_=1, num_mistakes=0), **settings)
        assert list(plan.requests) == []
