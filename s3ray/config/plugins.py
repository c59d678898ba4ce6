"""Strategies and engines of other packages: named by import path (``my_package.mine:Surest``), checked when loaded."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from s3ray.errors import InputError

_NAMES = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_IMPORT_PATH = re.compile(f"{_NAMES}:{_NAMES}")


def is_import_path(name: str) -> bool:
    """Whether a name has the form MODULE:CLASS, and so is not that of a builtin."""
    return bool(_IMPORT_PATH.fullmatch(name))


def import_path(found: type) -> str:
    """The import path of a class.

    Raises:
        ValueError: no other process could import it by that path.
    """
    name = found.__qualname__
    if found.__module__ == "__main__":
        raise ValueError(
            f"class {name} belongs to the program or notebook that is running (__main__), and engines and later starts "
            "of the run are other processes, which cannot import it from there: put it into a module of its own"
        )
    if "<locals>" in name:
        raise ValueError(
            f"class {name} is made inside a function, where no other process can import it: move it to the top level "
            "of its module"
        )
    return f"{found.__module__}:{name}"


@dataclass(frozen=True, slots=True)
class BuiltinOrImportPath:
    """Marks a text field that holds one of ``names`` or an import path; a class is replaced by its import path."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic when the model is built."""
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, given: object) -> str:
        if isinstance(given, type):
            return import_path(given)
        if isinstance(given, str) and (given in self.names or is_import_path(given)):
            return given
        *names, last = map(repr, self.names)
        raise ValueError(
            f"Input should be {', '.join(names)} or {last}, or the import path of a class such as my_package.mine:Mine"
        )


def load_class(path: str, field: str) -> type:
    """Import a class; ``field`` is the setting that names it.

    Raises:
        InputError: its module cannot be imported in this process, or has no such class.
    """
    module_name, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        problem = f"{module_name} cannot be imported here ({type(error).__name__}: {error})"
        hint = "The driver and every engine import it: install it on all nodes, or set PYTHONPATH where Ray starts."
        raise InputError(problem, field=field, value=path, hint=hint) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        hint = "MODULE:CLASS, as in `from MODULE import CLASS`."
        raise InputError(f"{module_name} has no class {name}", field=field, value=path, hint=hint)
    return found


def check_contract(found: type, contract: type, field: str) -> None:
    """Refuse a class that lacks a public member of ``contract`` or cannot be called as the contract's is.

    Raises:
        InputError: the class breaks the contract; the message lists how.
    """
    if missing := [*_missing(found, contract)]:
        path = f"{found.__module__}:{found.__qualname__}"
        hint = f"The contract is {contract.__module__}.{contract.__qualname__}; docs/extending.md shows a whole class."
        raise InputError(f"does not keep its contract: {'; '.join(missing)}", field=field, value=path, hint=hint)


def _missing(found: type, contract: type) -> Iterator[str]:
    if problem := _refuses(inspect.signature(found), inspect.signature(vars(contract)["__init__"]), skipped=1):
        yield f"it cannot be built from {problem}"
    for name in inspect.get_annotations(contract):
        if not name.startswith("_") and not isinstance(getattr(found, name, None), bool):
            yield f"`{name}` is not set (True or False)"
    for name, member in vars(contract).items():
        if name.startswith("_") or not (callable(member) or isinstance(member, property)):
            continue
        own, is_property = inspect.getattr_static(found, name, None), isinstance(member, property)
        if own is None or getattr(own, "__isabstractmethod__", False):
            yield f"`{name}` is missing"
        elif is_property and inspect.isfunction(own):
            yield f"`{name}` must be a property"
        elif not (is_property or callable(own) or isinstance(own, classmethod)):
            yield f"`{name}` must be a method"
        elif inspect.isfunction(own):
            if problem := _refuses(inspect.signature(own), inspect.signature(member)):
                yield f"`{name}` cannot be called with {problem}"
            if inspect.iscoroutinefunction(member) and not inspect.iscoroutinefunction(own):
                yield f"`{name}` must be `async def`"


def _refuses(own: inspect.Signature, asked: inspect.Signature, skipped: int = 0) -> str:
    """The contract's call and why it would fail; empty if it would not. ``skipped``: number of bound parameters."""
    parameters = list(asked.parameters.values())[skipped:]
    keywords = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
    try:
        own.bind(*[None for each in parameters if each.kind is not each.KEYWORD_ONLY], **keywords)
    except TypeError as error:
        return f"({', '.join(str(each) for each in parameters)}): {error}"
    return ""
