"""s3ray: data synthesis for small models, step by step (S3, arXiv 2310.13671), on Ray clusters.

Names are imported when they are used first, so that this import is light.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3ray import strategies
    from s3ray.api import Run, compare, load_job, open, plan, run
    from s3ray.campaign.run import Comparison
    from s3ray.config.job import RunConfig
    from s3ray.errors import EngineDeadError, InputError, RequestRefusedError, RunError, S3RayError, StoreError
    from s3ray.generator.engines.base import Choice, Engine, EngineSpec, Timing, kept_of_stop
    from s3ray.launch.run import Plan
    from s3ray.models import resolve_model
    from s3ray.monitor.metrics import Metrics, RoundMetrics
    from s3ray.strategies.base import RoundContext, StagePlan, Strategy
    from s3ray.strategies.requests import Parent, rewrite_plan
    from s3ray.tasks.spec import TaskSpec
    from s3ray.tasks.task import Task, load_task
    from s3ray.telemetry.events import Event
    from s3ray.types import EngineLimits, EngineStats, Example, Generation, GenerationRequest, Mistake, Prompt

__version__ = "0.1.0"

__all__ = [
    "Choice",
    "Comparison",
    "Engine",
    "EngineDeadError",
    "EngineLimits",
    "EngineSpec",
    "EngineStats",
    "Event",
    "Example",
    "Generation",
    "GenerationRequest",
    "InputError",
    "Metrics",
    "Mistake",
    "Parent",
    "Plan",
    "Prompt",
    "RequestRefusedError",
    "RoundContext",
    "RoundMetrics",
    "Run",
    "RunConfig",
    "RunError",
    "S3RayError",
    "StagePlan",
    "StoreError",
    "Strategy",
    "Task",
    "TaskSpec",
    "Timing",
    "compare",
    "kept_of_stop",
    "load_job",
    "load_task",
    "open",
    "plan",
    "resolve_model",
    "rewrite_plan",
    "run",
    "strategies",
]

_HOMES = {
    "s3ray": ("strategies",),
    "s3ray.api": ("Run", "compare", "load_job", "open", "plan", "run"),
    "s3ray.campaign.run": ("Comparison",),
    "s3ray.config.job": ("RunConfig",),
    "s3ray.errors": ("EngineDeadError", "InputError", "RequestRefusedError", "RunError", "S3RayError", "StoreError"),
    "s3ray.generator.engines.base": ("Choice", "Engine", "EngineSpec", "Timing", "kept_of_stop"),
    "s3ray.launch.run": ("Plan",),
    "s3ray.models": ("resolve_model",),
    "s3ray.monitor.metrics": ("Metrics", "RoundMetrics"),
    "s3ray.strategies.base": ("RoundContext", "StagePlan", "Strategy"),
    "s3ray.strategies.requests": ("Parent", "rewrite_plan"),
    "s3ray.tasks.spec": ("TaskSpec",),
    "s3ray.tasks.task": ("Task", "load_task"),
    "s3ray.telemetry.events": ("Event",),
    "s3ray.types": (
        *("EngineLimits", "EngineStats", "Example", "Generation", "GenerationRequest", "Mistake", "Prompt"),
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, from the module that has it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 's3ray' has no attribute {name!r}")
    home = _HOME_OF[name]
    found = (
        importlib.import_module(f"s3ray.{name}") if home == "s3ray" else getattr(importlib.import_module(home), name)
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
