"""The state of a training between two epochs, and its form on disk: tensors as safetensors, all else as JSON.

Nothing is pickled, so reading a checkpoint executes nothing.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from s3ray.storage.local import join
from s3ray.storage.object_store import open_folder
from s3ray.student.ranks import Ranks, agreed, by_first

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
CHECKPOINT_SHARE = 0.1
"""Share of the time that checkpoints may take; short epochs get a checkpoint only now and then."""


class FolderCheckpoints:
    """Keeps a training's last saved state in the folder ``place``, which every worker can read.

    The first epoch is always saved, and so is every epoch at whose end a node ``is_leaving``, which all workers ask
    equally often. Others are saved as long as that takes no more than CHECKPOINT_SHARE of the time. States go to two
    places in turn, so that whoever dies while one is written goes on from the other.
    """

    def __init__(self, ranks: Ranks, place: str, is_leaving: Callable[[], bool] = lambda: False) -> None:
        self._ranks = ranks
        self._folders = [open_folder(join(place, name)) for name in ("a", "b")]
        self._is_leaving = is_leaving
        self._due = 0.0

    def load(self) -> State | None:
        """Read the state that was saved last."""
        return agreed(self._ranks, self._read)

    def _read(self) -> State | None:
        states = []
        for folder in self._folders:
            if folder.exists(PLAIN):
                with folder.on_disk() as path:
                    states.append((folder, read_state(path)))
        if not states:
            return None
        folder, newest = max(states, key=lambda found: len(found[1]["reports"]))
        self._folders.sort(key=lambda each: each is folder)  # the other one is written next
        return newest

    def save(self, make_state: Callable[[], State]) -> None:
        """Write the state, if a checkpoint is due."""
        start = time.monotonic()
        if not self._ranks.gather(self._is_leaving() or start >= self._due)[0]:
            return
        by_first(self._ranks, lambda: self._write(make_state()))
        self._folders.reverse()
        took = time.monotonic() - start
        self._due = start + took / CHECKPOINT_SHARE

    def _write(self, state: State) -> None:
        with self._folders[0].rewritten(last=PLAIN) as folder:
            write_state(state, folder)


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
