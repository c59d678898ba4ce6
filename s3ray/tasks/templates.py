"""Prompt templates: a small part of Jinja2 in a sandbox, where an unknown name is an error when the task is loaded.

A template comes with a task, which may come from a stranger. So its language has only what prompts need: names,
conditions, loops over the lists that it is given, a few filters. Nothing can be called or multiplied, loops cannot be
nested, and no text grows beyond ``MAX_CHARS``.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from jinja2 import StrictUndefined, Template, TemplateRuntimeError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from s3ray.errors import InputError

MAX_CHARS = 1_000_000
"""Longest prompt, and longest text that a filter may make."""

_SECTIONS = ("context", "fields", "near", "parent", "vary")
_LISTS = ("labels", "reasons", "shown")
_KNOWN = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
    *(nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Keyword, nodes.Neg),
    *(nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Test),
    *(nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair),
)
_FILTERS = (
    *("capitalize", "count", "d", "default", "first", "join", "last", "length", "list", "lower", "replace", "reverse"),
    *("sort", "title", "trim", "truncate", "unique", "upper"),
)


def _join(items: Iterable[object], between: str = "") -> str:
    texts = [str(item) for item in items]
    _bound(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _replace(text: object, old: str, new: str) -> str:
    whole = str(text)
    _bound(len(whole) + whole.count(old) * len(new))
    return whole.replace(old, new)


def _concat(pieces: Iterable[str]) -> str:
    """Join the pieces that a template renders; raises as soon as they are too long."""
    kept, length = [], 0
    for piece in pieces:
        length += len(piece)
        _bound(length)
        kept.append(piece)
    return "".join(kept)


def _bound(length: int) -> None:
    if length > MAX_CHARS:
        raise TemplateRuntimeError(f"it would be longer than {MAX_CHARS} characters")


class _Prompts(ImmutableSandboxedEnvironment):
    concat = staticmethod(_concat)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up a dotted name; a field that has the name of a dict method (`values`) hides the method."""
        is_field = isinstance(obj, Mapping) and attribute in obj
        return obj[attribute] if is_field else super().getattr(obj, attribute)


_ENVIRONMENT = _Prompts(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters = {name: _ENVIRONMENT.filters[name] for name in _FILTERS} | {"join": _join, "replace": _replace}
_ENVIRONMENT.globals.clear()


def compile_template(source: str) -> Template:
    """Compile a template; one newline at its end is dropped.

    Raises:
        TemplateSyntaxError: it is not a valid template, or uses a feature that is not allowed here.
    """
    template = _ENVIRONMENT.from_string(_parse(source))
    # Jinja copies the globals at every render, and copying its chain of maps takes longer than most prompts.
    template.globals = dict(template.globals)
    return template


def check_template(source: str, legal: frozenset[str], field: str) -> None:
    """Check syntax and names before anything is started.

    Raises:
        InputError: the template does not compile, or uses a name that is not in ``legal``.
    """
    try:
        compile_template(source)
    except TemplateSyntaxError as error:
        lines = source.splitlines()
        line = lines[error.lineno - 1].strip() if 0 < error.lineno <= len(lines) else ""
        problem = f"template error at its line {error.lineno}: {error.message}"
        hint = "Templates are Jinja2: {{ name }}, {% if name %} ... {% endif %}."
        raise InputError(problem, field=field, value=line, hint=hint) from None
    unknown = sorted(names_in(source) - legal)
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(legal), n=1, cutoff=0.5)
        hint = f"Names of this template: {', '.join(sorted(legal))}."
        hint = f"Did you mean `{near[0]}`? {hint}" if near else hint
        raise InputError("template uses an unknown name", field=field, value=unknown[0], hint=hint)


def _parse(source: str) -> nodes.Template:
    """Parse a template and refuse the features that prompts do not need.

    Raises:
        TemplateSyntaxError: it is not a valid template, or uses such a feature.
    """
    try:
        tree = _ENVIRONMENT.parse(source)
    except (RecursionError, ValueError):  # Python's own limits on nesting and on the length of numbers
        raise TemplateSyntaxError("it is nested too deep, or holds too long a number", 1) from None
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, _KNOWN):
            _refuse(f"prompts do not need {type(node).__name__}: neither calls nor arithmetic, nor macros", node)
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            _refuse(f"there is no filter {node.name!r}; there are {', '.join(_FILTERS)}", node)
        if isinstance(node, nodes.Name) and node.ctx == "store" and node.name in _LISTS:
            _refuse(f"{node.name} is given and cannot be set", node)
        if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict) and not _is_flat(node):
            _refuse("lists in a template may hold only texts and numbers", node)
        if isinstance(node, nodes.For):
            _check_loop(node)
    return tree


def _is_flat(node: nodes.Node) -> bool:
    """Nested lists are refused: a small one can stand for an endless text."""
    return all(isinstance(part, nodes.Const | nodes.Pair) for part in node.find_all(nodes.Node))


def _check_loop(loop: nodes.For) -> None:
    listed = loop.iter.node if isinstance(loop.iter, nodes.Getitem) else loop.iter
    if not isinstance(listed, nodes.Name) or listed.name not in _LISTS:
        _refuse(f"a loop goes over one of {', '.join(_LISTS)}, or a part of it such as shown[:3]", loop)
    if next(loop.find_all(nodes.For), None):
        _refuse("loops cannot be nested", loop)


def _refuse(problem: str, node: nodes.Node) -> NoReturn:
    raise TemplateSyntaxError(problem, node.lineno)


def names_in(source: str) -> set[str]:
    """The names that a legal template uses: plain ones, and dotted ones such as ``context.premise``."""
    tree = _parse(source)
    names = meta.find_undeclared_variables(tree)
    used = {name for name in names if name not in _SECTIONS}
    for section in names & set(_SECTIONS):
        attributes = [node.attr for node in tree.find_all(nodes.Getattr) if _is_name(node.node, section)]
        items = [node.arg for node in tree.find_all(nodes.Getitem) if _is_name(node.node, section)]
        keys = [item.value for item in items if isinstance(item, nodes.Const)]
        used |= {f"{section}.{name}" for name in (*attributes, *keys)}
    return used


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
