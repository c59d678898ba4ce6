"""Every command on thousands of broken inputs: each ends with a message that names a file or field, never a traceback.

Broken are jobs, tasks, grids and rows: keys missing, values of other types, huge numbers, odd signs, files cut short or
overwritten, folders in place of files. The same cases on every machine; nothing is started.
"""

import contextlib
import io
import json
import logging
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from s3ray.cli import main
from tests.models import make_bert

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
JOB: dict[str, Any] = {
    "name": "job",
    "task": "task.yaml",
    "gold": {"extrapolate": 12, "select": 6, "test": 6},
    "strategy": {"name": "s3", "rounds": 1, "seed_examples": 12, "rationales": False},
    "generator": {"engine": "fake", "engines": 1, "sampling": {"max_tokens": 64}},
    "curation": {"near_duplicate": 0.9},
    "student": {"model": "MODEL", "epochs": 1, "max_length": 64, "workers": 1},
    "placement": {"mode": "split"},
    "cluster": {"address": "local"},
    "store": "runs",
}
TASK: dict[str, Any] = {
    "name": "mine",
    "kind": "classification",
    "fields": ["text"],
    "writes": "text",
    "labels": [{"name": "bad", "value": 0, "words": "bad"}, {"name": "good", "value": 1, "words": "good"}],
    "data": "data.jsonl",
    "limits": {"min_words": 1, "max_words": 30},
    "prompts": {
        "chat": {
            "seed": {"user": "Write one {{ label }} text."},
            "extrapolate": {"user": "Write one like {{ parent.text }}."},
        }
    },
}
GRID: dict[str, Any] = {
    "name": "grid",
    "job": "job.yaml",
    "axes": {"strategy": {"a": {"strategy": {"name": "zerogen", "rows": 12}}, "b": {"strategy": {"name": "gold"}}}},
    "seeds": [0, 1],
}


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
    match draw.randrange(6):
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
        case _:
            return content + draw.choice([b"\0", b"{", b'{"a": 1}\n', b"\xc3", b"]]"])


def spoil_file(path: Path, draw: random.Random) -> None:
    """Break one file: its bytes, what it says, or that it is a file at all."""
    if path.suffix == ".json" and draw.random() < 0.6:
        with contextlib.suppress(UnicodeEncodeError):
            path.write_text(json.dumps(mutate(json.loads(path.read_bytes()), draw), ensure_ascii=draw.random() < 0.5))
        return
    if path.suffix == ".jsonl" and draw.random() < 0.7:
        lines = path.read_bytes().splitlines()
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(mutate(json.loads(lines[place]), draw)).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
        return
    if path.suffix == ".yaml" and draw.random() < 0.6:
        path.write_text(dump(mutate(yaml.safe_load(path.read_bytes()), draw)), encoding="utf-8", errors="surrogatepass")
        return
    match draw.randrange(8):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.mkdir()
        case _:
            path.write_bytes(spoil(path.read_bytes(), draw))


def dump(tree: Any) -> str:
    """A tree as JSON, which is YAML too and is written many times faster."""
    return json.dumps(tree, ensure_ascii=True)


def rows(draw: random.Random) -> list[Any]:
    return [{"text": f"text {draw.random()} of many number {number}", "label": number % 2} for number in range(40)]


class World:
    """A folder with a job, a task, rows and a grid, put right again before each case."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self._job = JOB | {"student": JOB["student"] | {"model": str(model)}}
        self._rows = rows(random.Random(0))

    def reset(self) -> None:
        """Put everything right."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.write("job.yaml", self._job)
        self.write("task.yaml", TASK)
        self.write("grid.yaml", GRID)
        self.write_rows(self._rows)
        Path(self.folder, "file").write_text("")

    def write(self, name: str, tree: Any) -> None:
        Path(self.folder, name).write_text(dump(tree))

    def write_rows(self, rows: list[Any]) -> None:
        Path(self.folder, "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def break_job(self, draw: random.Random) -> None:
        """Break the job, the task, the rows or the grid."""
        match draw.randrange(8):
            case 0 | 1 | 2:
                self.write("job.yaml", mutate(self._job, draw))
            case 3 | 4:
                self.write("task.yaml", mutate(TASK, draw))
            case 5:
                self.write_rows(mutate(self._rows, draw) or [])
            case _:
                name = draw.choice(["job.yaml", "task.yaml", "data.jsonl", "grid.yaml"])
                spoil_file(self.folder / name, draw)


def s3ray(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it says on standard error."""
    out, err = io.StringIO(), io.StringIO()
    argv, streams, handlers = sys.argv, (sys.stdout, sys.stderr), logging.getLogger().handlers[:]
    sys.argv, (sys.stdout, sys.stderr) = ["s3ray", *arguments], (out, err)
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0), err.getvalue()
    finally:
        sys.argv, (sys.stdout, sys.stderr) = argv, streams
        logging.getLogger().handlers[:] = handlers
    return 0, err.getvalue()


def judge(code: int, text: str) -> str:
    """What is wrong with the end of a command; empty if nothing is."""
    if "Traceback (most recent call last)" in text or code not in (0, 2, 3):
        return f"exit code {code}: {text.strip().splitlines()[-1] if text.strip() else ''}"
    if code and not re.search(r"\w[\w.]*: \S|cannot be|/\w", text):
        return f"names nothing: {text!r}"
    return ""


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("plan", "job.yaml"),
    ("run", "job.yaml", "--local", "--out", "file"),  # no run can lie there: only its checks are made
    ("compare", "grid.yaml", "--out", "file/x"),
    ("submit", "job.yaml", "--address", "http://127.0.0.1:1", "--out", "/x"),
)
NUM_CASES = 300


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_broken_input_ends_in_a_traceback(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    place = tmp_path / "world"
    place.mkdir()
    monkeypatch.chdir(place)
    world = World(place, make_bert(model))
    for number in range(NUM_CASES):
        world.reset()
        world.break_job(random.Random(f"{command[0]} {number}"))
        code, text = s3ray(*command)
        assert not (wrong := judge(code, text)), f"case {number}: {wrong}\n{text}"


@pytest.mark.parametrize("place", ["\0", "a\0b.yaml"])
def test_a_path_that_no_file_can_have_is_refused(place: str) -> None:
    code, text = s3ray("plan", place)
    assert (code, "Traceback" in text) == (2, False)


@pytest.mark.parametrize("field", ["generator.model", "store", "student.model", "cluster.address"])
def test_half_a_character_in_a_job_is_refused(tmp_path: Path, field: str) -> None:
    job = json.loads(json.dumps(JOB))
    holder, _, name = field.rpartition(".")
    (job[holder] if holder else job)[name] = "a \ud800"
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    code, text = s3ray("plan", str(tmp_path / "job.yaml"))
    assert code == 2
    assert f"{field}: holds half a character" in text
