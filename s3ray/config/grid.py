"""The grid of a campaign: one run for each combination of the values on its axes, and for each seed."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import Field, PositiveInt

from s3ray.config.job import NAME_PATTERN, RunConfig, StrictModel
from s3ray.config.load import load_config, read_yaml, validate
from s3ray.errors import InputError, located

_WITH = "with"


class CampaignConfig(StrictModel):
    """What `s3ray compare` runs."""

    name: str = Field(pattern=NAME_PATTERN, max_length=100)
    """Name of the campaign and of its folder, which holds one folder for each run."""
    job: str
    """The job file that all runs begin with; relative to this file."""
    axes: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)
    """What differs: for each axis its values by name, and for each value the fields of the job that it sets. Under
    `with` a value may set more, by the name of a value of another axis: for runs that have both."""
    skip: list[dict[str, str]] = Field(default=[])
    """Combinations that are left out, each as values by axis."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Each combination is run with each of them, as `seed` and as `gold.seed`: it changes all that is random."""
    reference: str | None = None
    """Value of the compared axis (the first that is not the tasks') that the others are compared with, seed by seed;
    null: the last one."""
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
    """A checked grid. Runs get work by priority, by what they have still to do, and then in the order of ``runs``."""

    file: str
    config: CampaignConfig
    runs: Sequence[GridRun]

    @property
    def task_axis(self) -> str | None:
        """The axis each of whose values has one task, not the same for all; None if there is no such axis."""
        for axis, values in self.config.axes.items():
            tasks = [{run.config.task for run in self.runs if run.cell[axis] == value} for value in values]
            if len(set().union(*tasks)) > 1 and all(len(each) == 1 for each in tasks):
                return axis
        return None

    @property
    def compared_axis(self) -> str | None:
        """The axis whose values are compared; None if the task axis is the only one."""
        return next((axis for axis in self.config.axes if axis != self.task_axis), None)

    @property
    def reference(self) -> str | None:
        """The value that the others are compared with."""
        axis = self.compared_axis
        return None if axis is None else self.config.reference or list(self.config.axes[axis])[-1]

    def numbers(self, axis: str) -> dict[str, float] | None:
        """The number that each value of a numeric axis stands for; None if the axis is not numeric.

        An axis is numeric if all its values set one field to different numbers.
        """
        values = self.config.axes[axis]
        for field in next(iter(values.values())):
            found = {name: settings.get(field) for name, settings in values.items()}
            numbers = {name: float(each) for name, each in found.items() if _is_number(each)}
            if 1 < len(set(numbers.values())) == len(values):
                return numbers
        return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def load_campaign(path: str | Path, changes: Mapping[str, Any] | None = None) -> Campaign:
    """Read a grid and the jobs of all its runs.

    ``changes`` maps dotted fields to values and wins over the file: fields of the grid (``seeds``), fields that a value
    sets (``axes.task.qnli.data``), and fields of the job that all runs begin with (``job.generator.engines``).

    Raises:
        InputError: the grid, a change or one of the jobs is wrong; says which.
    """
    with located(path):
        config, of_job = _changed(read_yaml(Path(path)), changes or {})
        _check_names(config)
        cells = [dict(zip(config.axes, values, strict=True)) for values in itertools.product(*config.axes.values())]
        kept = [cell for cell in cells if not _is_skipped(config, cell)]
        runs = [_run(config, Path(path), of_job, cell, seed) for seed in config.seeds for cell in kept]
        if not runs:
            raise InputError("leaves no run", field="skip", hint="Leave out fewer combinations.")
        twice = [name for name, num in Counter(run.name for run in runs).items() if num > 1]
        if twice:
            hint = "A run is named after its values and its seed, joined by hyphens; give the values other names."
            raise InputError("would give two runs one name", field="axes", value=twice[0], hint=hint)
        campaign = Campaign(file=str(path), config=config, runs=runs)
        _check_reference(campaign)
        return campaign


def _changed(raw: dict[str, Any], changes: Mapping[str, Any]) -> tuple[CampaignConfig, dict[str, Any]]:
    """Apply the changes to the grid; returns it with the changes that belong to the job."""
    of_job = {name.removeprefix("job."): value for name, value in changes.items() if name.startswith("job.")}
    of_axes = {name: value for name, value in changes.items() if name.startswith("axes.")}
    own = {name: value for name, value in changes.items() if not name.startswith(("job.", "axes."))}
    config = validate(CampaignConfig, raw | own)
    axes = {axis: {value: dict(fields) for value, fields in values.items()} for axis, values in config.axes.items()}
    places = {f"axes.{axis}.{value}.": fields for axis, values in axes.items() for value, fields in values.items()}
    for name, value in of_axes.items():
        found = [place for place in places if name.startswith(place) and name != place]
        if not found:
            axis = next((axis for axis in axes if name.startswith(f"axes.{axis}.")), None)
            known = f"values of {axis}: {', '.join(axes[axis])}" if axis else f"axes: {', '.join(axes)}"
            hint = f"It is axes.AXIS.VALUE.FIELD, with a field of the job; {known}."
            raise InputError("names no field of a value", where="--set", value=name, hint=hint)
        place = max(found, key=len)  # names of values may hold dots
        places[place][name.removeprefix(place)] = value
    return config.model_copy(update={"axes": axes}), of_job


