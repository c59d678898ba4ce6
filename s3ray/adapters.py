"""LoRA adapters of a generator: hub ids, and folders as PEFT saves them (adapter_config.json and safetensors).

A hub id is ``org/name`` or ``org/name@REVISION``. The rank and the model that an adapter was trained on stand in
adapter_config.json. Pickled weights are never read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s3ray.errors import InputError
from s3ray.text import valid_text

FIELD = "generator.adapter"
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 makes room for (``MaxLoRARanks`` in config/lora.py)."""
_HUB_LIMIT_S = 10.0
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
    file = _from_hub(adapter) if folder is None else folder / SETTINGS
    try:
        if folder is not None and not (folder / WEIGHTS).is_file():
            pickled = " Pickled weights (.bin, .pt) are not read, since they can run code." * _has_pickles(folder)
            raise InputError(f"the folder has no {WEIGHTS}", hint=f"{_PATH_HINT}{pickled}")
        return _read(file)
    except InputError as error:
        error.field, error.value = FIELD, repr(adapter)
        raise


def adapter_folder(adapter: str) -> str:
    """The folder of an adapter on this node; one of the hub is fetched unless the local cache has it.

    Raises:
        InputError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    folder = _here(adapter)
    if folder is not None:
        return str(folder)
    name, _, revision = adapter.partition("@")
    wanted = [SETTINGS, WEIGHTS]
    try:
        return snapshot_download(name, revision=revision or None, allow_patterns=wanted, etag_timeout=_HUB_LIMIT_S)
    except (OSError, ValueError) as error:
        raise _not_had(adapter, error) from error


def adapter_identity(adapter: str) -> str:
    """Identify an adapter by what is in it: a folder by its name and content, one of the hub by its commit.

    One that is not here and that the hub does not give is identified by its name.
    """
    try:
        folder = _here(adapter)
        if folder is None:
            return f"{adapter.partition('@')[0]}@{_from_hub(adapter).parent.name[:12]}"
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


def _from_hub(adapter: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, _, revision = adapter.partition("@")
    try:
        return Path(hf_hub_download(name, SETTINGS, revision=revision or None, etag_timeout=_HUB_LIMIT_S))
    except (OSError, ValueError) as error:
        raise _not_had(adapter, error) from error


def _not_had(adapter: str, error: Exception) -> InputError:
    from huggingface_hub import constants

    said = (valid_text(str(error)).strip().splitlines() or [""])[0]
    problem = f"the hub ({constants.ENDPOINT}) does not give its {SETTINGS} ({type(error).__name__}: {said})"
    hint = f"{_PATH_HINT} A private one needs `hf auth login` or HF_TOKEN; without a network, `hf download` it before."
    return InputError(problem, field=FIELD, value=repr(adapter), hint=hint)


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
