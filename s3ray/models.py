"""Finding a model's weights: hub ids, folders, GGUF files, and weights inside installed packages.

The result is always a Hugging Face folder with safetensors on this node, which ``from_pretrained`` and vLLM load. What
the hub has is fetched once per node (``hub``). Pickled weights are refused. A GGUF file is dequantised to such a folder
once and kept in a cache under the file's sha256. Other processes may convert the same file at the same moment: the
folder is either complete or absent.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s3ray.errors import InputError, RunError, of_setting
from s3ray.hub import HUB_ID, cached_snapshot, fetch, is_offline, look_up, not_cached, pin
from s3ray.storage.local import put_in_place

PACKAGE = "package:"
CONVERT_LIMIT_S = 1800
_CHAT_HINT = "Use an instruction-tuned model, or the completion style."
_PLACES_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types whose positions begin at ``pad_token_id + 1``, so that they read fewer tokens than they have."""
_LFS = b"version https://git-lfs"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")


def resolve_model(model: str, *, field: str = "model") -> str:
    """Turn the model named in a job into the absolute path of a folder on this node.

    A model of the hub is fetched first unless the cache has it, which takes as long as the network needs; an id without
    a commit means the one that the cache has. A GGUF file is converted first unless the cache has it (about 20 s for
    135M parameters). ``field`` is the setting that names the model.

    Raises:
        InputError: there is no such folder, file, package or model of the hub, or it carries no weights.
        RunError: another process has been fetching or converting the same model for longer than ``FETCH_LIMIT_S`` or
            ``CONVERT_LIMIT_S``.
    """
    with of_setting(field, model):
        place = _locate(model)
        if place is None:
            place = fetch(model)
            _check_weights(place)
    return str(convert_once(place, cache_root(), _convert) if place.is_file() else place)


def is_of_hub(model: str) -> bool:
    """Whether a model is one of the hub: neither a folder nor a file of this machine, nor in a package.

    Raises:
        InputError: the model names no such folder, file or package.
    """
    return _locate(model) is None


def pin_model(model: str, tell: Callable[[str], None], *, field: str) -> str:
    """Name the commit of a model of the hub, see ``hub.pin``; ``field`` is the setting that names the model.

    Raises:
        InputError: neither the hub nor the cache has it.
    """
    with of_setting(field, model):
        return pin(model, tell)


def local_weights(model: str) -> Path | None:
    """The folder or GGUF file of a model on this machine; None for a hub id that the local cache does not have.

    Raises:
        InputError: the model names no such folder, file or package.
    """
    with of_setting("model", model):
        place = _locate(model)
    return cached_snapshot(model) if place is None else place


def check_model(
    model: str,
    *,
    field: str,
    needs_chat_template: bool = False,
    max_length: int | None = None,
) -> None:
    """Refuse a model that cannot work, before anything expensive starts. Reads only small files.

    ``field`` is the setting that names the model. ``max_length`` is the longest input, in tokens, that it must be able
    to read. Of a hub id only the form is checked and, with ``HF_HUB_OFFLINE`` set, that the local cache has it.

    Raises:
        InputError: the model is missing, incomplete or unsuitable; says how to fix that.
    """
    with of_setting(field, model):
        place = _locate(model) or _cached_snapshot(model)
        if place is None:
            return
        if place.is_file():
            _check_gguf(place, needs_chat_template)
            return
        config = _read_json(place / "config.json")
        _check_weights(place)
        if not any((place / name).is_file() for name in _TOKENIZER_FILES):
            hint = f"Put one of {', '.join(_TOKENIZER_FILES)} beside config.json."
            raise InputError("the folder has no tokenizer", hint=hint)
        if needs_chat_template and not _has_chat_template(place):
            raise InputError("the tokenizer has no chat template", hint=_CHAT_HINT)
        room = _room(config)
        if max_length is not None and room is not None and max_length > room:
            problem = f"reads at most {room} tokens, and {max_length} are asked for"
            raise InputError(problem, hint=f"Ask for {room} at most.")


@functools.cache
def look_up_model(model: str, *, field: str) -> None:
    """Ask the hub for a model that is not on this machine, before anything is paid for that it is needed for.

    ``field`` is the setting that names the model.

    Raises:
        InputError: the hub does not answer, or has no such model for this user.
    """
    if not is_offline() and local_weights(model) is None:
        with of_setting(field, model):
            look_up(model)


def _room(config: dict[str, Any]) -> int | None:
    """The longest input in tokens; None if the config does not say it."""
    places = config.get("max_position_embeddings")
    if not isinstance(places, int):
        return None
    if config.get("model_type") not in _PLACES_AFTER_PADDING:
        return places
    padding = config.get("pad_token_id")
    return places - 1 - (1 if padding is None else int(padding))  # all of these types have 1 by default


