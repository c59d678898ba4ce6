"""How the requests of a run are worded and read: what an actor needs of each run whose engine it is."""

from dataclasses import dataclass

from s3ray.config import RunConfig
from s3ray.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A run's task, and whether what is written is cleaned (``curation.clean``)."""

    task: Task
    clean: bool


def only_recipe(config: RunConfig, task: Task) -> dict[str, Recipe]:
    """The recipes of a pool that serves one run."""
    return {"": Recipe(task=task, clean=config.curation.clean)}
