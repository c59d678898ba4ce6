"""A run is known by the content of what shapes its data, wherever the files lie."""

import json
from pathlib import Path

import pytest

from s3ray.config import load_config
from s3ray.preflight import check_job

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
    return check_job(load_config(folder / "job.yaml"), "job.yaml").fingerprint


def test_the_same_content_in_another_place_is_the_same_run(tmp_path: Path) -> None:
    assert known_as(tmp_path / "one") == known_as(tmp_path / "two")


@pytest.mark.parametrize(
    "changes",
    [{"train": "x"}, {"validation": "x"}, {"test": "x"}, {"prompt": "Some {{ label }} text"}, {"layers": "3"}],
)
def test_another_content_is_another_run(tmp_path: Path, changes: dict[str, str]) -> None:
    assert known_as(tmp_path / "one") != known_as(tmp_path / "two", **changes)
