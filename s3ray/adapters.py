"""LoRA adapters of a generator: hub ids, and folders as PEFT saves them (adapter_config.json and safetensors).

A hub id is ``org/name`` or ``org/name@REVISION``. The rank and the model that an adapter was trained on stand in
adapter_config.json. Pickled weights are never read.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s3ray.errors import InputError, of_setting
from s3ray.hub import cached_snapshot, fetch, fetch_file, split_id, with_commit
from s3ray.text import valid_text

FIELD = "generator.adapter"
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 makes room for (``MaxLoRARanks`` in config/lora.py)."""
_PATH_HINT = "Name the folder that PEFT's `save_pretrained` wrote, or a hub id such as org/name."


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """``max_rank`` is the room that its largest rank needs in vLLM; ``base`` the model that it names, or empty."""

    max_rank: int
    base: str

    def doubt(self, model: str) -> str:
        """Why it may not fit a model, in words; empty if nothing speaks against it."""
        if not self.base or _last_part(self.base) == _last_part(model):
            return ""
        return f"{FIELD} was trained on {self.base}, and generator.model is {model}"


def check_adapter(adapter: str) -> Adapter:
    """Read what an adapter says of itself; of one on the hub only that one file is fetched.

    Raises:
        InputError: it is missing or incomplete, or is none that vLLM can serve.
    """
    folder = _here(adapter)
    with of_setting(FIELD, adapter):
        if folder is None:
            return _read(_settings_of(adapter))
        if not (folder / WEIGHTS).is_file():
            pickled = " Pickled weights (.bin, .pt) are not read, since they can run code." * _has_pickles(folder)
            raise InputError(f"the folder has no {WEIGHTS}", hint=f"{_PATH_HINT}{pickled}")
        return _read(folder / SETTINGS)


def pin_adapter(adapter: str) -> str:
    """Name the commit of an adapter of the hub, the one that ``adapter_identity`` tells; any other stays as it is.

    Raises:
        InputError: it is missing.
    """
    if _here(adapter) is not None:
        return adapter
    with of_setting(FIELD, adapter):
        return with_commit(adapter, _settings_of(adapter).parent.name)


def adapter_folder(adapter: str) -> str:
    """The folder of an adapter on this node; one of the hub is fetched unless the local cache has it.

    Raises:
        InputError: it cannot be had.
        RunError: another process has been fetching it for too long.
    """
    folder = _here(adapter)
    if folder is None:
        with of_setting(FIELD, adapter):
            if cached_snapshot(adapter, SETTINGS) is None:
                _settings_of(adapter)  # says it if the hub has no such adapter
            folder = fetch(adapter, SETTINGS, WEIGHTS)
    return str(folder)


def adapter_identity(adapter: str) -> str:
    """Identify an adapter by what is in it: a folder by its name and content, one of the hub by its commit.

    One that is not here and that the hub does not give is identified by its name.
    """
    try:
        folder = _here(adapter)
        if folder is None:
            return f"{split_id(adapter)[0]}@{_settings_of(adapter).parent.name[:12]}"
        digest = hashlib.sha256()
        for name in (SETTINGS, WEIGHTS):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except (InputError, OSError):
        return adapter
    return f"{folder.name}@{digest.hexdigest()[:12]}"


def is_same_adapter(known: str, own: str) -> bool:
    """Whether the adapter that a job names can be the one with a known identity."""
    return known == own or known.rpartition("@")[0] in (own.partition("@")[0], Path(own).name)


def _here(adapter: str) -> Path | None:
    """The folder that an adapter names; None for a hub id."""
    path = Path(adapter).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists() or adapter.startswith((".", "/", "~")):
        problem = "is no folder" if path.exists() else "there is no such folder"
        raise InputError(problem, field=FIELD, value=repr(adapter), hint=f"{_PATH_HINT} Every node must have it.")
    return None


@functools.cache
def _settings_of(adapter: str) -> Path:
    """The settings of an adapter of the hub, in the cache's folder of its commit; asked for once per process."""
    from huggingface_hub import constants

    try:
        return fetch_file(adapter, SETTINGS)
    except (InputError, ValueError) as error:  # ValueError: it cannot be a hub id
        said, hint = (error.problem, error.hint) if isinstance(error, InputError) else (str(error), _PATH_HINT)
        problem = f"the hub ({constants.ENDPOINT}) does not give its {SETTINGS}: {said}"
        raise InputError(problem, hint=hint) from error


def _read(file: Path) -> Adapter:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"its {SETTINGS} cannot be read: {valid_text(str(error))}", hint=_PATH_HINT) from error
    if not isinstance(settings, dict):
        raise InputError(f"its {SETTINGS} holds no settings", hint=_PATH_HINT)
    if (kind := settings.get("peft_type", "LORA")) != "LORA":
        raise InputError(f"is an adapter of type {kind}", hint="vLLM serves LoRA adapters.")
    rank = max(_ranks(settings), default=0)
    room = next((each for each in RANKS if each >= rank), None)
    if rank < 1 or room is None:
        raise InputError(f"has rank {rank}", hint=f"vLLM serves ranks from 1 to {RANKS[-1]}.")
    return Adapter(max_rank=room, base=str(settings.get("base_model_name_or_path") or ""))


def _ranks(settings: Mapping[str, object]) -> list[int]:
    """The rank of an adapter, and those of single layers."""
    patterns = settings.get("rank_pattern")
    found = [settings.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    return [rank for rank in found if isinstance(rank, int)]


def _has_pickles(folder: Path) -> bool:
    return any(folder.glob("adapter_model.bin")) or any(folder.glob("adapter_model.pt"))


def _last_part(model: str) -> str:
    return model.replace("package:", "").rstrip("/").rpartition("/")[2].partition("@")[0].lower()
