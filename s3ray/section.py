"""What all files that users write have in common: strict sections, where every field says what it is for."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(gt=0, le=1)]
EXECUTION: dict[str, Any] = {"execution": True}
"""Marks a field that may change between two starts of the same run; all others shape the data."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names that become names of folders."""


class Section(BaseModel):
    """A part of a file that users write: strict, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
