"""The marker file of a finished training, and the ids of trainings. Does not import torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from s3ray.config.job import StudentConfig
from s3ray.config.shaping import data_shaping, fingerprint
from s3ray.errors import TrainerError
from s3ray.models import model_identity
from s3ray.storage.contents import checked, parse_json
from s3ray.storage.object_store import open_folder, read_file
from s3ray.types import EpochReport, Score, StudentJob

TRAINED = "trained.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went. ``training_id`` identifies what shaped the student; on disk it is called ``lineage``.

    The student's mistakes are always mined in blocks of ``block_rows`` rows, even if the default has changed since.
    """

    training_id: str
    num_rows: int
    best_epoch: int
    epochs: Sequence[EpochReport]
    select: Score
    block_rows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the marker."""
        plain = asdict(self)
        return {"lineage": plain.pop("training_id"), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Trained":
        """Read what ``as_dict`` returned."""
        kept = {name: value for name, value in plain.items() if name != "lineage"}
        epochs = tuple(EpochReport(**epoch) for epoch in plain["epochs"])
        return cls(**{**kept, "training_id": plain["lineage"], "epochs": epochs, "select": Score(**plain["select"])})


def training_id(config: StudentConfig, job: StudentJob) -> str:
    """An id (16 hex digits) of what shapes a student: settings, seed, and the rows that it is trained and selected on.

    A training continues only from a checkpoint with the same id; the paths of model and rows do not matter. With a
    checker that weighs the rows, its id and the settings of weighing count too.

    Raises:
        TrainerError: the job names a checker that does not exist.
    """
    files = [xxhash.xxh64_hexdigest(read_file(path)) for path in (job.train_path, job.select_path)]
    settings = data_shaping(config) | {"model": model_identity(config.model)}
    if job.checker is None:
        settings = {name: value for name, value in settings.items() if name not in ("weigh", "max_weight")}
    checker = {} if job.checker is None else {"checker": training_id_at(job.checker)}
    return fingerprint({"student": settings, "seed": job.seed, "files": files} | checker)


def questions(job: StudentJob) -> str:
    """An id (16 hex digits) of all rows that the trained student of a job is to answer."""
    asked = {"mine": job.mine_path, "test": job.test_path, **{f"probe {name}": job.probes[name] for name in job.probes}}
    return fingerprint({name: xxhash.xxh64_hexdigest(read_file(path)) for name, path in asked.items() if path})


def find_trained(output: str, training_id: str) -> Trained | None:
    """Read the marker in a student's folder; None if there is none, or it is that of another training.

    Raises:
        StoreError: the marker cannot be read.
    """
    found = _marker(output)
    return Trained.from_dict(found) if found.get("lineage") == training_id else None


def training_id_at(output: str) -> str:
    """The ``training_id`` of the trained student in a folder.

    Raises:
        TrainerError: there is no trained student.
        StoreError: the marker cannot be read.
    """
    found = _marker(output)
    if not found:
        raise TrainerError(f"there is no trained student in {output}", "Remove what is left of it and go on.")
    return str(found["lineage"])


def _marker(output: str) -> dict[str, Any]:
    """The content of the marker in a student's folder; empty if there is none."""
    files = open_folder(output)
    if not files.exists(TRAINED):
        return {}
    place = files.url(TRAINED)
    return checked(parse_json(files.read(TRAINED), place), place, dict[str, Any])
