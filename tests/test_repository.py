"""The tree itself: what lies where, how long it is, how typed, what travels between processes, which tests are run."""

import ast
import inspect
import itertools
import pickle
import re
import subprocess
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
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
# A smaller module with one importer is a splinter of it, not an idea: put it there, or say here why it stands alone.
MIN_LINES_OF_A_SPLINTER = 60
# Readers look for these by their name: one strategy, kind of task or engine a file.
FOLDERS_OF_ONE_THING_A_FILE = ("s3ray/strategies", "s3ray/tasks", "s3ray/generator/engines")
SMALL_WITH_A_REASON = {
    "s3ray/student/local_trainer.py": "stands beside ray_trainer.py, in its place without Ray",
    "s3ray/config/presets.py": "tables of values; the fields that they fill in take all of a file",
}
# Folders of tests that are about something else than a folder of s3ray/.
TESTS_OF_THE_WHOLE = {
    *("contract", "engine", "cluster", "browser", "security", "docs", "cluster_files"),
    "platforms",  # of vLLM, for machines without a GPU
    "recorded",  # run folders that earlier commits wrote
}
# Events and metrics are classes. Plain values of any kind stand only where they are written or read.
FILES_OF_EVENTS = (
    "s3ray/telemetry/events.py",
    "s3ray/monitor/metrics.py",
    "s3ray/monitor/run_view.py",
    "s3ray/monitor/accounting.py",
)
PLAIN_WITH_A_REASON = {
    "s3ray/telemetry/events.py: event_to_dict": "a line of events.jsonl",
    "s3ray/telemetry/events.py: event_from_dict": "a line of events.jsonl",
    "s3ray/monitor/metrics.py: as_dict": "metrics.json as it is written",
    "s3ray/monitor/metrics.py: _identity": "fingerprint.json as it is",
    "s3ray/monitor/metrics.py: per_engine": "config.yaml of any version",
}


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


def _imported(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules of s3ray that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in inner}
    return found & modules.keys()


def test_no_small_module_has_a_single_importer() -> None:
    paths = {path.relative_to(ROOT): path for path in _sources("s3ray")}
    modules = {".".join(name.with_suffix("").parts).removesuffix(".__init__"): path for name, path in paths.items()}
    imports = [(path, _imported(path, modules)) for path in modules.values()]
    splinters = set()
    for module, path in modules.items():
        name = str(path.relative_to(ROOT))
        if path.name == "__init__.py" or name.startswith(FOLDERS_OF_ONE_THING_A_FILE):
            continue
        num_importers = sum(module in imported for importer, imported in imports if importer != path)
        if num_importers <= 1 and path.read_text().count("\n") < MIN_LINES_OF_A_SPLINTER:
            splinters.add(name)
    assert splinters == set(SMALL_WITH_A_REASON)


def _annotations(path: Path) -> Iterator[tuple[str, str, str]]:
    """Parameters, results and fields: the function that one belongs to ("": a field), its name, its type as written."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            typed = [(each.arg, each.annotation) for each in parameters] + [(node.name, node.returns)]
            yield from ((node.name, name, ast.unparse(hint)) for name, hint in typed if hint)
        elif isinstance(node, ast.ClassDef):
            fields_ = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            yield from (("", ast.unparse(each.target), ast.unparse(each.annotation)) for each in fields_)


def _plain(files: list[Path], is_meant: Callable[[str], bool]) -> set[str]:
    """Where something whose name is meant is a mapping of anything: FILE: FUNCTION, or FILE: FIELD."""
    mapping = re.compile(r"\b(dict|Mapping|MutableMapping)\[str, (Any|object)\]")
    return {
        f"{path.relative_to(ROOT)}: {function or name}"
        for path in files
        for function, name, hint in _annotations(path)
        if mapping.search(hint) and is_meant(name)
    }


def test_events_and_metrics_are_typed() -> None:
    plain = _plain([ROOT / name for name in FILES_OF_EVENTS], lambda name: True)
    assert plain == set(PLAIN_WITH_A_REASON)


def test_whoever_takes_events_or_metrics_takes_classes() -> None:
    """But for the store, which keeps lines and does not know what they say."""
    files = [path for path in _sources("s3ray") if path.parent != ROOT / "s3ray" / "storage"]
    plain = _plain(files, lambda name: re.search(r"(^|_)(events?|metrics)$", name) is not None)
    assert not plain


def test_what_docstrings_name_is_there() -> None:
    """``module.Name`` in a docstring or comment: one of the modules of that name has it."""
    sources = {path: path.read_text() for path in _sources("s3ray")}
    missing = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path, text in sources.items()
        for module, name in re.findall(r"``([a-z_]+)\.([A-Z]\w*)", text)
        if module != "datasets"  # the library
        and not any(re.search(rf"\b{name}\b", found) for other, found in sources.items() if other.stem == module)
    ]
    assert not missing


def test_tests_lie_as_what_they_test() -> None:
    """Folder by folder; a test beside the folders is about a module beside the folders, or about the whole tree."""
    folders = {Path(name).parts[1] for name in _ours() if name.startswith("s3ray/") and Path(name).parts[2:]}
    names = [Path(name).parts[1:] for name in _ours() if name.startswith("tests/")]
    assert {first for first, *rest in names if rest} <= folders | TESTS_OF_THE_WHOLE
    modules = {path.stem for path in (ROOT / "s3ray").glob("*.py")} | {"layers", "repository"}
    beside = {first for first, *rest in names if not rest and first.startswith("test_")}
    assert {name.removeprefix("test_").removesuffix(".py") for name in beside} <= modules


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
    return {str: "text", int: 0, float: 0.5, bool: True}[hint]


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
