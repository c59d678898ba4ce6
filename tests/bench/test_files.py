"""profile.json, profile.csv and the table: whole, without secrets, a line for each cell."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from s3ray.bench.files import read_profile, write_profile
from s3ray.bench.schema import CellProfile, Missing, field_paths
from s3ray.bench.sweep import Cell
from s3ray.bench.table import profile_table
from s3ray.store import RunStore
from tests.bench.phases import measured, profile, tally, two_engines


def test_both_files_lie_in_the_folder_and_nothing_else(tmp_path: Path) -> None:
    made = profile(measured(), measured(engine="fake"))
    write_profile(RunStore(tmp_path), made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["profile.csv", "profile.json"]
    assert read_profile(str(tmp_path)) == read_profile(str(tmp_path / "profile.json")) == made


def test_the_csv_has_a_line_for_each_cell_and_a_column_for_each_field(tmp_path: Path) -> None:
    write_profile(RunStore(tmp_path), profile(measured(), measured(parameters=Missing("nobody counted"))))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "profile.csv").read_text())))
    assert len(rows) == 2
    assert set(rows[0]) == {"job", "model", "device_name", "commit", *field_paths(CellProfile)}
    assert float(rows[0]["whole.output_tokens_per_s"]) == pytest.approx(2250 / 24)
    assert json.loads(rows[0]["volumes.rejected"]) == {"truncated": 50}
    assert float(rows[0]["mfu"]) > 0
    assert rows[1]["mfu"] == ""


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush-hush")
    write_profile(RunStore(tmp_path), profile(identity={"command": "s3ray bench --set x=hush-hush-hush"}))
    for path in tmp_path.iterdir():
        assert "hush" not in path.read_text()
    assert "***" in (tmp_path / "profile.json").read_text()


def shown(*cells: object) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(profile_table(profile(*cells)))  # type: ignore[arg-type]
    return console.export_text()


def test_the_table_marks_cells_that_are_not_valid() -> None:
    record = two_engines()
    record.dry_at = record.started_at
    text = shown(measured(), measured(record=record, restarts=1))
    (good, bad) = (line for line in text.splitlines() if line.split()[:3] == ["2", "8", "seed"])
    assert not good.rstrip().endswith("!")
    assert bad.rstrip().endswith("!")
    assert "not long_enough, not no_restarts" in text
    assert "93.8" in good
    assert "fake engine" not in text


def test_large_numbers_fit_into_the_table() -> None:
    many = Cell(engines=128, max_num_seqs=1024, prompts="extrapolate", requests=1_048_576, repeat=0)
    text = shown(measured(cell=many, tally=tally(output_tokens=10**8, prompt_tokens=10**8, accepted=10**6)))
    assert "1048576" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_the_table_says_what_a_fake_engine_s_speeds_are_worth() -> None:
    assert "its speeds mean nothing" in shown(measured(engine="fake"))
