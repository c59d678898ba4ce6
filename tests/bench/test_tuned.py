"""A tuned job is the job's own file with the settings in it."""

from pathlib import Path
from typing import Any

import pytest

from s3ray.bench.tuned import change_text
from s3ray.config.load import parse_yaml, set_fields

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, Any] = {
    "generator.engines": 1,
    "generator.max_num_seqs": 64,
    "generator.min_engines": None,
    "generator.engine_args.speculative_config": {"method": "ngram", "num_speculative_tokens": 3},
    "generator.engine_args.enforce_eager": False,
}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_keeps_its_comments_and_says_the_same_but_for_the_changes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    changed = change_text(text, CHANGES)
    assert parse_yaml(changed) == set_fields(parse_yaml(text), CHANGES)
    assert [line.partition("#")[2] for line in changed.splitlines() if "#" in line] == [
        line.partition("#")[2] for line in text.splitlines() if "#" in line
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name: a\n",
        "name: a\ngenerator: {}\n",
        "name: a\ngenerator: {engines: 2, engine_args: {a: 1}} # two\n",
        "generator:\n    engines: 2\n    engine_args:\n        speculative_config:\n            method: x\n\nname: a",
        "{name: a, generator: {max_num_seqs: 3}}",
        "name: a\ngenerator:\n  # none yet\n  sampling:\n    stop: [a]\n",
        'name: "a"\nshared: &s {engines: 5}\ngenerator: *s\n',
    ],
)
def test_files_of_any_shape_get_the_settings(text: str) -> None:
    assert parse_yaml(change_text(text, CHANGES)) == set_fields(parse_yaml(text), CHANGES)


def test_no_change_is_no_change() -> None:
    assert change_text("name: a # b\n", {}) == "name: a # b\n"
