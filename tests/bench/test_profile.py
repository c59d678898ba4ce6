"""profile.json: what is written is read again, holes have a note, and nothing is unknown, infinite or secret."""

import json
import re
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from s3ray.bench.profile import Profile, from_plain, read_profile, to_plain, write_profile
from s3ray.storage.run_folder import RunStore
from tests.bench.phases import IDENTITY, measured, profile, two_engines

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


def written(**changes: Any) -> dict[str, Any]:
    """A profile as it is read from disk."""
    plain: dict[str, Any] = json.loads(json.dumps(to_plain(profile())))
    return plain | changes


def holes(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all nulls."""
    if value is None:
        yield path[1:]
    elif isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from holes(part, f"{path}.{name}")


def field_paths(part: Any = Profile, prefix: str = "") -> Iterator[str]:
    """Every field as a dotted path, without the numbers of list entries."""
    for name, hint in typing.get_type_hints(part).items():
        inner = [one for one in (hint, *typing.get_args(hint)) if is_dataclass(one)]
        inner += [one for union in typing.get_args(hint) for one in typing.get_args(union) if is_dataclass(one)]
        if inner:
            yield from field_paths(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_what_is_written_is_read_as_the_same() -> None:
    assert from_plain(written()) == profile()


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
    assert set(why) == set(holes(to_plain(made)))
    assert all(why.values())
    assert {path for path in why if path.startswith("cells.1.")} == {"cells.1.steady", "cells.1.mfu"}
    assert why["cells.1.mfu"] == "the number of the model's parameters is not known"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    made = profile()
    wrong = replace(made, cells=(replace(made.cells[0], start_s=value),))
    with pytest.raises(ValidationError, match="start_s"):
        write_profile(RunStore(tmp_path), wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast"])
def test_figures_are_finite_numbers(value: object) -> None:
    plain = written()
    plain["cells"][0]["start_s"] = value
    with pytest.raises(ValidationError, match="start_s"):
        from_plain(plain)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="speed"):
        from_plain(written(speed=1))


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush-hush")
    identity = replace(IDENTITY, command="s3ray bench --set x=hush-hush-hush")
    write_profile(RunStore(tmp_path), profile(identity=identity))
    for path in tmp_path.iterdir():
        assert "hush" not in path.read_text()
    assert "***" in (tmp_path / "profile.json").read_text()


def test_every_field_is_documented_and_every_documented_field_is_there() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(field_paths())
