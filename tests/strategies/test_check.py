"""Whether a task's prompts suit a strategy is known before anything starts."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from s3ray.config.job import StrategyConfig
from s3ray.errors import InputError, located
from s3ray.strategies.base import RoundContext, StagePlan
from s3ray.strategies.check import check_strategy, without_effect
from s3ray.strategies.s3 import S3
from s3ray.tasks import Task, builtin_names, load_task
from s3ray.tasks.spec import Form, TaskSpec
from tests.strategies.given import ADVERSARIAL, QNLI, REVIEWS
from tests.tasks.samples import TOPICS

FORMS: tuple[Form, ...] = ("chat", "completion")
BARE = Task(TaskSpec.model_validate(TOPICS))
"""A task whose prompts say nothing but what the faithful method needs."""
SINGLE = Task(
    TaskSpec.model_validate(
        {
            **TOPICS,
            "fields": ["text"],
            "prompts": {
                "completion": {"seed": {"text": "{{ label }}:"}, "extrapolate": {"text": "{{ parent.text }}:"}}
            },
        }
    )
)
"""The same with one field, and no prompt for notes."""


def config(name: str, **settings: Any) -> StrategyConfig:
    return StrategyConfig(name=name, **{"rows": 500, **settings})


@pytest.mark.parametrize(
    ("task", "settings", "field", "says"),
    [
        (ADVERSARIAL, {"name": "progen"}, "strategy.name", "has no labels"),
        (BARE, {"name": "progen"}, "strategy.name", "`seed` of task topics shows no rows"),
        (QNLI, {"name": "zerogen", "two_stage": True}, "strategy.two_stage", "no completion prompt `subjects`"),
        (BARE, {"name": "s3", "two_stage": True}, "strategy.two_stage", "no completion prompt `subjects`"),
    ],
)
def test_what_a_task_cannot_do_is_refused(task: Task, settings: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused, located("job.yaml"):
        check_strategy(config(**settings), task, "completion")
    assert (refused.value.where, refused.value.field) == ("job.yaml", field)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("task", "settings", "parts"),
    [
        (BARE, {"name": "llm2llm"}, ["strategy.name"]),
        (BARE, {"name": "s3plus"}, ["strategy.plus.contrast", "strategy.plus.clusters", "strategy.plus.near"]),
        (BARE, {"name": "s3plus", "plus": {"contrast": False, "clusters": 0, "near": False}}, []),
        (BARE, {"name": "s3"}, []),
        (ADVERSARIAL, {"name": "s3plus"}, ["strategy.plus.near", "strategy.plus.balance"]),
        (QNLI, {"name": "s3plus"}, []),
        (SINGLE, {"name": "s3"}, ["strategy.rationales"]),
        (SINGLE, {"name": "s3", "rationales": False}, []),
        (SINGLE, {"name": "zerogen"}, ["strategy.two_stage"]),
        (SINGLE, {"name": "zerogen", "two_stage": False}, []),
        (SINGLE, {"name": "transfer"}, ["strategy.rationales", "strategy.two_stage"]),
        (REVIEWS, {"name": "s3plus"}, []),
    ],
)
def test_what_a_task_gives_nothing_to_do_is_told(task: Task, settings: dict[str, Any], parts: list[str]) -> None:
    lines = list(without_effect(config(**settings), task, "completion"))
    assert [line.split(":")[0].split(" ")[0] for line in lines] == parts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", builtin_names())
def test_builtin_tasks_suit_every_strategy(name: str, form: Form) -> None:
    task = load_task(name)
    names = ["zerogen", "goldgen", "s3", "transfer", "llm2llm", "s3plus", *(["progen"] if task.has_labels else [])]
    for strategy in names:
        check_strategy(config(strategy), task, form)
        told = list(without_effect(config(strategy), task, form))
        without = ("no labels", "says `near`")
        assert all(any(text in line for text in without) for line in told)


class Shouting(S3):
    """Writes its own rows."""

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        yield from super().example_stages(context)


class Quiet(S3):
    """Changes nothing."""


def test_a_strategy_of_another_package_that_writes_its_own_rows_must_say_what_it_writes_ahead() -> None:
    mine = f"{__name__}:Shouting"
    check_strategy(config(mine), REVIEWS, "completion")
    check_strategy(config(f"{__name__}:Quiet", ahead=0.5), REVIEWS, "completion")
    with pytest.raises(InputError, match="writes its own rows, and none of them ahead") as refused:
        check_strategy(config(mine, ahead=0.5), REVIEWS, "completion")
    assert refused.value.field == "strategy.ahead"


@pytest.mark.parametrize("name", ["gold", "zerogen", "goldgen", "progen", "s3plus"])
def test_only_rounds_that_are_written_from_mistakes_can_be_ahead(name: str) -> None:
    with pytest.raises(ValidationError, match="`ahead` is for s3, transfer and llm2llm"):
        config(name, ahead=0.5)


def test_a_share_ahead_has_no_effect_before_the_second_round() -> None:
    def said(**settings: Any) -> list[str]:
        lines = list(without_effect(config("s3", **settings), REVIEWS, "completion"))
        return [line for line in lines if "ahead" in line]

    assert said(rounds=1, ahead=0.5) == [
        "strategy.ahead has no effect: nothing is written ahead before the second round of mistakes"
    ]
    assert said(rounds=2, ahead=0.5) == said(rounds=1) == []
