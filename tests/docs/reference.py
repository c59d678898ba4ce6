"""Writes docs/configuration.md from the fields' own types, defaults and descriptions: `make docs`."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from s3ray.config.grid import CampaignConfig
from s3ray.config.job import NAME_PATTERN, RunConfig
from s3ray.config.plugins import BuiltinOrImportPath
from s3ray.config.presets import METHOD_PRESETS, STUDENT_PRESETS
from s3ray.tasks.spec import TaskSpec

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Made by `make docs` from the fields' own descriptions in s3ray/; a test compares. Do not edit. -->

Three kinds of files: a [job](#the-job), which `s3ray run` runs; a [grid](#the-grid) of jobs, for `s3ray compare`; and
a [task](#the-task), what is to be learned. All are YAML and strict: an unknown field, or a value of another type, is
refused (exit code 2) with the nearest valid name. A field without a default is required. `--set generator.engines=4`
sets one field for one start; the whole job, every default spelled out, is `config.yaml` in the run folder.
[jobs/](../jobs) has complete jobs.

The column *shapes* says whether a field shapes the data. Such fields are fingerprinted: a run folder goes on with the
same values only, and `--fresh` begins a new lineage with others. Fields marked `execution` may differ between two
starts of a run.
"""

PRESETS = """\
### Presets

What they fill in where the job says nothing; `config.yaml` shows what came of it.

"""

GRID = """\
## The grid

`s3ray compare GRID.yaml`; [campaign.md](campaign.md) explains it.

"""

TASK = """\
## The task

[own-task.md](own-task.md) goes through one. All of it shapes the data.

"""

_PATTERNS = {
    NAME_PATTERN: "letters, digits, dots, underscores and hyphens",
    TaskSpec.model_fields["name"].metadata[0].pattern: "small letters, digits, underscores and hyphens",
}
_PLAIN: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
_PLAIN[JsonValue] = "any value"


def configuration() -> str:
    """The page."""
    parts = [HEAD, "\n## The job\n\n", *sections(RunConfig, shapes="data"), PRESETS, *_presets()]
    parts += [GRID, table(CampaignConfig), "\n", TASK, *sections(TaskSpec)]
    return "".join(parts).rstrip("\n") + "\n"


def sections(model: type[BaseModel], prefix: str = "", shapes: str = "") -> Iterator[str]:
    """A table of the model's own fields, then a heading and a table for each kind of section in it.

    ``shapes`` is what its fields shape unless they are marked; empty in files other than jobs.
    """
    yield table(model, shapes) + "\n"
    alike: dict[type[BaseModel], list[str]] = {}
    for name, info in model.model_fields.items():
        for section in _sections_in(info.annotation):
            alike.setdefault(section, []).append(name)
    for section, names in alike.items():
        places = [f"{prefix}{name}" for name in names]
        yield f"### {', '.join(f'`{place}`' for place in places)}\n\n{_sentence(section.__doc__)}\n\n"
        is_execution = all(_is_marked(model.model_fields[name]) for name in names)
        yield from sections(section, f"{places[0]}.", "execution" if shapes and is_execution else shapes)


def table(model: type[BaseModel], shapes: str = "") -> str:
    """The fields of one section, a line each; in a job with what they shape."""
    head = ["field", "type", "default", *(["shapes"] if shapes else []), "meaning"]
    lines = [head, ["---"] * len(head)]
    for name, info in model.model_fields.items():
        own = "execution" if _is_marked(info) else "" if _is_section(info) else _shapes(info, shapes)
        meaning = _sentence(info.description)
        lines.append([f"`{name}`", _type(info), _default(info), *([own] if shapes else []), meaning])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _is_section(info: FieldInfo) -> bool:
    return any(_sections_in(info.annotation))


def _shapes(info: FieldInfo, usual: str) -> str:
    """What a field shapes: as it says itself, else as its section does."""
    extra = info.json_schema_extra
    return str(extra.get("shapes", usual)) if isinstance(extra, dict) else usual


def _is_marked(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("execution"))


def _sentence(text: str | None) -> str:
    if not text or not text.strip():
        raise ValueError("a field or a section has no description")
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if isinstance(info.default, BaseModel):
        return ""
    return f"`{_plain(info.default)}`"


def _plain(value: Any) -> str:
    """As it stands in YAML, on one line."""
    value = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("...\n").strip()


def _type(info: FieldInfo) -> str:
    for mark in info.metadata:
        if isinstance(mark, BuiltinOrImportPath):
            return f"{_name(Literal[mark.names])}, or an import path"
    kinds = " or ".join(map(_name, _kinds(info.annotation)))
    text = ", ".join([kinds, *_limits(info.metadata)])
    return f"{text}, or null" if _may_be_null(info.annotation) else text


def _kinds(hint: Any) -> list[Any]:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [each for each in parts if each is not NoneType]


def _may_be_null(hint: Any) -> bool:
    return NoneType in get_args(hint)


def _name(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = ", ".join(_limits(args[1:]))
        return f"{_name(args[0])}, {limits}" if limits else _name(args[0])
    if origin in (Union, UnionType):
        return ", ".join([*map(_name, _kinds(hint)), *["null"] * _may_be_null(hint)])
    if origin is Literal:
        return ", ".join(f"`{_plain(value)}`" for value in args)
    if origin in (list, tuple):
        return f"list of: {_name(args[0])}"
    if origin in (Union, UnionType):
        return " or ".join(map(_name, args))
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return f"by name: {_name(args[1])}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "section"
    return _PLAIN[hint]


def _limits(metadata: Any) -> Iterator[str]:
    for each in metadata:
        match each:
            case FieldInfo():
                yield from _limits(each.metadata)
            case Ge(ge=limit):
                yield f"{limit} or more"
            case Gt(gt=limit):
                yield f"above {limit}"
            case Le(le=limit):
                yield f"{limit} at most"
            case Lt(lt=limit):
                yield f"below {limit}"
            case MinLen():
                yield "not empty"
            case MaxLen(max_length=limit):
                yield f"{limit} characters at most"
        if pattern := getattr(each, "pattern", None):
            yield _PATTERNS[pattern]


def _sections_in(hint: Any) -> Iterator[type[BaseModel]]:
    """The sections that a type is made of."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for each in get_args(hint):
        yield from _sections_in(each)


def _presets() -> Iterator[str]:
    yield "| `student.preset` | fills in, in `student` |\n|---|---|\n"
    for name, fields in STUDENT_PRESETS.items():
        yield f"| `{name}` | {_fields(fields)} |\n"
    yield "\n| `strategy.name` | fills in |\n|---|---|\n"
    for name, parts in METHOD_PRESETS.items():
        yield f"| `{name}` | {', '.join(_fields(fields, f'{part}.') for part, fields in parts.items())} |\n"
    yield "\n"


def _fields(fields: Mapping[str, Any], prefix: str = "") -> str:
    return ", ".join(f"`{prefix}{name}: {_plain(value)}`" for name, value in fields.items())


if __name__ == "__main__":
    PAGE.write_text(configuration(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(Path.cwd())}\n")
