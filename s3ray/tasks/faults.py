"""What is wrong with the rows of a data set: all of it is gathered, counted by kind, and told in one message."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from s3ray.errors import InputError

_NUM_SHOWN = 5
_NUM_KINDS = 8
_VALUE_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One wrong row: the file or split that it is in, its number there, and what is wrong."""

    where: str
    row: str
    error: InputError

    @property
    def kind(self) -> tuple[str, str, str]:
        """What faults of one kind share: the file, the field, the problem without its particulars."""
        return self.where, self.error.field, self.error.problem.partition(":")[0]


class Faults:
    """Gathers faults in the order of the rows."""

    def __init__(self) -> None:
        self._found: list[Fault] = []

    @contextlib.contextmanager
    def gathered(self, where: str, row: str) -> Iterator[None]:
        """Take down what the block finds wrong with a row, such as ``row 5``, and go on."""
        try:
            yield
        except InputError as error:
            self._found.append(Fault(where=where, row=row, error=error))

    def refuse(self) -> None:
        """Raise if there are any.

        Raises:
            InputError: the first fault, with its way out; the hint lists all kinds with their counts and first rows.
        """
        if not self._found:
            return
        first = self._found[0]
        error = first.error
        hint = "\n  ".join([error.hint, *self._listed()] if len(self._found) > 1 else [error.hint])
        raise InputError(error.problem, f"{first.where}, {first.row}", error.field, error.value, hint)

    def _listed(self) -> Iterator[str]:
        by_kind: dict[tuple[str, str, str], list[Fault]] = {}
        for fault in self._found:
            by_kind.setdefault(fault.kind, []).append(fault)
        is_several = len({where for where, _, _ in by_kind}) > 1
        yield f"{len(self._found)} rows are wrong:"
        for (where, field, problem), faults in list(by_kind.items())[:_NUM_KINDS]:
            shown = ", ".join(_shown(fault) for fault in faults[:_NUM_SHOWN])
            rest = f" and {len(faults) - _NUM_SHOWN} more" if len(faults) > _NUM_SHOWN else ""
            what = ": ".join(part for part in (where if is_several else "", field, problem) if part)
            yield f"  {len(faults)} x {what}: {shown}{rest}"
        if len(by_kind) > _NUM_KINDS:
            yield f"  and {len(by_kind) - _NUM_KINDS} more kinds"


def _shown(fault: Fault) -> str:
    value = fault.error.value
    value = value if len(value) <= _VALUE_CHARS else f"{value[:_VALUE_CHARS]}..."
    return f"{fault.row} ({value})" if value else fault.row
