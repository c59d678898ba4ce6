"""Engines by name. Heavy imports happen inside the engine's own module, when an actor asks for it."""

from importlib import import_module

from s3ray.generator.engines.base import Engine, EngineSpec

ENGINES = {
    "vllm": "s3ray.generator.engines.vllm:VLLMEngine",
    "openai": "s3ray.generator.engines.openai:OpenAIEngine",
    "fake": "s3ray.generator.engines.fake:FakeEngine",
}


def make_engine(spec: EngineSpec) -> Engine:
    """Build the engine that a job names; nothing is loaded before its ``start``."""
    module, name = ENGINES[spec.config.engine].split(":")
    engine: Engine = getattr(import_module(module), name)(spec)
    return engine