def make_tokenizer_portable(folder: Path) -> None:
    """Replace the name of a tokenizer class that only transformers 5 has by one that all versions have."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _locate(model: str) -> Path | None:
    """The folder or GGUF file that a model names; None for a hub id."""
    if model.startswith(PACKAGE):
        return _in_package(model.removeprefix(PACKAGE))
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(
                "is a file, but not a GGUF file", hint="Name a .gguf file, or the folder that holds config.json."
            )
        return path.resolve()
    if model.startswith((".", "/", "~")) or path.suffix == ".gguf":
        raise InputError("there is no such file or folder", hint="Check the path; every node must have it.")
    if not HUB_ID.fullmatch(model):
        hint = "A hub id looks like `org/name` or `org/name@REVISION`; a package like `package:NAME`."
        raise InputError("is neither a path nor a hub id", hint=hint)
    return None


def _in_package(name: str) -> Path:
    """The one GGUF file or model folder among a distribution's files; its code is never imported."""
    try:
        listed = importlib.metadata.files(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"no package `{name}` is installed here", hint=f"pip install {name}") from None
    files = [Path(str(file.locate())) for file in listed or ()]
    folders = {file.parent for file in files if file.suffix == ".safetensors"}
    found = sorted(
        {file for file in files if file.suffix == ".gguf"}
        | {file.parent for file in files if file.name == "config.json" and file.parent in folders}
    )
    if len(found) != 1:
        what = ", ".join(str(place) for place in found) or "none"
        raise InputError(
            f"package `{name}` does not carry exactly one model ({what})",
            hint="Name the folder with config.json and safetensors, or the .gguf file, by its path.",
        )
    if not found[0].exists():
        raise InputError(f"package `{name}` lacks {found[0]}", hint=f"pip install --force-reinstall {name}")
    return found[0].resolve()


def _cached_snapshot(model: str) -> Path | None:
    if not is_offline():
        return None
    snapshot = cached_snapshot(model)
    if snapshot is None:
        raise not_cached(model)
    return snapshot


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"the folder has no {path.name}", hint=_instead(path.parent))
    _refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path.name} is not valid JSON: {error}", hint="Fetch the model again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name} holds no settings", hint="Fetch the model again.")
    return content


def _instead(folder: Path) -> str:
    """What to do about a folder that holds no model of transformers."""
    if (folder / "adapter_config.json").is_file():
        return "It holds an adapter (LoRA), not a model: `merge_and_unload()` it once and `save_pretrained` the result."
    files = sorted(folder.glob("*.gguf"))
    return f"Name the file: {files[0]}." if files else "Name the folder that `save_pretrained` wrote."


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        hint = "Fetch the files: git lfs pull, in that folder."
        raise InputError(f"{path.name} is a Git LFS pointer, not the file itself", hint=hint)


def _check_weights(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        _refuse_pointer(file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _shards(_read_json(index).get("weight_map"))
        strange = sorted(name for name in shards if Path(name).name != name or not name.endswith(".safetensors"))
        if strange:
            hint = "An index names .safetensors files of its folder. Fetch the model again, from a trusted source."
            raise InputError(
                f"{index.name} names files that are not weights of this folder: {', '.join(strange[:3])}", hint=hint
            )
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            raise InputError(f"weights are missing: {', '.join(missing)}", hint="Fetch the model again.")
    elif not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")):
            raise InputError(
                "holds its weights only as pickle (.bin), which can run code when it is read",
                hint="Load it once where you trust it and `save_pretrained` it again: that writes safetensors.",
            )
        raise InputError("the folder has no safetensors weights", hint=_instead(folder))


def _shards(weight_map: object) -> set[str]:
    return {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(_read_json(settings).get("chat_template"))


def _check_gguf(path: Path, needs_chat_template: bool) -> None:
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"reading GGUF needs the package `{package}`", hint="pip install 's3ray[gguf]'")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError("is not a GGUF file", hint="Fetch the file again.")
    if not needs_chat_template:
        return
    try:
        has_one = _gguf_has_chat_template(path, path.stat().st_mtime_ns)
    except Exception as error:  # the reader can raise anything
        raise InputError(f"is not a GGUF file that can be read: {error}", hint="Fetch the file again.") from error
    if not has_one:
        raise InputError("the file has no chat template", hint=_CHAT_HINT)


@functools.cache
def _gguf_has_chat_template(path: Path, changed_ns: int) -> bool:
    """Whether a GGUF file has a chat template; cached, as reading takes seconds and each run of a campaign asks."""
    from gguf import GGUFReader

    return "tokenizer.chat_template" in GGUFReader(path).fields


def cache_root() -> Path:
    """The folder of what s3ray keeps on this machine (``S3RAY_CACHE``)."""
    return Path(os.environ.get("S3RAY_CACHE") or Path.home() / ".cache" / "s3ray").expanduser()


def convert_once(path: Path, cache: Path, convert: Callable[[Path, Path], None]) -> Path:
    """The folder that ``convert(file, folder)`` makes of a file, from the cache if it was made before.

    Raises:
        RunError: another process has been converting the same file for longer than ``CONVERT_LIMIT_S``.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = cache / "gguf" / digest
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{target}.lock", timeout=CONVERT_LIMIT_S):
            if not target.is_dir():
                unfinished = target.with_suffix(".tmp")
                if unfinished.exists():  # left by a process that was killed: only the owner of the lock writes here
                    shutil.rmtree(unfinished)
                convert(path, unfinished)
                put_in_place(unfinished, target)
    except Timeout:
        raise RunError(
            f"waited {CONVERT_LIMIT_S} s for another process to convert {path}",
            f"If none is at work, remove {target}.lock",
        ) from None
    return target


def _convert(path: Path, folder: Path) -> None:
    """Write a GGUF model as a Hugging Face folder: float32 safetensors, tokenizer, chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": path.name, "trust_remote_code": False}  # else transformers would ask on the terminal
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    # The weights are plain float32 by now, but the model is still marked as quantised, and could not be saved.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(folder)
    make_tokenizer_portable(folder)


def model_identity(model: str) -> str:
    """Identify a local model by content, not by path: its name, and a hash of its configuration and file sizes.

    Any other model is identified by its name.
    """
    place = Path(model)
    if not place.exists():
        return model
    digest = hashlib.sha256()
    for file in sorted(place.iterdir()) if place.is_dir() else [place]:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.name == "config.json":
            digest.update(file.read_bytes())
    return f"{place.name}@{digest.hexdigest()[:12]}"
