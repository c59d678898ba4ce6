"""The tree itself: what lies where, how long it is, what travels between processes, and that every test is run."""

import ast
import inspect
import itertools
import pickle
import re
import subprocess
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

import s3ray.errors
import s3ray.types

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    *("s3ray", "cluster", "jobs", "benchmarks", "tests", "docs"),
    *("README.md", "LICENSE", "Makefile", "pyproject.toml", "constraints.txt"),
    *(".ci", ".github", ".gitignore"),
}
# One file is one idea that can be read in one sitting; one function fits a screen, docstring included.
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def _ours() -> list[str]:
    """Every file that git tracks or would track, as a path from the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


def _sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_top_level_holds_only_what_the_design_names() -> None:
    assert {Path(name).parts[0] for name in _ours()} <= TOP_LEVEL


def test_files_and_functions_are_short() -> None:
    too_long = []
    for path in _sources("s3ray", "benchmarks"):
        text = path.read_text()
        if text.count("\n") > MAX_FILE_LINES:
            too_long.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if num_lines > MAX_FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {num_lines} lines")
    assert not too_long


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    """Home folders and scratch folders; the two exceptions are Ray's own, in its images and for its sessions."""
    private = re.compile(r"(?<![\w.])/(root|Users|home/(?!ray\b)|tmp/(?!ray\b))[\w/]")
    found = []
    for name in _ours():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or a table
        found += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if private.search(line)]
    assert not found


def _errors() -> list[type[Exception]]:
    found = [value for value in vars(s3ray.errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    return [error for error in found if error.__module__ == "s3ray.errors"]


@pytest.mark.parametrize("error", _errors())
def test_errors_survive_pickling(error: type[Exception]) -> None:
    """An error that unpickles badly fails in the driver, far from its cause."""
    names = [name for name in inspect.signature(error.__init__).parameters if name not in ("self", "args", "kwargs")]
    sent = error(*(f"the {name}" for name in names or ("problem",)))
    received = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(sent))))
    assert type(received) is error
    assert received.args == sent.args
    assert str(received) == str(sent)
    assert vars(received) == vars(sent)


def _values() -> list[type[Any]]:
    return [value for value in vars(s3ray.types).values() if inspect.isclass(value) and is_dataclass(value)]


def _sample(hint: Any) -> Any:
    """Some value of a type that ``types.py`` uses."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _sample(args[0])
    if origin is tuple:
        return (_sample(args[0]),)
    if origin is Mapping:
        return {_sample(args[0]): _sample(args[1])}
    if is_dataclass(hint):
        return _build(typing.cast("type[Any]", hint))
    if issubclass(hint, StrEnum):
        return next(iter(hint))
    return {str: "text", int: 0, float: 0.5}[hint]  # no counts, so that a report balances


def _build(value: type[Any]) -> Any:
    hints = typing.get_type_hints(value)
    return value(**{field.name: _sample(hints[field.name]) for field in fields(value)})


@pytest.mark.parametrize("value", _values())
def test_values_survive_pickling_and_cannot_change(value: type[Any]) -> None:
    sent = _build(value)
    received = pickle.loads(pickle.dumps(sent))
    assert received == sent
    assert type(received) is value
    assert value.__dataclass_params__.frozen
    assert all(field.kw_only for field in fields(value))
    assert "__slots__" in vars(value)


def _recipe(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    return found[1]


def _depths() -> Iterator[str]:
    """Which tests each call of pytest takes, in the recipe of `make test` and in those that it makes."""
    recipe = _recipe("test")
    (made,) = re.findall(r"\$\(MAKE\) (.*)", recipe)
    for each in (recipe, *(_recipe(word) for word in made.split() if not word.startswith("-"))):
        yield from re.findall(r'-m "([^"]+)"', each)


def test_make_test_runs_every_test_once() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = [line.split(":")[0] for line in config["markers"]]
    depths = [compile(depth, "Makefile", "eval") for depth in _depths()]
    for carried in itertools.product((False, True), repeat=len(markers)):
        test = dict(zip(markers, carried, strict=True))
        assert sum(bool(eval(depth, {}, test)) for depth in depths) == 1, test


def test_every_test_file_is_collected() -> None:
    uncollected = [path for path in _sources("tests") if "\ndef test_" in path.read_text() and path.name[:5] != "test_"]
    assert not uncollected


@pytest.mark.parametrize(("folder", "marker"), [("cluster", "ray"), ("engine", "engine")])
def test_folders_of_heavy_tests_carry_their_marker(folder: str, marker: str) -> None:
    unmarked = [path for path in _sources(f"tests/{folder}") if path.name[:5] == "test_"]
    unmarked = [path for path in unmarked if f"pytest.mark.{marker}" not in path.read_text()]
    assert not unmarked
