"""A model of the hub becomes a folder of one commit: asked for once, fetched once, and refused with a way out."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from s3ray.errors import InputError
from s3ray.hub import commit_of, fetch, pin, weight_files
from s3ray.models import check_model, resolve_model
from tests.hubs import Hub, running_hub

FILES = {
    "config.json": b'{"max_position_embeddings": 512}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"graph",
    "original/model.safetensors": b"once more",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(tmp_path / "cache", monkeypatch) as found:
        found.put("org/model", FILES)
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client waits between its tries."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def silent(line: str) -> None:
    raise AssertionError(line)


def refused(model: str) -> InputError:
    with pytest.raises(InputError) as caught:
        resolve_model(model, field="generator.model")
    assert (caught.value.field, caught.value.value) == ("generator.model", repr(model))
    assert caught.value.hint
    return caught.value


def test_an_id_becomes_a_folder_with_what_loading_it_takes(hub: Hub) -> None:
    folder = Path(resolve_model("org/model"))
    assert folder.is_absolute()
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_pinned_model_that_is_here_is_never_asked_for_again(hub: Hub) -> None:
    model = pin("org/model", silent)
    assert commit_of(model) == hub.refs["org/model"]["main"]
    assert len(hub.asked) == 1
    first = resolve_model(model)
    asked = len(hub.asked)
    locks = Path(constants.HF_HUB_CACHE) / ".locks"
    shutil.rmtree(locks)
    assert [resolve_model(model) for _ in range(64)] == [first] * 64
    assert pin(model, silent) == model
    assert len(hub.asked) == asked
    assert not locks.exists()  # nor does anybody wait for anybody


def test_a_commit_stays_that_of_the_run_when_the_hub_goes_on(hub: Hub) -> None:
    model = pin("org/model", silent)
    newer = hub.put("org/model", FILES | {"model.safetensors": b"newer weights"})
    assert (Path(resolve_model(model)) / "model.safetensors").read_bytes() == b"weights"
    assert commit_of(pin("org/model", silent)) == newer
    # What no one has pinned is what the cache has, whatever the hub has by now.
    hub.fails = (503, "")
    assert (fetch(model) / "model.safetensors").read_bytes() == b"weights"


def test_a_job_may_name_a_branch_a_tag_or_a_commit(hub: Hub) -> None:
    commit = hub.put("org/model", FILES | {"model.safetensors": b"tagged"}, revision="v1.0")
    assert pin("org/model@v1.0", silent) == f"org/model@{commit}"
    for model in ("org/model@v1.0", f"org/model@{commit}"):
        check_model(model, field="student.model")
        assert (Path(resolve_model(model)) / "model.safetensors").read_bytes() == b"tagged"
    assert "this revision" in refused("org/model@v9").problem


def test_many_processes_of_a_node_fetch_a_model_once(hub: Hub) -> None:
    model = pin("org/model", silent)
    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(resolve_model, [model] * 8))
    assert len(folders) == 1
    bodies = [asked for asked in hub.asked if asked.startswith("GET") and asked.endswith(".safetensors")]
    assert len(bodies) == 1
    assert len([asked for asked in hub.asked if "/tree/" in asked]) == 1


def test_what_was_interrupted_is_completed(hub: Hub) -> None:
    model = pin("org/model", silent)
    folder = Path(resolve_model(model))
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder.parent.parent / "blobs")
    assert (Path(resolve_model(model)) / "model.safetensors").read_bytes() == b"weights"


def test_without_network_the_cache_decides_and_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = commit_of(pin("org/model", silent))
    resolve_model("org/model")
    hub.fails = (503, "")
    lines: list[str] = []
    assert pin("org/model", lines.append) == f"org/model@{commit}"
    assert len(lines) == 1
    assert commit[:12] in lines[0]
    assert "does not answer" in lines[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_asked = len(hub.asked)
    assert pin("org/model", silent) == f"org/model@{commit}"
    assert Path(resolve_model("org/model")).name == commit
    check_model("org/model", field="student.model", max_length=512)
    assert len(hub.asked) == num_asked
    other = refused("org/other")
    assert "HF_HUB_OFFLINE" in other.problem
    assert "hf download org/other" in other.hint
    later = refused(f"org/model@{'f' * 40}")  # a run that began with another commit than the cache has
    assert f"hf download org/model --revision {'f' * 40}" in later.hint


def test_a_cache_that_was_filled_elsewhere_serves_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout that all versions of huggingface_hub write: a ref, and a snapshot; no list of files."""
    commit = "a" * 40
    repository = tmp_path / "models--org--old"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (repository / "snapshots" / commit / name).write_bytes(FILES[name])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pin("org/old", silent) == f"org/old@{commit}"
    assert resolve_model("org/old") == resolve_model(f"org/old@{commit}") == str(repository / "snapshots" / commit)
    assert not (tmp_path / ".locks").exists()  # a cache for reading only will do
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    assert "no safetensors weights" in refused("org/old").problem


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "code", "says", "way_out"),
    [
        (404, "RepoNotFound", "has no such model", "hf auth login"),
        (403, "GatedRepo", "is a gated model", "Accept its terms at"),
        (503, "", "does not answer and the cache has not got it", "HF_ENDPOINT"),
        (429, "", "gets too many requests from here for now", "HF_TOKEN"),
    ],
)
def test_a_hub_that_does_not_give_a_model_is_told_with_a_way_out(
    hub: Hub, status: int, code: str, says: str, way_out: str
) -> None:
    hub.fails = (status, code)
    with pytest.raises(InputError) as at_the_driver:
        pin("org/model", silent)
    hub.fails = None
    model = pin("org/model", silent)
    hub.fails = (status, code)
    for error in (at_the_driver.value, refused(model)):
        assert says in error.problem
        assert way_out in error.hint


def test_a_model_that_the_disk_has_no_room_for_is_refused_before_it_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2**30, used=2**30, free=2**29))
    error = refused("org/model")
    assert "does not fit on the disk of" in error.problem
    assert "HF_HOME" in error.hint
    assert not [asked for asked in hub.asked if asked.startswith("GET") and asked.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "does not fit on the disk of"), (errno.EROFS, "cannot be written")]
)
def test_a_cache_that_takes_nothing_more_is_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def makedirs(name: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        raise OSError(number, os.strerror(number))

    model = pin("org/model", silent)
    monkeypatch.setattr(os, "makedirs", makedirs)
    error = refused(model)
    assert says in error.problem
    assert os.strerror(number) in error.problem


def test_a_model_that_has_pickles_alone_is_refused(hub: Hub) -> None:
    hub.put("org/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    error = refused("org/old")
    assert "pickles can run code" in error.problem
    assert not [asked for asked in hub.asked if asked.endswith(".bin")]


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (
            ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json", "consolidated.safetensors"],
            ["model-1.safetensors", "model-2.safetensors"],
        ),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["adapter_model.safetensors"], ["adapter_model.safetensors"]),
        (["pytorch_model.bin", "unet/model.safetensors"], []),
    ],
)
def test_weights_are_taken_once_of_what_a_repository_has(names: list[str], weights: list[str]) -> None:
    assert weight_files(names) == weights


def test_an_adapter_is_fetched_by_its_own_config(hub: Hub) -> None:
    hub.put("org/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"low rank"})
    model = pin("org/lora", silent, "adapter_config.json")
    folder = fetch(model, "adapter_config.json")
    assert (folder / "adapter_model.safetensors").read_bytes() == b"low rank"
    num_asked = len(hub.asked)
    assert fetch(model, "adapter_config.json") == folder
    assert len(hub.asked) == num_asked
