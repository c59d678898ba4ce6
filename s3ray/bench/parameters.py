"""How many parameters a model has, from the headers of its weights alone: nothing is loaded."""

import json
import math
from pathlib import Path
from typing import Any

from s3ray.bench.schema import Missing
from s3ray.errors import InputError
from s3ray.weights import local_weights

_MOST_HEADER = 100_000_000  # bytes; safetensors itself refuses longer headers
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_OF_EXPERTS = Missing("of a mixture of experts a token meets only some, and the files do not say how many")


def count_parameters(model: str) -> int | Missing:
    """Parameters that each token meets, of a model as a job names it."""
    try:
        place = local_weights(model)
    except InputError as error:
        return Missing(f"its weights are not on the machine where the command ran: {error.problem}")
    if place is None:
        return Missing("its weights are not on the machine where the command ran")
    try:
        return _in_gguf(place) if place.is_file() else _in_folder(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Missing(f"its weights could not be read: {error}")


def _in_folder(folder: Path) -> int | Missing:
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if any(name in settings for name in _EXPERTS):
        return _OF_EXPERTS
    if "quantization_config" in settings:
        return Missing("its weights are quantised, so their number is not that of its parameters")
    files = _weight_files(folder)
    if not files or not all(file.is_file() for file in files):
        return Missing("its weights are not whole on the machine where the command ran")
    return sum(map(_in_file, files))


def _weight_files(folder: Path) -> list[Path]:
    """Each tensor once: some folders hold the same weights under two names."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / shard for shard in sorted(shards)]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _in_file(path: Path) -> int:
    """The format: 8 bytes with the header's length, then the header as JSON."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MOST_HEADER:
            raise ValueError(f"{path.name} is no safetensors file")
        header: dict[str, Any] = json.loads(file.read(size))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _in_gguf(path: Path) -> int | Missing:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    if any(name.endswith(".expert_count") for name in reader.fields):
        return _OF_EXPERTS
    return sum(int(tensor.n_elements) for tensor in reader.tensors)
