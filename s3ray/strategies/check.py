"""Whether a task's prompts suit a strategy: what is refused, and which settings have no effect."""

from collections.abc import Iterator

from s3ray.config.job import StrategyConfig
from s3ray.errors import InputError
from s3ray.strategies import like_builtin, make_strategy
from s3ray.tasks import Task
from s3ray.tasks.spec import Form

_MANY = 1_000_000
"""More rows than a share that rounds down to none."""


def check_strategy(config: StrategyConfig, task: Task, form: Form) -> None:
    """Refuse a strategy that does not work with this task.

    Raises:
        InputError: the strategy of another package breaks the contract, the strategy is progen and the task has no
            labels or shows no examples in its prompt, the job asks for two stages and the task lacks the prompt, or for
            rows ahead and the strategy overrides all but these.
    """
    _check_ahead(config)
    config = like_builtin(config)
    if config.name == "progen" and not task.has_labels:
        hint = "It shows rows of the label that is asked for. Use zerogen, goldgen or s3."
        raise InputError(f"task {task.name} has no labels", field="strategy.name", value=config.name, hint=hint)
    if config.name == "progen" and not task.uses(form, "seed", "shown"):
        hint = "Use `shown` in it, a list of rows with their fields and `label`; else progen is zerogen in rounds."
        raise InputError(
            f"the {form} prompt `seed` of task {task.name} shows no rows",
            field="strategy.name",
            value="progen",
            hint=hint,
        )
    if config.two_stage and "subjects" not in task.note_prompts(form):
        hint = "Write one, or leave `two_stage` out."
        problem = f"task {task.name} has no {form} prompt `subjects`"
        raise InputError(problem, field="strategy.two_stage", value="true", hint=hint)


def _check_ahead(config: StrategyConfig) -> None:
    """A strategy of another package must not write all of a round beside what the builtin one writes ahead."""
    own, builtin = type(make_strategy(config)), type(make_strategy(like_builtin(config)))
    is_new = own.example_stages is not builtin.example_stages
    if config.ahead and is_new and own.ahead_stages is builtin.ahead_stages:
        hint = "Leave it out, or let the strategy override `ahead_stages` too (docs/troubleshooting.md)."
        problem = f"strategy {config.name} writes its own rows, and none of them ahead"
        raise InputError(problem, field="strategy.ahead", value=str(config.ahead), hint=hint)


def without_effect(config: StrategyConfig, task: Task, form: Form) -> Iterator[str]:
    """A line for each setting of a strategy that has no effect with this task's prompts and labels."""

    def uses(name: str) -> bool:
        return task.uses(form, "extrapolate", name)

    strategy = make_strategy(config)
    if config.ahead and not any(strategy.num_ahead(num, _MANY) for num in range(strategy.last_round + 1)):
        yield "strategy.ahead has no effect: nothing is written ahead before the second round of mistakes"
    config = like_builtin(config)
    yield from _notes_without_prompt(config, task, form)
    prompt, plus = f"the {form} prompt `extrapolate` of task {task.name}", config.plus
    if config.name == "llm2llm" and not uses("predicted"):
        yield f"strategy.name: {prompt} does not say `predicted`, so the wrong answer is not shown"
    if config.name != "s3plus":
        return
    if plus.contrast and not uses("predicted") and not uses("shown"):
        yield f"strategy.plus.contrast has no effect: {prompt} says neither `predicted` nor `shown`"
    if plus.clusters and not (uses("pattern") and "patterns" in task.note_prompts(form)):
        yield f"strategy.plus.clusters has no effect: {prompt} does not say `pattern`, or there is no prompt `patterns`"
    if (
        plus.near
        and task.context_fields
        and not any(
            task.uses(form, template, f"near.{name}") for template in ("seed", "extrapolate") for name in task.fields
        )
    ):
        yield f"strategy.plus.near has no effect: no {form} prompt of task {task.name} says `near`"
    if plus.balance and not task.has_labels:
        yield f"strategy.plus.balance has no effect: task {task.name} has no labels"


def _notes_without_prompt(config: StrategyConfig, task: Task, form: Form) -> Iterator[str]:
    """A line for each of reasons and subjects; none for tasks with given fields, where the paper asks for neither."""
    has, wants_subjects = task.note_prompts(form), config.name in ("zerogen", "transfer") and config.two_stage is None
    wants_reasons = config.rationales and config.name in ("goldgen", "s3", "transfer", "s3plus")
    if wants_reasons and not task.context_fields and "reasons" not in has:
        yield f"strategy.rationales has no effect: task {task.name} has no {form} prompt `reasons`"
    if wants_subjects and not task.context_fields and "subjects" not in has:
        yield f"strategy.two_stage: rows are written in one stage, task {task.name} has no {form} prompt `subjects`"
