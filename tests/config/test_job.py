"""What a job may say of its strategy: what cannot be is refused when the job is read."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from s3ray.config.job import GeneratorConfig, RunConfig, StudentConfig, to_yaml
from s3ray.config.load import load_config
from s3ray.config.presets import STUDENT_PRESETS
from s3ray.config.shaping import data_shaping, fingerprint
from s3ray.errors import InputError

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
        ("generator__thinking", "auto", False),
        ("generator__thinking", "off", True),
        ("generator__sampling__top_k", 0, False),
        ("generator__sampling__top_k", 40, True),
        ("generator__sampling__min_p", 0.05, True),
        ("generator__sampling__repetition_penalty", 1.1, True),
        ("generator__sampling__presence_penalty", 0.0, False),
        ("generator__sampling__frequency_penalty", -0.5, True),
        ("generator__adapter", "", False),
        ("generator__adapter", "org/adapter", True),
        ("generator__engine_metrics", True, False),
        ("generator__max_num_seqs", "auto", False),
        ("generator__engine_args", {}, False),
        ("generator__engine_args", {"block_size": 16, "speculative_config": {"method": "ngram"}}, False),
        ("generator__engine_args", {"block_size": 16, "quantization": "fp8"}, True),
        ("curation__near_duplicate", 0.5, True),
    ],
)
def test_only_data_shaping_settings_are_fingerprinted(tmp_path: Path, field: str, value: object, shapes: bool) -> None:
    plain = fingerprint(data_shaping(load(tmp_path, GOOD)))
    changed = fingerprint(data_shaping(load(tmp_path, GOOD, **{field: value})))
    assert (plain != changed) is shapes


def test_thinking_is_switched_off_by_the_word_off_and_only_in_chat(tmp_path: Path) -> None:
    for said in ("off", "'off'"):
        assert load(tmp_path, GOOD + f"generator: {{thinking: {said}}}\n").generator.thinking == "off"
    assert "thinking" not in data_shaping(load(tmp_path, GOOD))["generator"], "runs from before it go on"
    with pytest.raises(InputError, match="prompt_form completion uses none"):
        load(tmp_path, GOOD + "generator: {thinking: off, prompt_form: completion}\n")


@pytest.mark.parametrize(
    "setting", ["engine_args: {speculative_config: {method: ngram}}", "adapter: org/it", "engine_metrics: true"]
)
def test_what_engines_here_do_is_refused_for_a_server(tmp_path: Path, setting: str) -> None:
    load(tmp_path, GOOD + f"generator: {{engine: fake, {setting}}}\n")
    with pytest.raises(InputError, match="a server has settings of its own"):
        load(tmp_path, GOOD + f"generator: {{engine: openai, {setting}}}\n")


def test_only_sampling_settings_that_are_on_are_said() -> None:
    sampling = GeneratorConfig.model_validate({"sampling": {"top_k": 40, "frequency_penalty": 0.5}}).sampling
    assert sampling.switched_on == {"top_k": 40, "frequency_penalty": 0.5}
    assert GeneratorConfig().sampling.switched_on == {}


def test_a_limit_that_is_left_to_the_card_is_256_where_there_is_none() -> None:
    assert (GeneratorConfig().max_num_seqs, GeneratorConfig().num_seqs) == ("auto", 256)
    assert GeneratorConfig(max_num_seqs=7).num_seqs == 7


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
