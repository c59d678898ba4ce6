"""A student's view of a table: for each row its answer, the probabilities, and the features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s3ray.types import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """A probed table, row by row.

    Shapes: ``target_probability`` (rows), ``probabilities`` (rows, labels), ``features`` (rows, width).
    """

    ids: Sequence[str]
    predicted: Sequence[str]
    target_probability: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]

    def places(self, rows: Sequence[Example]) -> list[int]:
        """The positions of these rows in the table."""
        place = {id_: number for number, id_ in enumerate(self.ids)}
        return [place[row.id] for row in rows]


def probes_from_table(table: pa.Table) -> Probes:
    """Read a table of ``PROBE_SCHEMA``."""
    return Probes(
        ids=table["id"].to_pylist(),
        predicted=table["predicted"].to_pylist(),
        target_probability=table["target_probability"].to_numpy(),
        probabilities=_matrix(table["probabilities"]),
        features=_matrix(table["features"]),
    )


def _matrix(lists: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Lists of equal length, row by row."""
    values: npt.NDArray[Any] = lists.combine_chunks().flatten().to_numpy()
    return values.reshape(len(lists), len(values) // max(1, len(lists)))
