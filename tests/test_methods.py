"""What a job may say of its strategy: what cannot be is refused when the job is read."""

from pathlib import Path
from typing import Any

import pytest

from s3ray.config import to_yaml
from s3ray.errors import InputError
from s3ray.jobfile import load_config

JOB = "name: job\ntask: review_sentences\ngenerator: {engine: fake}\nstrategy: STRATEGY\n"


def job(tmp_path: Path, strategy: str) -> Path:
    (tmp_path / "job.yaml").write_text(JOB.replace("STRATEGY", strategy))
    return tmp_path / "job.yaml"


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("{name: zerogen}", "needs `rows`"),
        ("{name: goldgen}", "needs `rows`"),
        ("{name: progen}", "needs `rows`"),
        ("{name: progen, rows: 100, seed_examples: 200}", "is less than `seed_examples`"),
        ("{name: transfer, rows: 100, seed_examples: 200}", "is less than `seed_examples`"),
        ("{name: s3plus, rows: 100, seed_examples: 200}", "is less than `seed_examples`"),
        ("{name: s3, seed_examples: 0}", "needs `seed_examples`"),
        ("{name: transfer, seed_examples: 0}", "needs `seed_examples`"),
        ("{name: progen, rows: 100, rounds: 0, seed_examples: 100}", "needs `rounds`"),
        ("{name: transfer, rounds: 0}", "needs `rounds`"),
        ("{name: llm2llm, rounds: 0}", "needs `rounds`"),
        ("{name: s3plus, rounds: 0}", "needs `rounds`"),
        ("{name: s3, rounds: 0, rows: 900}", "only the 400 `seed_examples`"),
        ("{name: gold, two_stage: true}", "writes no seed examples"),
        ("{name: llm2llm, two_stage: true}", "writes no seed examples"),
        ("{name: zerogen, rows: 10, plus: {contrast: false}}", "the strategy is zerogen"),
        ("{name: s3, plus: {coverage: 0.1}}", "the strategy is s3"),
        ("{name: s3plus, plus: {skip_persistent: 1}}", "greater than or equal to 2"),
        ("{name: s3plus, plus: {coverage: 1.5}}", "less than or equal to 1"),
        ("{name: s3plus, plus: {variants: 0}}", "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_field(tmp_path: Path, strategy: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        load_config(job(tmp_path, strategy))
    assert says in str(refused.value)
    assert refused.value.field.startswith("strategy")


@pytest.mark.parametrize(
    "strategy",
    [
        "{name: llm2llm, rows: 10}",
        "{name: transfer}",
        "{name: s3plus, plus: {contrast: false, clusters: 0, coverage: 0.0}}",
        "{name: s3, rationales: false, two_stage: true}",
        "{name: s3, rounds: 0, seed_examples: 90}",
        "{name: progen, rows: 400}",
    ],
)
def test_what_makes_sense_is_not(tmp_path: Path, strategy: str) -> None:
    load_config(job(tmp_path, strategy))


def test_a_resolved_job_can_be_read_again(tmp_path: Path) -> None:
    """`config.yaml` of a run spells out all switches, whether the strategy uses them or not."""

    config: Any = load_config(job(tmp_path, "{name: zerogen, rows: 10}"))
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
