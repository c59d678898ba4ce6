"""The files and the table of a search for faster settings."""

from pathlib import Path
from typing import Any

import pytest

from s3ray.bench.measures import cell_profile
from s3ray.bench.profile import CellProfile, Rates
from s3ray.bench.search import OWN, Candidate
from s3ray.bench.trials import Pair, Start, Trial, Tuning, read_part, table, trial_name, trial_of, write_part
from s3ray.errors import InputError
from s3ray.storage.run_folder import RunStore
from tests.bench import phases

MORE = Candidate(axis="sequences", setting="max_num_seqs 32", changes={"generator.max_num_seqs": 32})
GUESS = Candidate(
    axis="speculation",
    setting="n-gram speculation, 3 ahead",
    changes={**MORE.changes, "generator.engine_args.speculative_config": {"method": "ngram"}},
    on_top=("max_num_seqs 32",),
    best=1.3,
)


def cell(tokens_per_s: float, **changes: Any) -> CellProfile:
    """A measurement with this speed."""
    measured = cell_profile(phases.measured(), [])
    whole = Rates.model_validate({**measured.whole.model_dump(), "output_tokens_per_s": tokens_per_s})
    return measured.model_copy(update={"whole": whole, **changes})


def tuning(ratio: float = 1.3) -> Tuning:
    """A search with a gain, a loss, a failure and what was left out."""
    left_out = Candidate(axis="KV memory", setting="kv_cache_gib 2", changes={}, problem="the KV cache is never full")
    own = trial_of(OWN, [cell(100.0), cell(110.0), cell(90.0)])
    return Tuning(
        identity=phases.IDENTITY,
        requests=96,
        trials=(
            own,
            trial_of(MORE, [cell(130.0), cell(132.0), cell(126.0)]),
            trial_of(left_out),
            trial_of(GUESS, [cell(104.0)]),
            trial_of(GUESS, problem="engine-0 was lost: RuntimeError: a | b"),
        ),
        final=(Pair(own=cell(100.0), best=cell(100.0 * ratio)),),
        changes=dict(MORE.changes),
        ratio=ratio,
        notes=(),
    )


def test_ratios_compare_measurements_of_the_same_requests() -> None:
    own = trial_of(OWN, [cell(100.0), cell(50.0), cell(200.0)])
    assert trial_of(MORE, [cell(130.0), cell(60.0), cell(300.0)]).ratio(own) == pytest.approx(1.3)
    assert trial_of(MORE, [cell(90.0)]).ratio(own) == pytest.approx(0.9)
    assert trial_of(MORE, problem="lost").ratio(own) is None


def test_the_table_says_what_each_setting_gave_and_why_others_gave_nothing() -> None:
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in table(tuning()).splitlines() if "|" in line]
    assert [line[:6] for line in lines[2:5]] == [
        ["the job's own", "", "100.0", "1.00", "", "3 x"],
        ["max_num_seqs 32", "", "130.0", "1.30", "1.30", "3 x"],
        ["kv_cache_gib 2", "", "", "", "", "left out"],
    ]
    assert lines[5][:6] == ["n-gram speculation, 3 ahead", "max_num_seqs 32", "104.0", "1.04", "0.80", "1 x"]
    assert lines[4][7] == "the KV cache is never full"
    assert r"a \| b" in table(tuning())
    assert "1.30 times as fast as the job's own" in table(tuning())
    assert "`generator.max_num_seqs: 32`" in table(tuning())


def test_a_gain_that_the_comparison_does_not_confirm_is_none() -> None:
    assert tuning().gains
    assert not tuning(ratio=1.04).gains
    assert "not worth a change" in table(tuning(ratio=1.04))


def test_what_was_measured_is_read_again_and_other_settings_have_other_files(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    trial = trial_of(GUESS, [cell(104.0)])
    write_part(store, trial_name(GUESS), trial)
    assert read_part(store, trial_name(GUESS), Trial) == trial
    assert read_part(store, trial_name(MORE), Trial) is None
    (tmp_path / trial_name(MORE)).write_text("{}")
    with pytest.raises(InputError, match="is not a file of this version"):
        read_part(store, trial_name(MORE), Trial)


def make_start(settings: dict[str, Any], asked: int | None) -> Start:
    """A search with 96 requests, of ``asked`` that it was told."""
    return Start(
        settings=settings,
        cluster="1 node, 2 CPU cores, no GPU",
        asked=asked,
        requests=96,
        total=384,
        prompt_notes={},
        calibration=None,
        identity=phases.IDENTITY,
        notes=(),
    )


def test_a_search_goes_on_only_with_the_same_job_on_the_same_cluster() -> None:
    settings: dict[str, Any] = {"generator": {"engines": 2, "model": "m"}}
    start = make_start(settings, asked=None)
    assert start.differences(settings, start.cluster, None) == start.differences(settings, start.cluster, 96) == ""
    assert "generator.engines was 2, is 3" in start.differences(
        {"generator": {"engines": 3, "model": "m"}}, start.cluster, None
    )
    assert "the cluster was" in start.differences(settings, "1 node, 4 CPU cores, no GPU", None)
    assert "--requests was 96, is 64" in start.differences(settings, start.cluster, 64)


def test_a_search_goes_on_by_the_same_command_where_the_strategy_makes_fewer_requests_than_were_asked_for() -> None:
    start = make_start({}, asked=1000)
    assert start.differences({}, start.cluster, 1000) == start.differences({}, start.cluster, 96) == ""
    assert "--requests was 96, is 64" in start.differences({}, start.cluster, 64)
