"""What a job needs of this machine, and the command that runs it on a cluster. Reads files, sends nothing.

The rule: the folder that one submits from is the job's working directory on the cluster too, and holds there what the
job names by relative path: job file, task, data. Nothing else is sent. What is named by absolute path or URL must be
within reach of every node.
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3ray.campaign.grid import load_campaign
from s3ray.config import RunConfig
from s3ray.errors import InputError, located
from s3ray.files import is_url, join, local_path
from s3ray.jobfile import load_config, parse_settings, read_yaml
from s3ray.objects import refuse_password
from s3ray.preflight import check_endpoints, check_secrets
from s3ray.tasks import load_task
from s3ray.tasks.source import find_file
from s3ray.weights import PACKAGE

_YAML = (".yaml", ".yml")
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A checked job on its way to a cluster.

    ``folder`` is that of its run or campaign, ``files`` are relative to the working directory, ``key_variables`` name
    the environment variables that hold keys.
    """

    name: str
    folder: str
    command: str
    files: tuple[str, ...]
    key_variables: frozenset[str]


def pack(job: Path, out: str | None, settings: Sequence[str]) -> Parcel:
    """Check a job or a grid as far as that is possible here, and say what it needs on a cluster.

    ``settings`` are texts ``FIELD=VALUE``.

    Raises:
        InputError: the job is wrong, or names something that the cluster would not have.
    """
    with located(job):
        return _pack(job, out, settings)


def _pack(job: Path, out: str | None, settings: Sequence[str]) -> Parcel:
    changes = parse_settings(settings)
    if "axes" in read_yaml(job):
        campaign = load_campaign(job, changes)
        name, configs = campaign.config.name, [run.config for run in campaign.runs]
        jobs, verb, prefix = [job, job.parent / campaign.config.job], "compare", "job."
    else:
        config = load_config(job, changes)
        name, configs, jobs, verb, prefix = config.name, [config], [job], "run", ""
    for config in configs:
        _check_models(config)
        if config.generator.endpoints or (config.generates and config.generator.engine == "openai"):
            check_endpoints(config.generator.endpoints)  # here, before a URL with a password is sent in clear
        check_secrets(config)
    folder = out if out is not None else join(configs[0].store, name)
    _check_shared(out if out is not None else configs[0].store, "--out" if out is not None else "store")
    files = dict.fromkeys(_below(path) for path in [*jobs, *_files_of(configs)])
    words = ["s3ray", verb, _below(job), *(["--out", out] if out is not None else [])]
    # The cluster that a job names is one to join from here; sent to a cluster, it runs on that one.
    joins = [] if configs[0].cluster.address == "auto" else [f"{prefix}cluster.address=auto"]
    words += [word for setting in [*settings, *joins] for word in ("--set", setting)]
    return Parcel(
        name=name,
        folder=folder,
        command=shlex.join(words),
        files=tuple(files),
        key_variables=frozenset(each.key_env for config in configs for each in config.generator.endpoints),
    )


def _files_of(configs: Iterable[RunConfig]) -> Iterator[Path]:
    """Task and data of all jobs, where they are named by relative path."""
    for name, data in dict.fromkeys((config.task, config.data) for config in configs):
        path = Path(name)
        is_own = path.suffix in _YAML
        if is_own and path.is_absolute():
            place = Path(data) if data else None
        else:
            task = load_task(name, data)  # checks it as well
            place = task.data if is_own or data else None  # a builtin task has its data in the package
            if is_own:
                yield path
        if place is not None and not place.is_absolute():
            splits = [place] if place.is_file() else [find_file(place, split) for split in _SPLITS]
            yield from (file for file in splits if file)


def _below(path: Path) -> str:
    """The path seen from the folder that one submits from."""
    relative = os.path.relpath(path)
    if relative.startswith(os.pardir):
        hint = "Submit from a folder that holds all that the job names by relative path, or give absolute paths."
        raise InputError("lies outside the folder that you submit from", value=str(path), hint=hint)
    return relative


def _check_models(config: RunConfig) -> None:
    models = {"student.model": config.student.model}
    if config.generates and config.generator.engine == "vllm":
        models["generator.model"] = config.generator.model
    for field, model in models.items():
        path = Path(model)
        is_here = model.startswith((".", "~")) or path.suffix == ".gguf" or path.exists()
        if model and not model.startswith(PACKAGE) and not path.is_absolute() and is_here:
            hint = "Models are not sent. Name a hub id, package:NAME, or an absolute path that every node has."
            raise InputError("is a relative path", field=field, value=model, hint=hint)


def _check_shared(place: str, field: str) -> None:
    refuse_password(place)
    if not is_url(place) and not Path(local_path(place)).is_absolute():
        hint = (
            "On the cluster it would lie in the job's working directory and be lost with it. Give `store` or --out as "
            "an absolute path that every node reaches, or as a URL such as s3://bucket/runs."
        )
        raise InputError("is a relative path", field=field, value=place, hint=hint)
