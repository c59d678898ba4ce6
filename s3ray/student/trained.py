"""What is known of a student whose training is over: the marker beside its weights, from which its scoring goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s3ray.errors import TrainerError
from s3ray.objects import open_folder
from s3ray.student.model import TRAINED
from s3ray.types import EpochReport, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went. ``lineage`` names what shaped the student (``fit.lineage``).

    Its mistakes are mined in blocks of ``block_rows`` rows, also by a version that would take blocks of another size.
    """

    lineage: str
    num_rows: int
    best_epoch: int
    epochs: Sequence[EpochReport]
    select: Score
    block_rows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the marker."""
        return asdict(self)


def find_trained(output: str, lineage: str) -> Trained | None:
    """What the marker in a student's folder says; None where there is none, or that of another student.

    Raises:
        StoreError: it is there and cannot be read.
    """
    found = _marker(output)
    return _from_dict(found) if found.get("lineage") == lineage else None


def lineage_at(output: str) -> str:
    """What shaped the trained student in a folder (``fit.lineage``).

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
    epochs = tuple(EpochReport(**epoch) for epoch in found["epochs"])
    return Trained(**{**found, "epochs": epochs, "select": Score(**found["select"])})
