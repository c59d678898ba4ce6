"""The state of a training between two epochs, and its form on disk: tensors as safetensors, all else as JSON.

Nothing is pickled, so reading a checkpoint executes nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Any]
"""Tensors and plain values in dicts, lists and tuples."""


class Checkpoints(Protocol):
    """Where a training saves its state, so that it can continue after it died."""

    def load(self) -> State | None:
        """The state to continue from, the same for every worker; None if there is none yet."""

    def save(self, make_state: Callable[[], State]) -> None:
        """Save the state after an epoch, or skip it if writing it now costs too much time.

        All workers call this after every epoch; only the first worker's state is saved.
        """


TENSORS = "state.safetensors"
PLAIN = "state.json"


def write_state(state: State, folder: Path) -> None:
    """Write a state to a folder; a tensor that occurs several times is written once.

    Raises:
        TypeError: the state has anything but tensors, plain values, and dicts, lists and tuples of them.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    plain = _without_tensors(state, tensors, names)
    save_file(tensors, folder / TENSORS)
    (folder / PLAIN).write_text(json.dumps(plain))


def read_state(folder: Path) -> State:
    """Read what ``write_state`` wrote; every tensor is on the CPU."""
    tensors = load_file(folder / TENSORS)
    state: State = _with_tensors(json.loads((folder / PLAIN).read_text()), tensors)
    return state


def _without_tensors(value: Any, tensors: dict[str, Tensor], names: dict[int, str]) -> Any:
    """The value as JSON can hold it; tensors are moved to ``tensors``, and ``names`` maps their ``id()`` to a key."""
    match value:
        case Tensor():
            if id(value) not in names:
                names[id(value)] = str(len(names))
                tensors[names[id(value)]] = value.detach().cpu().contiguous()
            return {"tensor": names[id(value)]}
        case dict():  # keys in JSON cannot be numbers, as they are in the state of torch's optimisers
            return {"dict": [[key, _without_tensors(part, tensors, names)] for key, part in value.items()]}
        case tuple():
            return {"tuple": [_without_tensors(part, tensors, names) for part in value]}
        case list():
            return [_without_tensors(part, tensors, names) for part in value]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": pairs}:
            return {key: _with_tensors(part, tensors) for key, part in pairs}
        case {"tuple": parts}:
            return tuple(_with_tensors(part, tensors) for part in parts)
        case list():
            return [_with_tensors(part, tensors) for part in value]
    return value
