"""How the requests of a run are worded and read: what an actor needs of each run whose engine it is."""

from dataclasses import dataclass

from s3ray.config import RunConfig
from s3ray.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A run's task, whether what is written is cleaned (``curation.clean``), and whether its label is asked for."""

    task: Task
    clean: bool
    verify: bool = False

    @classmethod
    def of(cls, config: RunConfig, task: Task) -> "Recipe":
        """What a run's settings ask for."""
        return cls(task=task, clean=config.curation.clean, verify=config.curation.verify != "none")


def only_recipe(config: RunConfig, task: Task) -> dict[str, Recipe]:
    """The recipes of a pool that serves one run."""
    return {"": Recipe.of(config, task)}
