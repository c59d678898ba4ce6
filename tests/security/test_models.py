"""Model folders that somebody else made."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s3ray.audit.audit import audit_run
from s3ray.config.job import StudentConfig, to_yaml
from s3ray.errors import InputError
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine
from s3ray.models import check_model, resolve_model
from s3ray.storage.run_folder import RunStore
from s3ray.student.model import load_student
from s3ray.tasks import load_task
from tests.models import make_bert
from tests.monitor.run_folder import make_config, write_run


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        import os

        return os.mkdir, (str(self.sign),)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return make_bert(folder)


def check(model: Path | str) -> None:
    check_model(str(model), field="student.model")


def load(model: Path, trust: bool = False) -> None:
    config = StudentConfig(model=str(model), trust_remote_code=trust)
    load_student(config, load_task("review_sentences"), torch.device("cpu"))


def put_code(model: Path, sign: Path) -> None:
    """Code that transformers runs where it is trusted."""
    (model / "evil.py").write_text(
        f"import os\nif not os.path.exists({str(sign)!r}):\n    os.mkdir({str(sign)!r})\n"
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class Config(BertConfig):\n    model_type = 'evil'\n"
        "class Model(BertForSequenceClassification):\n    config_class = Config\n"
    )
    settings = json.loads((model / "config.json").read_text())
    settings["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModelForSequenceClassification": "evil.Model",
    }
    settings["model_type"] = "evil"
    (model / "config.json").write_text(json.dumps(settings))


def test_code_beside_the_weights_runs_only_where_the_job_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    sign = tmp_path / "sign"
    put_code(model, sign)
    with pytest.raises(InputError, match="trust_remote_code"):
        load(model)
    assert not sign.exists()
    load(model, trust=True)
    assert sign.exists()


def test_an_audit_runs_no_code_because_a_run_folder_says_so(tmp_path: Path) -> None:
    store = write_run(tmp_path / "run")
    config = make_config()
    student = config.student.model_copy(update={"trust_remote_code": True, "model": str(tmp_path / "evil")})
    store.write_text("config.yaml", to_yaml(config.model_copy(update={"student": student})))
    with pytest.raises(InputError, match="trust_remote_code"):
        audit_run(RunStore.existing(store.root), 100, lambda text: None)


def test_pickled_weights_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "sign")))
    with pytest.raises(InputError, match="pickle"):
        check(model)
    with pytest.raises(OSError, match="safetensors"):
        load(model)
    assert not (tmp_path / "sign").exists()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../other/model.safetensors", "/etc/model.safetensors", ".."])
def test_an_index_cannot_lead_to_pickles_nor_out_of_the_folder(model: Path, tmp_path: Path, shard: str) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    (tmp_path / "other").mkdir()
    save_file(weights, tmp_path / "other" / "model.safetensors")
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "sign")))
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="not weights of this folder"):
        check(model)


def test_vllm_is_told_to_read_safetensors_alone() -> None:
    spec = EngineSpec(engine="engine-0", config=make_config().generator, device="cpu")
    assert VLLMEngine(spec)._arguments("model")["load_format"] == "safetensors"


@pytest.mark.parametrize(
    "name", ["package:../../evil", "a/../../b", "org/../x", "//host/share", "https://host/model", "a/b/c"]
)
def test_a_name_of_a_model_is_no_path_out_of_where_models_lie(name: str) -> None:
    with pytest.raises(InputError):
        check(name)
    with pytest.raises(InputError):
        resolve_model(name)


@pytest.mark.parametrize("content", [b"GGUF", b"GGUF" + b"\xff" * 64, b"GGUF\x03\0\0\0" + b"\xff" * 16, b"pickle"])
def test_a_broken_gguf_file_is_a_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(InputError, match="GGUF"):
        check_model(str(tmp_path / "model.gguf"), field="f", needs_chat_template=True)
