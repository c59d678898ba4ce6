"""What is known of a student whose training is over: the marker beside its weights, from which its scoring goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from s3ray.config.job import StudentConfig, data_shaping, fingerprint
from s3ray.errors import TrainerError
from s3ray.models import model_identity
from s3ray.storage.object_store import open_folder, read_file
from s3ray.types import EpochReport, Score, StudentJob

TRAINED = "trained.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went. ``training id`` names what shaped the student (``training id``).

    Its mistakes are mined in blocks of ``block_rows`` rows, also by a version that would take blocks of another size.
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


def training_id(config: StudentConfig, job: StudentJob) -> str:
    """A name (16 hex digits) for what shapes a student: settings, seed, the rows that it is trained and chosen on.

    A training may go on from a checkpoint of the same name, and of no other, wherever model and rows lie. The checker
    that weighs the rows is part of it; without one, how they would be weighed is not.

    Raises:
        TrainerError: there is no such checker.
    """
    files = [xxhash.xxh64_hexdigest(read_file(path)) for path in (job.train_path, job.select_path)]
    settings = data_shaping(config) | {"model": model_identity(config.model)}
    if job.checker is None:
        settings = {name: value for name, value in settings.items() if name not in ("weigh", "max_weight")}
    checker = {} if job.checker is None else {"checker": training_id_at(job.checker)}
    return fingerprint({"student": settings, "seed": job.seed, "files": files} | checker)


def questions(job: StudentJob) -> str:
    """A name (16 hex digits) for all that a trained student is asked: equal students answer equal questions equally."""
    asked = {"mine": job.mine_path, "test": job.test_path, **{f"probe {name}": job.probes[name] for name in job.probes}}
    return fingerprint({name: xxhash.xxh64_hexdigest(read_file(path)) for name, path in asked.items() if path})


def find_trained(output: str, training_id: str) -> Trained | None:
    """What the marker in a student's folder says; None where there is none, or that of another student.

    Raises:
        StoreError: it is there and cannot be read.
    """
    found = _marker(output)
    return _from_dict(found) if found.get("lineage") == training_id else None


def training_id_at(output: str) -> str:
    """What shaped the trained student in a folder (``training id``).

    Raises:
        TrainerError: there is none.
        StoreError: it is there and cannot be read.
    """
    found = _marker(output)
    if not found:
        raise TrainerError(f"there is no trained student in {output}", "Remove what is left of it and go on.")
    return str(found["lineage"])


def _marker(output: str) -> dict[str, Any]:
    """What the marker in a student's folder says; nothing where there is none."""
    files = open_folder(output)
    return dict(json.loads(files.read(TRAINED))) if files.exists(TRAINED) else {}


def _from_dict(found: Mapping[str, Any]) -> Trained:
    plain = dict(found)
    epochs = tuple(EpochReport(**epoch) for epoch in plain.pop("epochs"))
    return Trained(training_id=plain.pop("lineage"), epochs=epochs, select=Score(**plain.pop("select")), **plain)
