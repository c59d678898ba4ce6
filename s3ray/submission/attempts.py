"""The attempts of a submitted job: their names, what their ends mean, and what they may know of the environment."""

import re
from collections.abc import Collection, Iterable
from typing import Literal

from s3ray.errors import InputError

End = Literal["done", "refused", "stopped", "failed"]

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFUSED = 2
NO_COMMAND = 127
"""The exit code of a shell that does not find its command."""


def next_id(name: str, known: Iterable[str | None]) -> str:
    """The id of the next attempt: ``NAME-1``, ``NAME-2`` ...; ids of other submitters may stand between them."""
    numbers = (re.fullmatch(rf"{re.escape(name)}-([0-9]+)", each or "") for each in known)
    return f"{name}-{1 + max((int(found[1]) for found in numbers if found), default=0)}"


def end_of(status: str, exit_code: int | None) -> End:
    """What the end of an attempt means. Only ``failed`` is worth another one.

    ``exit_code`` is that of its command; None where the driver's node died with it.
    """
    if status == "SUCCEEDED":
        return "done"
    if status == "STOPPED":
        return "stopped"
    return "refused" if exit_code in (_REFUSED, NO_COMMAND) else "failed"


def environment(texts: Iterable[str], key_variables: Collection[str]) -> dict[str, str]:
    """The environment variables of a job: those of ``NAME=VALUE`` texts, and what it needs itself.

    Raises:
        InputError: a text is no NAME=VALUE, or the name is that of a secret.
    """
    variables = {"PYTHONUNBUFFERED": "1"}  # or the log comes in blocks, minutes late
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            # What lies there instead of a name may be a secret: it is not shown.
            raise InputError("is no NAME=VALUE", where="--env", hint="For example AWS_REGION=eu-central-1.")
        if _SECRET.search(name) or name in key_variables:
            hint = (
                "Ray shows a job's environment to all who see its dashboard. Set it on every node before `ray start`."
            )
            raise InputError("looks like a secret, and is not sent", where="--env", value=name, hint=hint)
        variables[name] = value
    return variables
