"""What every strategy owes its driver, with every builtin task; one of your own if OWN_STRATEGY is its import path."""

import os
from typing import Any

import pytest

from s3ray.config.job import StrategyConfig
from s3ray.strategies import STRATEGIES, make_strategy
from s3ray.strategies.base import ANY, RoundContext, StagePlan
from s3ray.tasks import Task, builtin_names, load_task
from s3ray.tasks.spec import Form
from s3ray.types import GenerationRequest
from tests.strategies.given import NOTES, context, first

TASKS = [load_task(name) for name in builtin_names()]
FORMS: tuple[Form, ...] = ("chat", "completion")
SETTINGS: dict[str, Any] = {"rows": 20, "seed_examples": 8, "rounds": 2}
CASES = [
    pytest.param(name, task, id=f"{name}-{task.name}")
    for name in (*STRATEGIES, *os.environ.get("OWN_STRATEGY", "").split())
    for task in TASKS
    if task.has_labels or name != "progen"
]


def stages_of(name: str, given: RoundContext) -> list[StagePlan]:
    """The stages of a round, notes first."""
    strategy = make_strategy(StrategyConfig(name=name, **SETTINGS))
    return [*(stage.plan for stage in strategy.note_stages(given)), *strategy.example_stages(given)]


def requests_of(name: str, given: RoundContext) -> list[GenerationRequest]:
    return [request for plan in stages_of(name, given) for request in first(plan, 40)]


@pytest.mark.parametrize("round_", [0, 1, 2])
@pytest.mark.parametrize(("name", "task"), CASES)
def test_requests_are_repeatable_and_each_its_own(name: str, task: Task, round_: int) -> None:
    def asked(**changes: Any) -> list[GenerationRequest]:
        return requests_of(name, context(task, round_, notes=NOTES, **changes))

    requests = asked()
    assert requests == asked()
    assert len({request.id for request in requests}) == len(requests)
    assert len({request.seed for request in requests}) >= 0.9 * len(requests)
    assert not {request.id for request in asked(seed=1, fingerprint="g")} & {request.id for request in requests}


@pytest.mark.parametrize("round_", [0, 1, 2])
@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_request_can_be_said_in_both_forms(name: str, task: Task, round_: int) -> None:
    for form in FORMS:
        for request in requests_of(name, context(task, round_, notes=NOTES, prompts=task.note_prompts(form))):
            prompt = task.render(request, form)
            assert prompt.text or prompt.user


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_budget_is_kept(name: str, task: Task) -> None:
    """What the rounds of the last student's training set aim at is `rows`, and the way there has a limit."""
    strategy = make_strategy(StrategyConfig(name=name, **SETTINGS))
    targets = []
    for round_ in range(strategy.last_round + 1):
        plans = list(strategy.example_stages(context(task, round_, notes=NOTES)))
        for plan in plans:
            assert plan.max_requests is not None
            assert plan.max_requests <= 8 * (plan.target or 0)
            assert set(plan.quota or ()) <= {ANY, *task.labels}
        targets.append(sum(plan.target or 0 for plan in plans))
    assert targets == [strategy.num_rows(round_, 4) for round_ in range(strategy.last_round + 1)]
    learned = sum(targets[num] for num in strategy.training(strategy.last_round).rounds)
    assert learned == (0 if name == "gold" else 20)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_only_known_probes_are_asked_for_and_no_others_are_looked_at(name: str, task: Task) -> None:
    strategy = make_strategy(StrategyConfig(name=name, **SETTINGS))
    assert set(strategy.probes) <= {"gold", "train"}
    given = context(task, 1, notes=NOTES)

    def probes(table: str) -> Any:
        assert table in strategy.probes
        return given.probes(table)

    assert requests_of(name, context(task, 1, notes=NOTES, probes=probes)) == requests_of(name, given)
