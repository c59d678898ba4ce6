"""Breaks values, files and folders in all ways that happen to them, the same ones for the same seed."""

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RUBBISH: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "x",
        "\n",
        "\0",
        "\ud800",
        "\ufeff",
        "é" * 3,
        "🙂",
        "\u202eabc",
        "a" * 5000,
        "{{",
        "{% for %}",
        "../..",
        "/",
    ),
    *("/dev/null", "s3://", "http://", "~", "1e-4", "yes", "null", "package:nope", "a:b", "$HOME", "no/such/file.yaml"),
    *([], {}, [[]], [None], [{}], {"a": 1}, {"": ""}, {"a": {"b": [1, {"c": None}]}}, ["a", 1, None], [[[[[[]]]]]]),
]


def mutate(tree: Any, draw: random.Random) -> Any:
    """The tree with one thing in it broken."""
    tree = json.loads(json.dumps(tree))
    node: Any = tree
    path: list[Any] = []
    while isinstance(node, dict | list) and node and (not path or draw.random() < 0.7):
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        path.append(key)
        node = node[key]
    if not path:
        return draw.choice(RUBBISH)
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    match draw.randrange(4 if isinstance(holder, dict) else 3):
        case 0:
            del holder[path[-1]]
        case 1 | 2:
            holder[path[-1]] = draw.choice(RUBBISH)
        case _:
            holder[str(path[-1]) + draw.choice("sx_é ")] = holder.pop(path[-1])
    return tree


def spoil(content: bytes, draw: random.Random) -> bytes:
    """The content of a file, cut, overwritten or replaced."""
    place = draw.randrange(len(content) + 1)
    match draw.randrange(7):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + draw.randbytes(8) + content[place + 8 :]
        case 2:
            return draw.choice([b"", b"\0", b"\xef\xbb\xbf", b"\xff\xfe"]) + content
        case 3:
            return draw.choice([b"", b"\n", b"{", b"[]", b"null", b"PAR1", b"- a\n- b\n", b"<html>", b"\x80\x81", b"1"])
        case 4:
            return content.replace(b'"', b"'", 1 + draw.randrange(3))
        case 5:
            return draw.choice([b"[" * 9999, b"9" * 9999, b'{"a":' * 9999, b"1e999", b"NaN", b'"\\ud800"'])
        case _:
            return content + draw.choice([b"\0", b"{", b'{"a": 1}\n', b"\xc3", b"]]"])


def spoil_file(path: Path, draw: random.Random) -> None:
    """Break one file: its bytes, what it says, or that it is a file at all."""
    says = {".json": _spoil_json, ".jsonl": _spoil_line, ".yaml": _spoil_yaml, ".parquet": _spoil_table}
    if path.suffix in says and draw.random() < 0.65:
        says[path.suffix](path, draw)
        return
    match draw.randrange(8):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.mkdir()
        case _:
            path.write_bytes(spoil(path.read_bytes(), draw))


def _spoil_json(path: Path, draw: random.Random) -> None:
    broken = mutate(json.loads(path.read_bytes()), draw)
    with contextlib.suppress(UnicodeEncodeError):
        path.write_text(json.dumps(broken, ensure_ascii=draw.random() < 0.5))


def _spoil_line(path: Path, draw: random.Random) -> None:
    lines = path.read_bytes().splitlines()
    place = draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            lines[place] = spoil(lines[place], draw)
        case 1:
            other = draw.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        case _:
            lines[place] = json.dumps(mutate(json.loads(lines[place]), draw)).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def _spoil_yaml(path: Path, draw: random.Random) -> None:
    path.write_text(json.dumps(mutate(plain(path), draw)), encoding="utf-8")


_PLAIN: dict[bytes, Any] = {}


def plain(path: Path) -> Any:
    """What a YAML file says; each is read once, which takes milliseconds."""
    from yaml import CSafeLoader, load

    content = path.read_bytes()
    if content not in _PLAIN:
        _PLAIN[content] = load(content, CSafeLoader)
    return _PLAIN[content]


def _spoil_table(path: Path, draw: random.Random) -> None:
    pq.write_table(_broken_table(pq.read_table(io.BytesIO(path.read_bytes())), path, draw), path)


def _broken_table(table: pa.Table, path: Path, draw: random.Random) -> pa.Table:
    """The table without a column or rows, with another one's name, with values of other types or none."""
    place = draw.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    match draw.randrange(8):
        case 0:
            return table.drop_columns([name])
        case 1:
            return table.rename_columns([f"{each}_" if each == name else each for each in table.column_names])
        case 2:
            return table.slice(0, draw.choice([0, 1]))
        case 3:
            return table.set_column(place, name, pa.nulls(table.num_rows, column.type))
        case 4:
            odd = draw.choice([7, 0.5, True, "x", "", "\0", b"\xff", [1.0], ["a"], {"a": 1}, None])
            return table.set_column(place, name, pa.array([odd] * table.num_rows))
        case 5:
            values = [None if draw.random() < 0.2 else value for value in column.to_pylist()]
            return table.set_column(place, name, pa.array(values, column.type))
        case 6:
            others = sorted(path.parent.rglob("*.parquet")) + sorted(path.parents[1].rglob("*.parquet"))
            return pq.read_table(io.BytesIO(draw.choice(others).read_bytes()))
        case _:
            return pa.concat_tables([table, table])


class Restored:
    """A folder that is put right again after each case: what was changed is written back, what is new is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(path for path in folder.rglob("*") if path.is_file())
        self._contents = {str(path): path.read_bytes() for path in self.files}
        self._states = dict(self._found())
        self._spoilt: list[Path] = []

    def spoil(self, file: Path, draw: random.Random) -> None:
        """Break a file."""
        self._spoilt.append(file)
        spoil_file(file, draw)

    def put_right(self, *, only_spoilt: bool = False) -> None:
        """Restore the folder; ``only_spoilt``: the command that was run writes nothing."""
        found = {str(path): None for path in self._spoilt} if only_spoilt else dict(self._found())
        self._spoilt.clear()
        for name in found.keys() - self._states.keys():
            shutil.rmtree(name, ignore_errors=True)
            Path(name).unlink(missing_ok=True)
        for name in self._states if not only_spoilt else found:
            if name not in self._contents:
                Path(name).mkdir(exist_ok=True)
            elif only_spoilt or found.get(name) != self._states[name]:
                shutil.rmtree(name, ignore_errors=True)
                Path(name).write_bytes(self._contents[name])
                self._states[name] = _state(Path(name).stat())

    def is_whole(self) -> bool:
        """Whether the folder is as it was."""
        return dict(self._found()) == self._states

    def _found(self) -> Iterator[tuple[str, tuple[int, int, bool]]]:
        """All files and folders, folders first."""
        waiting = [str(self.folder)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_folder:
                        waiting.append(entry.path)
                    yield entry.path, (0, 0, True) if is_folder else _state(entry.stat(follow_symlinks=False))


def _state(found: os.stat_result) -> tuple[int, int, bool]:
    return found.st_ino, found.st_mtime_ns, False