def _run(config: CampaignConfig, path: Path, of_job: dict[str, Any], cell: dict[str, str], seed: int) -> GridRun:
    settings: dict[str, Any] = of_job | {"seed": seed, "gold.seed": seed}
    chosen = [config.axes[axis][value] for axis, value in cell.items()]
    for fields in chosen:
        settings |= {field: value for field, value in fields.items() if field != _WITH}
    for fields in chosen:
        for other, more in fields.get(_WITH, {}).items():
            settings |= more if other in cell.values() else {}
    name = "-".join([*cell.values(), str(seed)])
    try:
        job = load_config(path.parent / config.job, {**settings, "name": name})
    except InputError as error:
        error.problem, error.where = f"run {name}: {error.problem}", f"{path}: {error.where}"
        raise
    if job.placement.sleep_level:
        problem = f"run {name}: engines of a campaign make way one by one, by stopping"
        leave = job.placement.leave
        raise InputError(problem, field="placement.leave", value=leave, hint="Leave it out.")
    if job.placement.elastic:
        problem = f"run {name}: is for single runs; those of a campaign share out the devices that are there"
        hint = "Leave it out, or start the runs one by one with s3ray run."
        raise InputError(problem, field="placement.elastic", value="true", hint=hint)
    job = job.model_copy(update={"placement": job.placement.model_copy(update={"leave": "stop"})})
    priority = sum(config.priorities.get(value, 0) for value in cell.values())
    return GridRun(name=name, cell=cell, seed=seed, priority=priority, config=job)


def _check_names(config: CampaignConfig) -> None:
    """Values become names of folders, and priorities must name values."""
    hint = "Letters, digits, dots, underscores and hyphens, beginning with a letter or a digit."
    for axis, values in config.axes.items():
        if not values:
            raise InputError("has no values", field=f"axes.{axis}", hint="Give one or more, by name.")
        for value in values:
            if not re.match(NAME_PATTERN, value):
                raise InputError("cannot be part of a folder's name", field=f"axes.{axis}", value=value, hint=hint)
    if len(set(config.seeds)) < len(config.seeds):
        raise InputError("holds a seed twice", field="seeds", value=str(config.seeds), hint="Once each.")
    _check_combinations(config)
    known = {value for values in config.axes.values() for value in values}
    for value in config.priorities:
        if value not in known:
            hint = f"Values: {', '.join(sorted(known))}."
            raise InputError("is not a value of any axis", field=f"priorities.{value}", hint=hint)


def _check_reference(campaign: Campaign) -> None:
    reference, axis = campaign.config.reference, campaign.compared_axis
    known = campaign.config.axes[axis] if axis else {}
    if reference is not None and reference not in known:
        hint = f"Values of axis {axis}: {', '.join(known)}." if axis else "There are only tasks; leave it out."
        problem = "is not a value of the axis that is compared"
        raise InputError(problem, field="reference", value=reference, hint=hint)


def _is_skipped(config: CampaignConfig, cell: Mapping[str, str]) -> bool:
    return any(all(cell[axis] == value for axis, value in each.items()) for each in config.skip)


def _check_combinations(config: CampaignConfig) -> None:
    """`skip` and `with` may name only values that exist."""
    for number, each in enumerate(config.skip):
        for axis, value in each.items():
            if value not in config.axes.get(axis, {}):
                hint = f"AXIS: VALUE; axes: {', '.join(config.axes)}."
                raise InputError("is not a value of that axis", field=f"skip.{number}.{axis}", value=value, hint=hint)
        if not each:
            raise InputError("names no value", field=f"skip.{number}", hint="Give values by axis.")
    for axis, values in config.axes.items():
        others = {value for other, its in config.axes.items() if other != axis for value in its}
        for name, fields in values.items():
            more = fields.get(_WITH, {})
            if not isinstance(more, dict) or not all(isinstance(each, dict) for each in more.values()):
                hint = "Give fields by the name of a value: with: {imdb: {strategy.rows: 100}}."
                raise InputError("is not a mapping", field=f"axes.{axis}.{name}.{_WITH}", hint=hint)
            for other in more.keys() - others:
                raise InputError(
                    "is not a value of another axis",
                    field=f"axes.{axis}.{name}.{_WITH}",
                    value=other,
                    hint=f"Values: {', '.join(sorted(others)) or 'none'}.",
                )
