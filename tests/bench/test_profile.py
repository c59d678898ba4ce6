"""profile.json: what is written is read again, holes have a note, and nothing is unknown, infinite or secret."""

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from s3ray.bench.profile import Part, Profile, read_profile, write_profile
from s3ray.storage.run_folder import RunStore
from tests.bench.phases import IDENTITY, measured, profile, two_engines

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


def written(**changes: Any) -> dict[str, Any]:
    """A profile as it is read from disk."""
    return profile().model_dump(mode="json") | changes


def read(plain: dict[str, Any]) -> Profile:
    return Profile.model_validate_json(json.dumps(plain))


def holes(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all nulls."""
    if value is None:
        yield path[1:]
    elif isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from holes(part, f"{path}.{name}")


def field_paths(part: type[BaseModel] = Profile, prefix: str = "") -> Iterator[str]:
    """Every field as a dotted path, without the numbers of list entries."""
    for name, info in part.model_fields.items():
        hints = [info.annotation, *typing.get_args(info.annotation)]
        hints += [inner for hint in hints for inner in typing.get_args(hint)]
        parts = [hint for hint in hints if isinstance(hint, type) and issubclass(hint, Part)]
        if parts:
            yield from field_paths(parts[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{info.alias or name}"


def test_what_is_written_is_read_as_the_same() -> None:
    assert read(written()) == profile()


def test_one_file_lies_in_the_folder_and_nothing_else(tmp_path: Path) -> None:
    made = profile(measured(), measured(engine="fake"))
    write_profile(RunStore(tmp_path), made)
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]
    assert read_profile(str(tmp_path)) == read_profile(str(tmp_path / "profile.json")) == made


def test_what_is_not_known_is_null_and_a_note_says_why_by_its_path() -> None:
    record, silent = two_engines(), two_engines()
    record.dry_at = record.started_at
    silent.timings.clear()
    made = profile(
        measured(),
        measured(record=record, parameters=None),
        measured(record=silent, engine="openai", devices_per_engine=None),
    )
    assert made.cells[1].steady is None
    why = dict(note.split(": ", 1) for note in made.notes)
    assert len(why) == len(made.notes)
    assert set(why) == set(holes(made.model_dump(mode="json")))
    assert all(why.values())
    assert {path for path in why if path.startswith("cells.1.")} == {"cells.1.steady", "cells.1.mfu"}
    assert why["cells.1.mfu"] == "the number of the model's parameters is not known"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_profile_holds_no_figure_that_is_not_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="start_s"):
        profile(measured(starts_s=[value]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast"])
def test_figures_are_finite_numbers(value: object) -> None:
    plain = written()
    plain["cells"][0]["start_s"] = value
    with pytest.raises(ValidationError, match="start_s"):
        read(plain)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="speed"):
        read(written(speed=1))


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush-hush")
    identity = IDENTITY.model_copy(update={"command": "s3ray bench --set x=hush-hush-hush"})
    write_profile(RunStore(tmp_path), profile(identity=identity))
    for path in tmp_path.iterdir():
        assert "hush" not in path.read_text()
    assert "***" in (tmp_path / "profile.json").read_text()


def test_every_field_is_documented_and_every_documented_field_is_there() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(field_paths())
