"""The requests are the strategy's own; what a student would have told is stood in for, for every strategy."""

from collections import Counter
from typing import Any

import pytest

from s3ray.bench.prompts import VARIANTS, PromptSource, known_prompts, split
from s3ray.config import RunConfig
from s3ray.jobfile import validate
from s3ray.strategies import STRATEGIES, make_strategy
from s3ray.tasks import load_task
from s3ray.tasks.gold import GoldSplit, load_gold
from s3ray.types import GenerationRequest

TASK = load_task("review_sentences")
KNOWN = {
    "gold": [],
    "zerogen": ["seed"],
    "goldgen": ["seed", "extrapolate"],
    "progen": ["seed"],
    "s3": ["seed", "extrapolate"],
    "transfer": ["seed", "extrapolate"],
    "llm2llm": ["extrapolate"],
    "s3plus": ["seed", "extrapolate"],
}


def job(name: str, **strategy: Any) -> tuple[RunConfig, GoldSplit]:
    rows = {} if name in ("s3", "s3plus", "transfer", "llm2llm", "gold") else {"rows": 80}
    settings = {"name": name, "rounds": 1, "seed_examples": 20, **rows, **strategy}
    raw = {
        "name": "job",
        "task": TASK.name,
        "gold": {"extrapolate": 30, "select": 10, "test": 10},
        "strategy": settings,
        "generator": {"engine": "fake", "prompt_form": "completion"},
    }
    config = validate(RunConfig, raw)
    return config, load_gold(TASK, config.gold)


def requests(prompts: str, name: str, total: int, **strategy: Any) -> list[GenerationRequest]:
    config, gold = job(name, **strategy)
    source = PromptSource(prompts, config, TASK, gold, "fingerprint", total)
    return source.requests(source.context)


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_has_its_sets(name: str) -> None:
    config, gold = job(name)
    assert known_prompts(config, TASK, gold) == KNOWN[name]


@pytest.mark.parametrize(("name", "prompts"), [(name, each) for name, known in KNOWN.items() for each in known])
@pytest.mark.parametrize("total", [7, 200])
def test_there_are_as_many_as_asked_for_each_in_its_place(name: str, prompts: str, total: int) -> None:
    made = requests(prompts, name, total)
    assert len(made) == total
    assert [request.index for request in made] == list(range(total))
    assert len({request.id for request in made}) == total
    assert {request.template for request in made} == {prompts}
    for request in made:
        assert TASK.render(request, "completion").text


def test_seed_requests_are_those_of_a_run() -> None:
    config, gold = job("s3")
    source = PromptSource("seed", config, TASK, gold, "fingerprint", 40)
    (plan,) = make_strategy(config.strategy).example_stages(source.context)
    assert source.requests(source.context) == [next(plan.requests) for _ in range(40)]
    assert source.context.gold == gold.extrapolate


@pytest.mark.parametrize("name", ["goldgen", "s3", "transfer", "llm2llm"])
def test_variants_of_a_row_follow_each_other(name: str) -> None:
    made = requests("extrapolate", name, 40)
    turns = Counter(request.parent.id for request in made if request.parent)
    assert set(turns.values()) == {VARIANTS}
    for start in range(0, 40, VARIANTS):
        assert len({request.group for request in made[start : start + VARIANTS]}) == 1


def test_more_requests_than_rows_have_variants_go_over_the_rows_more_often() -> None:
    made = requests("extrapolate", "s3", 300)
    assert len({request.parent.id for request in made if request.parent}) == 30
    assert len(made) == 300


def test_the_wrong_answer_is_another_label() -> None:
    for request in requests("extrapolate", "llm2llm", 20):
        assert request.predicted in TASK.labels
        assert request.predicted != request.label


def test_the_warm_up_asks_for_something_else() -> None:
    made = requests("seed", "s3", 50)
    measured, warm_up = split(made, 40, 10)
    assert measured == made[:40]
    assert [request.index for request in warm_up] == list(range(10))
    assert not {request.id for request in warm_up} & {request.id for request in measured}
