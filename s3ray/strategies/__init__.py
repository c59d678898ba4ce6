"""Where prompts come from: one module per strategy, chosen by name from a literal dict."""

from s3ray.methods import StrategyConfig
from s3ray.strategies.base import Strategy
from s3ray.strategies.gold import Gold
from s3ray.strategies.goldgen import GoldGen
from s3ray.strategies.s3 import S3
from s3ray.strategies.zerogen import ZeroGen

STRATEGIES: dict[str, type[Strategy]] = {"gold": Gold, "zerogen": ZeroGen, "goldgen": GoldGen, "s3": S3}


def make_strategy(config: StrategyConfig) -> Strategy:
    """The strategy that a job names."""
    return STRATEGIES[config.name](config)
