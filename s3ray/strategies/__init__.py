"""Where prompts come from: one module per strategy, chosen by name from a literal dict."""

from s3ray.methods import StrategyConfig
from s3ray.strategies.base import Strategy
from s3ray.strategies.gold import Gold
from s3ray.strategies.goldgen import GoldGen
from s3ray.strategies.llm2llm import LLM2LLM
from s3ray.strategies.progen import ProGen
from s3ray.strategies.s3 import S3
from s3ray.strategies.s3plus import S3Plus
from s3ray.strategies.transfer import Transfer
from s3ray.strategies.zerogen import ZeroGen

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
    """The strategy that a job names."""
    return STRATEGIES[config.name](config)
