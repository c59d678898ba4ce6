"""Reading a job file, or any other YAML file of s3ray: strict typed settings, or one message saying what is wrong."""

import difflib
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from s3ray.config.dialect import MAX_CHARS, Loader
from s3ray.config.job import RunConfig
from s3ray.errors import InputError, located

Model = TypeVar("Model", bound=BaseModel)

_NUMBER = "Quote it: without quotes YAML takes it for a number."
_DATE = "Quote it: without quotes YAML takes it for a date."
_NOT_QUOTED = {
    bool: 'Quote it, as in "yes": without quotes yes, no, on, off, true and false are truth values in YAML.',
    int: _NUMBER,
    float: _NUMBER,
    date: _DATE,
    datetime: _DATE,
}


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read a job file.

    ``overrides`` maps dotted fields (``generator.engines``) to values and wins over the file.

    Raises:
        InputError: the file is missing or not YAML, or a field is unknown, missing or of the wrong type or value.
    """
    with located(path):
        return validate(RunConfig, set_fields(read_yaml(Path(path)), overrides or {}))


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Read the texts of ``--set FIELD=VALUE``; returns the values by field.

    Raises:
        InputError: a text is not FIELD=VALUE, or its value is not YAML.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise InputError("is not FIELD=VALUE", where="--set", value=text, hint="For example generator.engines=4.")
        with located(f"--set {field}"):
            changes[field] = parse_value(value)
    return changes


def set_fields(raw: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted fields in a tree of plain values, in place; returns the tree.

    Raises:
        InputError: a field's parent is not a section.
    """
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = raw
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError("is not a section", field=parent, hint=f"cannot set {dotted}")
        node[last] = value
    return raw


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        InputError: the file is missing, is not YAML, or holds something other than a mapping.
    """
    with located(path):
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(MAX_CHARS + 1)
        except OSError as error:
            raise InputError("cannot be read", value=error.strerror or "", hint="Check the path.") from error
        except UnicodeDecodeError as error:
            raise InputError(f"is not valid YAML: {error}", hint="Save it as UTF-8.") from error
        except ValueError as error:  # a path with signs that no path can have
            raise InputError("cannot be read", value=repr(str(error)), hint="Check the path.") from error
        return parse_yaml(text)


def parse_yaml(text: str) -> dict[str, Any]:
    """Read a YAML mapping from a text; raises as ``read_yaml`` does."""
    raw = parse_value(text)
    if not isinstance(raw, dict):
        raise InputError("holds no fields", hint="Start from jobs/quickstart.yaml.")
    return raw


def parse_value(text: str) -> Any:
    """Read any YAML value with the safe loader.

    Raises:
        InputError: it is not valid YAML, or too long.
    """
    if len(text) > MAX_CHARS:
        raise InputError(f"is longer than {MAX_CHARS} characters", hint="Is it the right file?")
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"is not valid YAML{line}: {problem}", hint="Fix the file.") from error


def validate(model: type[Model], raw: dict[str, Any]) -> Model:
    """Build a pydantic model, turning the first problem into one message with field, value and a way out."""
    _refuse_halves(raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = next((each for each in errors if _is_text_wanted(each, errors[0])), errors[0])
        location = [str(part) for part in first["loc"]]
        field = ".".join(location)
        if first["type"] == "extra_forbidden":
            names = _names_beside(model, first["loc"][:-1])
            near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
            hint = f"Did you mean `{near[0]}`?" if near else f"Valid here: {', '.join(names)}."
            raise InputError("unknown field", field=field, hint=hint) from None
        if first["type"] == "missing":
            raise InputError("is missing", field=field, hint=_doc_of(model, first["loc"])) from None
        problem = first["msg"].removeprefix("Value error, ")
        problem = problem[0].lower() + problem[1:]
        value = "" if isinstance(first["input"], dict) else repr(first["input"])
        quote = _NOT_QUOTED.get(type(first["input"]), "") if first["type"] == "string_type" else ""
        hint = " ".join(part for part in (quote, _doc_of(model, first["loc"])) if part)
        raise InputError(problem, field=field, value=value, hint=hint) from None


def _refuse_halves(value: object, field: str = "") -> None:
    """Refuse half a character (a lone surrogate), which YAML and JSON can spell and no file can hold."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_halves(name, field)
            _refuse_halves(item, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _refuse_halves(item, f"{field}.{place}")
    elif isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            problem = "holds half a character (a lone surrogate), which no file can hold"
            raise InputError(problem, field=field, value=ascii(value)[:80], hint="Write the whole one.") from None


def _is_text_wanted(error: ErrorDetails, first: ErrorDetails) -> bool:
    """Whether the value of the first error would do as a text."""
    return error["type"] == "string_type" and error["input"] is first["input"]


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The class of the section at a location; None if there is no section."""
    for part in location:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part)
        candidates = [info.annotation, *get_args(info.annotation)] if info else []
        sections = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if not sections:
            return None
        model = sections[0]
    return model


def _names_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    section = _model_at(model, location)
    return list(section.model_fields) if section else []


def _doc_of(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    section = _model_at(model, location[:-1]) if location else None
    info = section.model_fields.get(str(location[-1])) if section else None
    return " ".join(info.description.split()) if info and info.description else ""
