"""Keeps secrets of the environment and passwords in URLs out of all files, logs and messages.

A secret is the value of an environment variable whose name says so: OPENAI_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY,
DB_PASSWORD; or of one that a job names as such (``treat_as_secrets``). Short values do not count as secrets, because
hiding them would hide ordinary words.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

_HIDDEN = "***"
_SHORTEST = 8
_NAME = re.compile(r"(^|_)(API_?KEY|KEY|KEY_ID|TOKEN|SECRET|PASS|PASSWORD|PASSWD|CONNECTION_STRING)$", re.I)
_IN_URL = re.compile(r"(:/{1,2})[^/\s:@]*:[^/\s]*(?=@)|(https?:/{1,2})[^/\s@]+(?=@)")
"""User and password in a URL, also in one that lost a slash because it was treated as a path."""


_ALSO: set[str] = set()
"""Variables that hold secrets though their names do not say so."""


def treat_as_secrets(*names: str) -> None:
    """From now on hide, in this process, the values of these environment variables too: a job says they are secrets."""
    _ALSO.update(names)


def secrets() -> dict[str, str]:
    """The secrets of this process's environment, by the names of their variables."""
    found = {name: value.strip() for name, value in os.environ.items() if _NAME.search(name) or name in _ALSO}
    return {name: value for name, value in found.items() if len(value) >= _SHORTEST}


def mask(value: Any) -> Any:
    """A text, or plain values with texts in them, with secrets and the user and password of URLs replaced by ***."""
    return _masked(value, sorted(secrets().values(), key=len, reverse=True))


def hide(text: str, hidden: Sequence[str]) -> str:
    """A text with these secrets replaced by ***, except for those that are too short."""
    for secret in hidden:
        text = text.replace(secret, _HIDDEN) if len(secret) >= _SHORTEST else text
    return text


def _masked(value: Any, hidden: Sequence[str]) -> Any:
    match value:
        case str():
            return _IN_URL.sub(rf"\1\2{_HIDDEN}", hide(value, hidden))
        case Mapping():
            return {name: _masked(part, hidden) for name, part in value.items()}
        case list() | tuple():
            return [_masked(part, hidden) for part in value]
    return value


def secret_in(text: str) -> str:
    """A description of the first secret found in a text; empty if there is none."""
    for name, value in secrets().items():
        if value in text:
            return f"the value of the environment variable {name}"
    return "a URL with a user and a password" if _IN_URL.search(text) else ""


def scrub(text: str, secret: str) -> str:
    """``text`` without the secret, nor any part of it that is 8 or more characters long."""
    size = min(len(secret), _SHORTEST)
    hidden = [False] * len(text)
    for start in range(len(secret) - size + 1 if secret else 0):
        piece = secret[start : start + size]
        place = text.find(piece)
        while place >= 0:
            hidden[place : place + size] = [True] * size
            place = text.find(piece, place + 1)
    groups = itertools.groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    return "".join(_HIDDEN if is_hidden else "".join(letter for letter, _ in pairs) for is_hidden, pairs in groups)
