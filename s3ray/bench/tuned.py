"""Writes settings into the text of a job file, and leaves all else in it as it is, comments too. Pure."""

import contextlib
import copy
from collections.abc import Mapping

import yaml
from pydantic import JsonValue

from s3ray.config.dialect import Loader, dump
from s3ray.config.load import parse_yaml, set_fields
from s3ray.errors import InputError


def change_text(text: str, changes: Mapping[str, JsonValue]) -> str:
    """The text of a job file with dotted fields set.

    Where the file is written in a way that cannot be changed in place (aliases, say), it is written anew, without its
    comments; either way it says what the old one says, and the changes.
    """
    wanted = set_fields(copy.deepcopy(parse_yaml(text)), changes)
    changed = text
    with contextlib.suppress(InputError, yaml.YAMLError):  # what was changed is no YAML any more
        for field, value in changes.items():
            changed = _set(changed, field.split("."), value)
        if parse_yaml(changed) == wanted:
            return changed
    return dump(wanted)


def _set(text: str, path: list[str], value: JsonValue) -> str:
    """Set one field, below those sections of its path that are there."""
    node = yaml.compose(text, Loader)
    depth = 0
    while isinstance(node, yaml.MappingNode):
        below = next((item for key, item in node.value if key.value == path[depth]), None)
        if below is None:
            break
        node, depth = below, depth + 1
        if depth == len(path):
            return _replace(text, node, value)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        return text
    for name in reversed(path[depth + 1 :]):
        value = {name: value}
    return _insert(text, node, path[depth], value)


def _replace(text: str, node: yaml.Node, value: JsonValue) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        end = len(text[:end].rstrip())  # a block ends where the next one begins
    return text[:start] + plain(value) + text[end:]


def _insert(text: str, node: yaml.MappingNode, name: str, value: JsonValue) -> str:
    """Add a field after the last one of a section."""
    line = f"{name}: {plain(value)}"
    last = node.value[-1][1]
    end = last.end_mark.index
    if node.flow_style:
        return f"{text[:end]}, {line}{text[end:]}"
    if isinstance(last, yaml.CollectionNode) and not last.flow_style:
        end = len(text[:end].rstrip())
    newline = text.find("\n", end)
    end = len(text) if newline < 0 else newline
    indent = " " * node.start_mark.column
    return f"{text[:end]}\n{indent}{line}{text[end:]}"


def plain(value: JsonValue) -> str:
    """A value on one line, as it stands in a job file."""
    return dump(value, flow=True, width=10_000).strip().removesuffix("\n...").strip()
