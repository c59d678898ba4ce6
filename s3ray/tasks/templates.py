"""Prompt templates: Jinja2 in a sandbox, where an unknown name is an error when the task is loaded."""

import difflib

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from s3ray.errors import InputError

_SECTIONS = ("context", "fields", "near", "parent", "vary")
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def compile_template(source: str) -> Template:
    """A template that is ready to render; one newline at its end is dropped."""
    template = _ENVIRONMENT.from_string(source)
    # Jinja copies the globals at every render, and copying its chain of maps takes longer than most prompts.
    template.globals = dict(template.globals)
    return template


def check_template(source: str, legal: frozenset[str], where: str, field: str) -> None:
    """Check syntax and names before anything is started.

    Raises:
        InputError: the template does not compile, or uses a name that is not in ``legal``.
    """
    try:
        tree = _ENVIRONMENT.parse(source)
        _ENVIRONMENT.from_string(source)
    except TemplateSyntaxError as error:
        lines = source.splitlines()
        line = lines[error.lineno - 1].strip() if 0 < error.lineno <= len(lines) else ""
        problem = f"template error at its line {error.lineno}: {error.message}"
        hint = "Templates are Jinja2: {{ name }}, {% if name %} ... {% endif %}."
        raise InputError(problem, where, field, line, hint) from None
    unknown = sorted(_used_names(tree) - legal)
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(legal), n=1, cutoff=0.5)
        hint = f"Names of this template: {', '.join(sorted(legal))}."
        hint = f"Did you mean `{near[0]}`? {hint}" if near else hint
        raise InputError("template uses an unknown name", where, field, unknown[0], hint)


def names_in(source: str) -> set[str]:
    """The names that a legal template uses: plain ones, and dotted ones such as ``context.premise``."""
    return _used_names(_ENVIRONMENT.parse(source))


def _used_names(tree: nodes.Template) -> set[str]:
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
