"""Where prompts come from: one module per strategy, chosen by name from a literal dict or by import path."""

from pydantic import ValidationError

from s3ray.config.job import StrategyConfig
from s3ray.config.plugins import check_contract, load_class
from s3ray.errors import InputError
from s3ray.strategies.base import Strategy
from s3ray.strategies.gold import Gold
from s3ray.strategies.goldgen import GoldGen
from s3ray.strategies.llm2llm import LLM2LLM
from s3ray.strategies.progen import ProGen
from s3ray.strategies.s3 import S3
from s3ray.strategies.s3plus import S3Plus
from s3ray.strategies.transfer import Transfer
from s3ray.strategies.zerogen import ZeroGen

_FIELD = "strategy.name"
STRATEGIES: dict[str, type[Strategy]] = {
    "gold": Gold,
    "zerogen": ZeroGen,
    "goldgen": GoldGen,
    "progen": ProGen,
    "s3": S3,
    "transfer": Transfer,
    "llm2llm": LLM2LLM,
    "s3plus": S3Plus,
}


def make_strategy(config: StrategyConfig) -> Strategy:
    """The strategy that a job names.

    Raises:
        InputError: the class of another package cannot be imported here, or is not a strategy.
    """
    return _class_of(config.name)(config)


def like_builtin(config: StrategyConfig) -> StrategyConfig:
    """Settings with a strategy of another package renamed to the builtin one that it derives from, if there is one.

    Raises:
        InputError: the class cannot be imported here or is not a strategy, or the settings do not suit the builtin one.
    """
    names = {strategy: name for name, strategy in STRATEGIES.items()}
    name = next((names[each] for each in _class_of(config.name).__mro__ if each in names), None)
    if name in (None, config.name):
        return config
    try:
        return StrategyConfig.model_validate({**config.model_dump(), "name": name})
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(problem, field="strategy", value=config.name, hint=f"It derives from {name}.") from None


def _class_of(name: str) -> type[Strategy]:
    if name in STRATEGIES:
        return STRATEGIES[name]
    found = load_class(name, _FIELD)
    if not issubclass(found, Strategy):
        hint = "Derive it from s3ray.strategies.base.Strategy, or from a builtin one such as s3ray.strategies.s3.S3."
        raise InputError("is not a strategy", field=_FIELD, value=name, hint=hint)
    check_contract(found, Strategy, _FIELD)
    return found
