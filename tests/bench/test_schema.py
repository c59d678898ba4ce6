"""The profile's rule: no null without a reason, no reason without a null, nothing unknown, nothing infinite."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from s3ray.bench.schema import Missing, Profile, field_paths, make_profile
from tests.bench.phases import measured, profile, profile_tree, two_engines

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


def written(**changes: Any) -> dict[str, Any]:
    """A profile as it is read from disk."""
    plain: dict[str, Any] = json.loads(json.dumps(profile().plain()))
    return plain | changes


def test_what_is_written_is_read_as_the_same() -> None:
    assert Profile.model_validate(written()) == profile()


def test_missing_values_are_null_and_their_reasons_stand_by_their_paths() -> None:
    record = two_engines()
    record.dry_at = record.started_at
    made = profile(measured(), measured(record=record, parameters=Missing("nobody counted")))
    assert made.cells[1].steady is None
    assert set(made.reasons) == {"scaling", "cells.1.steady", "cells.1.mfu"}
    assert made.reasons["cells.1.mfu"] == "nobody counted"


def test_a_null_without_a_reason_is_refused() -> None:
    plain = written()
    plain["cells"][0]["mfu"] = None
    with pytest.raises(ValidationError, match=r"null without a reason: cells\.0\.mfu"):
        Profile.model_validate(plain)


def test_a_reason_without_a_null_is_refused() -> None:
    plain = written()
    plain["reasons"]["cells.0.mfu"] = "it is there"
    with pytest.raises(ValidationError, match=r"a reason for what is not null: cells\.0\.mfu"):
        Profile.model_validate(plain)


def test_an_empty_reason_is_none() -> None:
    plain = written()
    plain["reasons"]["scaling"] = ""
    with pytest.raises(ValidationError, match="an empty reason: scaling"):
        Profile.model_validate(plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast"])
def test_figures_are_finite_numbers(value: object) -> None:
    tree = profile_tree()
    tree["cells"][0]["start_s"] = value
    with pytest.raises(ValidationError, match="start_s"):
        make_profile(tree)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="speed"):
        Profile.model_validate(written(speed=1))


def test_every_field_is_documented_and_every_documented_field_is_there() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(field_paths())
