"""A job file is strict: what is wrong is named with its file, field, value and a way out."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from s3ray.config import RunConfig, StudentConfig, data_shaping, fingerprint, to_yaml
from s3ray.errors import InputError
from s3ray.jobfile import load_config
from s3ray.presets import STUDENT_PRESETS

GOOD = "name: job\ntask: review_sentences\n"


def load(tmp_path: Path, text: str, **overrides: object) -> RunConfig:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_config(path, {name.replace("__", "."): value for name, value in overrides.items()})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "generatr: {}\n", ["generatr", "Did you mean `generator`?"]),
        (GOOD + "generator: {engnes: 2}\n", ["generator.engnes", "Did you mean `engines`?"]),
        ("name: job\n", ["task", "is missing"]),
        (GOOD + "student: {epochs: two}\n", ["student.epochs", "valid integer", "'two'"]),
        (GOOD + "student: {epochs: 0}\n", ["student.epochs", "greater than 0", "0"]),
        (GOOD + "strategy: {name: s4}\n", ["strategy.name", "'s3'", "'s4'"]),
        (GOOD + "strategy: {name: zerogen}\n", ["strategy", "needs `rows`"]),
        (GOOD + "strategy: {name: s3, seed_examples: 50, rows: 20}\n", ["strategy", "20", "50"]),
        (GOOD + "strategy: {name: s3, seed_examples: 0}\n", ["strategy", "needs `seed_examples`"]),
        (GOOD + "strategy: {name: s3, rounds: 0, seed_examples: 9, rows: 20}\n", ["strategy", "`rounds` 0"]),
        (GOOD + "generator: {sampling: {top_p: 1.5}}\n", ["generator.sampling.top_p", "1.5"]),
        ("name: ../../etc\ntask: imdb\n", ["name", "../../etc"]),
        ("name: [\n", ["not valid YAML", "line"]),
        ("- a list\n", ["holds no fields"]),
        ("name: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        load(tmp_path, text)
    assert refusal.value.exit_code == 2
    for part in ["job.yaml", *says]:
        assert part in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_the_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert load(tmp_path, to_yaml(config)) == config


def test_every_default_is_in_the_resolved_config(tmp_path: Path) -> None:
    resolved = yaml.safe_load(to_yaml(load(tmp_path, GOOD)))
    assert resolved["generator"]["max_num_seqs"] == RunConfig.model_fields["generator"].default.max_num_seqs


def test_every_field_says_what_it_is_for() -> None:
    sections = [RunConfig]
    for section in sections:
        for name, info in section.model_fields.items():
            assert info.description, f"{section.__name__}.{name} has no description"
            nested = info.annotation
            if isinstance(nested, type) and hasattr(nested, "model_fields"):
                sections.append(nested)


@pytest.mark.parametrize(
    ("field", "value", "shapes"),
    [
        ("generator__engines", 4, False),
        ("generator__max_num_seqs", 8, False),
        ("generator__endpoints", [{"url": "http://host/v1"}], False),
        ("generator__model", "other", True),
        ("student__workers", 2, False),
        ("cluster__address", "local", False),
        ("name", "other", False),
        ("seed", 1, True),
        ("strategy__rounds", 1, True),
        ("student__epochs", 9, True),
        ("generator__sampling__temperature", 0.1, True),
        ("curation__near_duplicate", 0.5, True),
    ],
)
def test_only_data_shaping_settings_are_fingerprinted(tmp_path: Path, field: str, value: object, shapes: bool) -> None:
    plain = fingerprint(data_shaping(load(tmp_path, GOOD)))
    changed = fingerprint(data_shaping(load(tmp_path, GOOD, **{field: value})))
    assert (plain != changed) is shapes


def test_a_preset_fills_in_what_the_job_does_not_say(tmp_path: Path) -> None:
    named = load(tmp_path, GOOD + "student: {preset: paper-rte, batch_size: 64, workers: 4}\n")
    student = named.student
    assert (student.learning_rate, student.weight_decay, student.epochs, student.max_length) == (1e-5, 1e-2, 20, 512)
    assert (student.batch_size, student.workers) == (64, 4)
    assert load(tmp_path, to_yaml(named)) == named
    spelled_out = named.student.model_dump() | {"preset": None}
    same = load(tmp_path, yaml.safe_dump({"name": "job", "task": "review_sentences", "student": spelled_out}))
    assert fingerprint(data_shaping(same)) == fingerprint(data_shaping(named))


def test_every_preset_is_a_valid_student() -> None:
    (literal, _) = get_args(StudentConfig.model_fields["preset"].annotation)
    assert set(get_args(literal)) == set(STUDENT_PRESETS)
    for preset, values in STUDENT_PRESETS.items():
        student = StudentConfig(preset=preset)  # type: ignore[arg-type]
        assert {name: getattr(student, name) for name in values} == values
