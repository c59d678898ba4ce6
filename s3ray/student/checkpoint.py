"""Fitting a student to its training set, so that a training that dies goes on from its last checkpoint.

Everything that is random in an epoch follows from the seed, the epoch and the worker, so a training that is begun again
from the state after any epoch ends in the same student as one that was never disturbed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Any]
"""A training between two epochs: tensors and plain values in dicts and lists, nothing that a reader must execute."""


class Checkpoints(Protocol):
    """Where a training keeps what it must not lose."""

    def load(self) -> State | None:
        """The state to go on from; None at the very beginning. The same for every worker."""

    def save(self, make_state: Callable[[], State]) -> None:
        """Keep the state after an epoch, or leave it if keeping it now is not worth its time.

        All workers call this after every epoch; the state of the first one counts.
        """


class NoCheckpoints:
    """Keeps nothing: a training that dies begins anew."""

    def load(self) -> State | None:
        """Nothing."""
        return None

    def save(self, make_state: Callable[[], State]) -> None:
        """Nothing."""


TENSORS = "state.safetensors"
PLAIN = "state.json"


def write_state(state: State, folder: Path) -> None:
    """Write a state to a folder; a tensor that stands in several places is written once.

    Raises:
        TypeError: it holds something other than tensors, plain values, and dicts, lists and tuples of them.
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
    """The value for JSON; its tensors go to ``tensors``, under ``names`` by their identity."""
    match value:
        case Tensor():
            if id(value) not in names:
                names[id(value)] = str(len(names))
                tensors[names[id(value)]] = value.detach().cpu().contiguous()
            return {"tensor": names[id(value)]}
        case dict():  # JSON has no numbers as keys, and torch's optimisers do
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
