"""`s3ray bench` on the quickstart's models: every figure that a CPU can give, and tokens as vLLM itself counts them."""

import subprocess
import sys
from pathlib import Path

import pytest

from s3ray.bench.profile import Profile, read_profile
from tests.cluster.heads import WAIT_S, Head

pytestmark = [pytest.mark.engine, pytest.mark.ray]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Profile:
    out = tmp_path_factory.mktemp("bench") / "out"
    options = ["--engines", "1", "--max-num-seqs", "8", "--prompts", "seed", "--requests", "32", "--min-seconds", "1"]
    settings = ["--set", f"cluster.address={head.address}", "--set", "strategy.reasons_per_label=5"]
    words = [sys.executable, "-c", "from s3ray.cli import main; main()", "bench", "jobs/quickstart.yaml"]
    ended = subprocess.run(
        [*words, *options, *settings, "--out", str(out)],
        cwd=ROOT,
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return read_profile(str(out))


def test_only_what_a_cpu_cannot_give_is_missing(made: Profile) -> None:
    why = dict(note.split(": ", 1) for note in made.notes)
    assert set(why) == {"scaling", "cells.0.mfu"}
    assert "no GPU" in why["cells.0.mfu"]
    assert made.identity.parameters == 134_515_008
    (cell,) = made.cells
    assert cell.validity.false == []
    assert cell.volumes.accepted > 0


def test_tokens_agree_with_the_engine_s_own_counters(made: Profile) -> None:
    (cell,) = made.cells
    counters, whole, steady = cell.counters, cell.whole, cell.steady
    assert counters.output.again == 0, "with one engine nothing is answered twice"
    by_engine = counters.output.engine / whole.seconds
    assert whole.output_tokens_per_s == pytest.approx(by_engine, rel=0.02)
    assert counters.prompt.pool == pytest.approx(counters.prompt.engine, rel=0.02)
    assert steady is not None
    assert steady.output_tokens_per_s * steady.seconds <= 1.02 * counters.output.engine


def test_latencies_are_nested_and_shares_are_whole(made: Profile) -> None:
    (cell,) = made.cells
    latency, shares = cell.latency, cell.shares
    assert latency.queue_s is not None
    assert latency.ttft_s is not None
    assert latency.tpot_s is not None
    assert latency.e2e_s is not None
    assert latency.ttft_s.num >= cell.requests, "second tries are timed too"
    assert 0 <= latency.queue_s.p50 < latency.ttft_s.p50 < latency.e2e_s.p50
    assert 0 < latency.tpot_s.p50 < latency.e2e_s.p50
    assert shares.busy + shares.bubble + shares.tail + shares.down == pytest.approx(1)
    assert shares.busy > 0.8
    assert cell.cache is not None
    assert cell.cache.kv_use is not None
    assert 0 < cell.cache.kv_use.peak <= 1
    assert cell.running is not None
    assert 4 < cell.running.peak <= 8
