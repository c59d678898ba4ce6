"""The grid of a campaign: one run for each combination of the values on its axes, and for each seed."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from s3ray.config import RunConfig
from s3ray.errors import InputError
from s3ray.jobfile import load_config, read_yaml, validate
from s3ray.section import NAME_PATTERN, Section


class CampaignConfig(Section):
    """What `s3ray compare` runs."""

    name: str = Field(pattern=NAME_PATTERN, max_length=100)
    """Name of the campaign and of its folder, which holds one folder for each run."""
    job: str
    """The job file that all runs begin with; relative to this file."""
    axes: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)
    """What differs: for each axis its values by name, and for each value the fields of the job that it sets."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Each combination is run with each of them, as `seed` and as `gold.seed`: it changes all that is random."""
    reference: str | None = None
    """Value of the first axis that the others are compared with, seed by seed; null: the last one."""
    priorities: dict[str, int] = Field(default={})
    """Values whose runs go before those of others where they share engines or devices; the highest first, default 0."""
    trainings: PositiveInt = 1
    """Students that are trained at once, where engines keep devices of their own. In swap mode on GPUs as many as find
    room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRun:
    """One run of a campaign: its place in the grid (``cell``: value by axis, without the seed) and its job."""

    name: str
    cell: dict[str, str]
    seed: int
    priority: int
    config: RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A checked grid. ``runs`` are in the order in which they get work, if their priorities are equal."""

    config: CampaignConfig
    runs: Sequence[GridRun]

    @property
    def first_axis(self) -> str:
        """The axis whose values are compared."""
        return next(iter(self.config.axes))

    @property
    def reference(self) -> str:
        """The value that the others are compared with."""
        return self.config.reference or list(self.config.axes[self.first_axis])[-1]


def load_campaign(path: str | Path) -> Campaign:
    """Read a grid and the jobs of all its runs.

    Raises:
        InputError: the grid or one of its jobs is wrong; says which.
    """
    path = Path(path)
    config = validate(CampaignConfig, read_yaml(path), str(path))
    _check_names(config, str(path))
    runs = [
        _run(config, path, dict(zip(config.axes, values, strict=True)), seed)
        for seed in config.seeds
        for values in itertools.product(*config.axes.values())
    ]
    twice = [name for name, num in Counter(run.name for run in runs).items() if num > 1]
    if twice:
        hint = "A run is named by its values and its seed, with hyphens between them; choose other names of values."
        raise InputError("would give two runs one name", where=str(path), field="axes", value=twice[0], hint=hint)
    return Campaign(config=config, runs=runs)


def _run(config: CampaignConfig, path: Path, cell: dict[str, str], seed: int) -> GridRun:
    settings: dict[str, Any] = {"seed": seed, "gold.seed": seed}
    for axis, value in cell.items():
        settings |= config.axes[axis][value]
    name = "-".join([*cell.values(), str(seed)])
    try:
        job = load_config(path.parent / config.job, {**settings, "name": name})
    except InputError as error:
        raise InputError(f"run {name}: {error.problem}", where=f"{path}: {error.where}", **_rest(error)) from None
    if job.placement.sleep_level:
        problem = f"run {name}: engines of a campaign make way one by one, and stop"
        leave = job.placement.leave
        raise InputError(problem, where=str(path), field="placement.leave", value=leave, hint="Leave it out.")
    priority = sum(config.priorities.get(value, 0) for value in cell.values())
    return GridRun(name=name, cell=cell, seed=seed, priority=priority, config=job)


def _rest(error: InputError) -> dict[str, str]:
    return {"field": error.field, "value": error.value, "hint": error.hint}


def _check_names(config: CampaignConfig, where: str) -> None:
    """Names become folders, and a reference or a priority must be of something."""
    hint = "Letters, digits, dots, underscores and hyphens, beginning with a letter or a digit."
    for axis, values in config.axes.items():
        if not values:
            raise InputError("has no values", where=where, field=f"axes.{axis}", hint="Give one or more, by name.")
        for value in values:
            if not re.match(NAME_PATTERN, value):
                raise InputError(
                    "cannot be part of a folder's name", where=where, field=f"axes.{axis}", value=value, hint=hint
                )
    if len(set(config.seeds)) < len(config.seeds):
        raise InputError("holds a seed twice", where=where, field="seeds", value=str(config.seeds), hint="Once each.")
    first = next(iter(config.axes.values()))
    if config.reference is not None and config.reference not in first:
        hint = f"Values of the first axis: {', '.join(first)}."
        raise InputError(
            "is no value of the first axis", where=where, field="reference", value=config.reference, hint=hint
        )
    known = {value for values in config.axes.values() for value in values}
    for value in config.priorities:
        if value not in known:
            hint = f"Values: {', '.join(sorted(known))}."
            raise InputError("is no value of any axis", where=where, field=f"priorities.{value}", hint=hint)
