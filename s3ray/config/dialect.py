"""The YAML of s3ray's files: plain values, each key once, numbers as in YAML 1.2, and no text read as one.

So ``1e-4`` is a number, ``010`` is ten, and ``2:1`` is a text; in YAML 1.1 they are a text, eight and 121.
"""

import re
from typing import Any

import yaml

from s3ray.errors import InputError

MAX_CHARS = 2_000_000
"""Longest YAML file, also with its aliases expanded: a few lines of these can stand for more than fits into memory."""

_FLOAT, _INT = "tag:yaml.org,2002:float", "tag:yaml.org,2002:int"
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")  # YAML 1.1 wants a point and a sign in it
_FILLED = re.compile(r"[-+]?0[0-9_]+")
_WHOLE = re.compile(r"[-+]?[0-9]+[eE]\+?[0-9]{1,2}")


class Loader(yaml.SafeLoader):
    """The safe loader, which makes plain values only, with a limit on the size of aliases when expanded.

    Raises ``InputError`` for a key that comes twice.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, counting its size; refuses a mapping with a key twice."""
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is not None and not is_alias:
            self._sizes[id(node)] = self._size(node)
            if isinstance(node, yaml.MappingNode):
                _refuse_twice(node)
            elif isinstance(node, yaml.ScalarNode) and not node.value.isascii():
                # JSON spells what lies beyond 16 bits as two halves: "\ud83d\ude00".
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return node

    def _size(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value)
        parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        if any(id(part) not in self._sizes for part in parts):
            raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
        size = 1 + sum(self._sizes[id(part)] for part in parts)
        if size > MAX_CHARS:
            raise yaml.MarkedYAMLError(problem="its aliases expand to too much text", problem_mark=node.start_mark)
        return size


class _Dumper(yaml.SafeDumper):
    """The safe dumper; it quotes the texts that ``Loader`` would take for numbers."""


def _refuse_twice(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                problem = f"comes twice, in lines {lines[name]} and {line}"
                raise InputError(problem, field=key.value, hint="Keep one of them: of two values one would be lost.")
            lines[name] = line


def _whole(loader: Loader, node: yaml.ScalarNode) -> int | str:
    if ":" in node.value:
        return str(node.value)
    return int(node.value) if _FILLED.fullmatch(node.value) else int(loader.construct_yaml_int(node))


def _number(loader: Loader, node: yaml.ScalarNode) -> float | str:
    """A number; whole where it is written without a point, so that ``rows: 1e5`` is a count."""
    if ":" in node.value:
        return str(node.value)
    value: float = loader.construct_yaml_float(node)
    return int(value) if _WHOLE.fullmatch(node.value) and value < 1e15 else value


def dump(value: Any, *, flow: bool = False, width: int = 80) -> str:
    """Write a plain value as YAML that ``Loader`` reads as the same value; ``flow``: on one line, with brackets."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=width)
    return str(text)


for _class in (Loader, _Dumper):
    _class.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
Loader.add_constructor(_FLOAT, _number)
Loader.add_constructor(_INT, _whole)
