"""LoRA adapters: what is told of one by its small files, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from s3ray.adapters import adapter_folder, adapter_identity, check_adapter, is_same_adapter, pin_adapter
from s3ray.errors import InputError
from tests.hubs import running_hub

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "org/Base-1B"}


def make_adapter_files(folder: Path, settings: dict[str, Any] | str) -> Path:
    """A folder that looks like an adapter; its weights are none."""
    folder.mkdir(exist_ok=True)
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "adapter_config.json").write_text(text)
    (folder / "adapter_model.safetensors").write_bytes(b"some weights of the very same size")
    return folder


@pytest.mark.parametrize(
    ("settings", "max_rank"),
    [({"r": 1}, 1), ({"r": 8}, 8), ({"r": 9}, 16), ({"r": 4, "rank_pattern": {"q_proj": 48}}, 64), ({"r": 512}, 512)],
)
def test_vllm_makes_room_for_the_largest_rank(tmp_path: Path, settings: dict[str, Any], max_rank: int) -> None:
    assert check_adapter(str(make_adapter_files(tmp_path / "it", PLAIN | settings))).max_rank == max_rank


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no settings"),
        ({"peft_type": "IA3"}, "is an adapter of type IA3"),
        ({"r": 0}, "has rank 0"),
        ({"r": 513}, "has rank 513"),
        ({"r": "8"}, "has rank 0"),
    ],
)
def test_what_vllm_cannot_serve_is_refused(tmp_path: Path, settings: dict[str, Any] | str, says: str) -> None:
    folder = make_adapter_files(tmp_path / "it", settings if isinstance(settings, str) else PLAIN | settings)
    with pytest.raises(InputError, match=says) as refusal:
        check_adapter(str(folder))
    assert (refusal.value.field, refusal.value.value) == ("generator.adapter", repr(str(folder)))


def test_an_incomplete_folder_is_refused_and_pickles_are_not_read(tmp_path: Path) -> None:
    folder = make_adapter_files(tmp_path / "it", PLAIN)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json cannot be read"):
        check_adapter(str(folder))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors(.|\n)*Pickled weights"):
        check_adapter(str(folder))
    for name in (str(folder / "adapter_model.bin"), "./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=r"no folder|no such folder"):
            check_adapter(name)


def test_a_hub_id_that_cannot_be_had_is_said_in_the_hub_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (check_adapter, adapter_folder):
        with pytest.raises(InputError, match=r"the hub \(http.*\) does not give its adapter_config\.json") as refusal:
            call("nobody/has-this-adapter")
        assert refusal.value.field == "generator.adapter"
    assert adapter_identity("nobody/has-this-adapter") == "nobody/has-this-adapter"


def test_an_adapter_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--org--it"
    (place / "refs").mkdir(parents=True)
    (place / "snapshots").mkdir()
    (place / "refs" / "main").write_text(commit)
    folder = make_adapter_files(place / "snapshots" / commit, PLAIN)
    for name in ("org/it", "org/it@main", f"org/it@{commit}"):
        assert check_adapter(name).max_rank == 8
        assert adapter_identity(name) == "org/it@0123456789ab"
        assert adapter_folder(name) == str(folder)


def test_an_adapter_of_the_hub_is_asked_for_once_and_engines_do_not_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"adapter_config.json": json.dumps(PLAIN).encode(), "adapter_model.safetensors": b"low rank"}
    whole = {"model.safetensors": b"merged", "checkpoint-9/adapter_model.safetensors": b"not yet"}
    with running_hub(tmp_path / "cache", monkeypatch) as hub:
        commit = hub.put("org/asked-once", files | whole)
        assert check_adapter("org/asked-once").base == "org/Base-1B"
        num_asked = len(hub.asked)
        pinned = pin_adapter("org/asked-once")
        assert pinned == f"org/asked-once@{commit}"
        assert adapter_identity("org/asked-once") == pinned[:-28] == adapter_identity(pinned)
        assert check_adapter(pinned) == check_adapter("org/asked-once")
        assert len(hub.asked) == num_asked
        folder = Path(adapter_folder(pinned))
        assert {path.name for path in folder.rglob("*") if path.is_file()} == set(files)
        assert (folder / "adapter_model.safetensors").read_bytes() == b"low rank"
        num_asked = len(hub.asked)
        hub.put("org/asked-once", files)
        assert {adapter_folder(name) for name in ("org/asked-once", pinned)} == {str(folder)}
        assert len(hub.asked) == num_asked


def test_an_adapter_of_the_hub_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.put("org/no-adapter", {"config.json": b"{}"})
        hub.put("org/pickled-adapter", {"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"})
        for name in ("org/no-adapter", "org/nowhere", "org/no/id"):
            with pytest.raises(InputError, match=r"does not give its adapter_config\.json: ") as refusal:
                check_adapter(name)
            assert (refusal.value.field, refusal.value.value) == ("generator.adapter", repr(name))
            assert refusal.value.hint
        with pytest.raises(InputError, match="has no safetensors weights on the hub") as refusal:
            adapter_folder("org/pickled-adapter")
        assert refusal.value.field == "generator.adapter"


def test_an_adapter_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = (make_adapter_files(tmp_path / place, PLAIN) for place in ("it", "other/it"))
    assert adapter_identity(str(one)) == adapter_identity(str(other))
    assert adapter_folder(str(one)) == str(one)
    assert adapter_identity("/models/gone") == "/models/gone"
    (other / "adapter_model.safetensors").write_bytes(b"new! weights of the very same size")
    assert adapter_identity(str(one)) != adapter_identity(str(other))
    assert is_same_adapter(adapter_identity(str(one)), str(other)), "as far as names tell"
    assert is_same_adapter("org/it@0123456789ab", "org/it")
    assert is_same_adapter("org/it@0123456789ab", "org/it@main")
    assert not is_same_adapter("org/it@0123456789ab", "org/that")


@pytest.mark.parametrize(
    "model", ["org/Base-1B", "org/Base-1B@main", "/models/base-1b", "package:base-1b", "./base-1b/"]
)
def test_an_adapter_of_the_same_model_is_not_doubted(tmp_path: Path, model: str) -> None:
    adapter = check_adapter(str(make_adapter_files(tmp_path / "it", PLAIN)))
    assert not adapter.doubt(model)
    assert "was trained on org/Base-1B, and generator.model is org/base-2b" in adapter.doubt("org/base-2b")
