"""Two profiles: cells matched, ratios beside their spread, and why two cannot be compared; and the table of one."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from s3ray.bench.compare import CellComparison, compare_profiles, profile_table
from s3ray.bench.measures import Measured
from s3ray.bench.profile import Cell, Profile
from s3ray.errors import InputError
from tests.bench.phases import IDENTITY, limits, measured, profile, tally, two_engines
from tests.test_cli import refused, s3ray


def repeats(*outputs: int, prompts: str = "seed", **changes: Any) -> list[Measured]:
    """A cell measured several times, with so many output tokens each."""
    cell = Cell(engines=2, max_num_seqs=8, prompts=prompts, requests=200, repeat=0)
    return [
        measured(cell=cell.model_copy(update={"repeat": place}), tally=tally(output_tokens=tokens), **changes)
        for place, tokens in enumerate(outputs)
    ]


def only(old: Profile, new: Profile) -> CellComparison:
    (comparison,) = compare_profiles(old, new)
    return comparison


def ratio(comparison: CellComparison, figure: str = "whole.output_tokens_per_s") -> Any:
    return next(ratio for ratio in comparison.ratios if ratio.figure == figure)


def test_ratios_are_of_medians_and_spreads_of_all_pairs() -> None:
    found = ratio(only(profile(*repeats(1000, 1100, 1200)), profile(*repeats(2200, 2000, 2400))))
    assert found.ratio == pytest.approx(2.0)
    assert (found.low, found.high) == (pytest.approx(2000 / 1200), pytest.approx(2400 / 1000))
    assert found.verdict == "higher"


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1000, 1100), (1090, 1200), "within spread"),
        ((1000, 1100), (800, 900), "lower"),
        ((1000,), (2000,), "one repeat"),
        ((1000, 1100), (2000,), "one repeat"),
    ],
)
def test_verdicts(old: tuple[int, ...], new: tuple[int, ...], verdict: str) -> None:
    assert ratio(only(profile(*repeats(*old)), profile(*repeats(*new)))).verdict == verdict


def test_only_cells_that_both_have_are_compared() -> None:
    old = profile(*repeats(1000), *repeats(1000, prompts="extrapolate"))
    comparisons = compare_profiles(old, profile(*repeats(1000, prompts="extrapolate")))
    assert [comparison.key for comparison in comparisons] == [(2, 8, "extrapolate", 200)]


def test_figures_that_one_lacks_are_left_out() -> None:
    unknown = profile(*repeats(2250, devices_per_engine=None))
    figures = [ratio.figure for ratio in only(unknown, unknown).ratios]
    assert "accepted_per_s" in figures
    assert "device_s_per_accepted" not in figures


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        ({"model": "org/other", "parameters": 1}, "model 'org/model', 'org/other'"),
        ({"dtype": "float16", "parameters": 1}, "dtype 'bfloat16', 'float16'"),
        ({"engine": "openai"}, "engine 'vllm', 'openai'"),
        ({"tensor_parallel": 2}, "tensor_parallel 1, 2"),
        ({"task": "imdb"}, "task"),
        ({"sampling": {"max_tokens": 128}}, "sampling"),
    ],
)
def test_measurements_of_different_things_are_refused(identity: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match="cannot be compared") as refusal:
        compare_profiles(profile(), profile(identity=IDENTITY.model_copy(update=identity)))
    assert says in str(refusal.value)


def on_machine(**changes: Any) -> Profile:
    return profile(identity=IDENTITY.model_copy(update=changes))


def test_another_device_is_another_thing_and_so_is_another_number_of_cores() -> None:
    with pytest.raises(InputError, match=r"device_name 'NVIDIA H100 80GB HBM3', 'NVIDIA A100'"):
        compare_profiles(profile(), on_machine(device_name="NVIDIA A100"))
    with pytest.raises(InputError, match="cpus 2, 4"):
        compare_profiles(on_machine(device="cpu", cpus=2), on_machine(device="cpu", cpus=4))
    assert compare_profiles(profile(), on_machine(cpus=128)), "beside GPUs the cores do not decide"


def test_cells_whose_engines_resolved_other_limits_are_not_compared() -> None:
    comparison = only(profile(), profile(measured(limits=[limits(num_kv_tokens=7)] * 2)))
    assert not comparison.ratios
    assert "'num_kv_tokens': 7" in comparison.problem


def test_profiles_without_a_common_cell_are_refused() -> None:
    with pytest.raises(InputError, match="no cell in common"):
        compare_profiles(profile(), profile(*repeats(1000, prompts="extrapolate")))


def test_what_a_reader_must_know_stands_beside_the_ratios() -> None:
    comparison = only(profile(), profile(measured(work="f" * 16, restarts=2)))
    assert comparison.notes == ("new: no_restarts is false", "the requests are not the same ones")


def test_the_command_prints_the_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tokens in (("old", 1000), ("new", 1500)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "profile.json").write_text(profile(*repeats(tokens)).model_dump_json())
    folder, file = tmp_path / "old", tmp_path / "new" / "profile.json"
    assert s3ray(monkeypatch, "bench-compare", str(folder), str(file)) == 0
    text = capsys.readouterr().out
    for part in (
        "2 x 8 seed 200",
        "whole.output_tokens_per_s",
        "1.500",
        "one repeat",
        "counters_agree is false",
        "e2e_s.p50",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ["cannot be read"]),
        ("not json", ["cannot be read"]),
        ("[]", ["is not a profile"]),
        ('{"schema": 1}', ["is not a profile"]),
        (
            '{"schema": 1, "identity": {}, "cells": []}',
            ["schema", "got 1", "2, which this version reads", "Measure again"],
        ),
        ('{"schema": 3, "identity": {}, "cells": []}', ["schema", "got 3", "which this version reads"]),
        ('{"schema": 2, "identity": {}, "cells": []}', ["complete", "is not a profile"]),
    ],
)
def test_files_that_are_no_profiles_end_with_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    says: list[str],
) -> None:
    (tmp_path / "good.json").write_text(profile().model_dump_json())
    if content is not None:
        (tmp_path / "bad.json").write_text(content)
    names = [str(tmp_path / name) for name in ("good.json", "bad.json")]
    refused(monkeypatch, capsys, "bench-compare", *names, says=["bad.json", *says])


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
