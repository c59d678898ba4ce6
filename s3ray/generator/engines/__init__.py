"""Engines by name or import path. Heavy imports happen inside the engine's own module, when an actor asks for it."""

from s3ray.config.plugins import check_contract, load_class
from s3ray.generator.engines.base import Engine, EngineSpec

ENGINES = {
    "vllm": "s3ray.generator.engines.vllm:VLLMEngine",
    "openai": "s3ray.generator.engines.openai:OpenAIEngine",
    "fake": "s3ray.generator.engines.fake:FakeEngine",
}


def make_engine(spec: EngineSpec) -> Engine:
    """Build the engine that a job names; nothing is loaded before its ``start``.

    Raises:
        InputError: it is one of another package and cannot be imported in this process, or is no engine.
    """
    return engine_class(spec.config.engine)(spec)


def engine_class(name: str) -> type[Engine]:
    """The class of a builtin engine, or of one that is named by import path; raises as ``make_engine`` does."""
    found = load_class(ENGINES.get(name, name), "generator.engine")
    if name not in ENGINES:
        check_contract(found, Engine, "generator.engine")
    return found
