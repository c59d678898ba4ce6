"""Where an answer stands in its context: offsets that count in another unit are moved, if that is certain."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator

from s3ray.errors import InputError
from s3ray.text import valid_text
from s3ray.types import Span

_MAX_PLACES = 100


def find_answer(context: str, text: str, start: int, field: str) -> tuple[Span, str]:
    """The answer in ``valid_text(context)``; and where its offset was not right, what it counted or how it was found.

    An offset that is right in one other unit (UTF-16 code units, UTF-8 bytes, another normal form, other line ends) is
    moved, and so is an answer that stands at one place alone, if need be with the context's blanks for its own.

    Raises:
        InputError: the answer is empty, stands nowhere, or at several places of which none is the offset's.
    """
    valid, answer = valid_text(context), valid_text(text)
    if answer and start >= 0:
        own = _position(context, start, valid, answer) if context[start : start + len(text)] == text else None
        if own is not None:
            return Span(text=answer, start=own), ""
        others: dict[int, str] = {}
        for why, place in _in_other_units(context, text, start, valid, answer):
            others.setdefault(place, why)
        if len(others) == 1:
            (place, why), *_ = others.items()
            return Span(text=answer, start=place), f"the offset counts {why}"
    places = _places(valid, answer) if answer else []
    if len(places) == 1:
        return Span(text=answer, start=places[0]), "it stands at one place alone"
    alike = [] if places else _with_other_blanks(valid, answer)
    if len(alike) == 1:
        return alike[0], "its blanks are not those of the context"
    there = f"The context has {context[max(start, 0) :][: max(len(text), 1)]!r} there"
    if places:
        listed = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
        units = "Offsets count characters from 0, not UTF-16 units (JavaScript), bytes or words."
        hint = f"{there}; it stands at {listed}. {units}"
    elif answer and answer.casefold() in valid.casefold():
        hint = f"{there}; it stands there with other capitals. Write it as the context does."
    else:
        hint = f"{there}, and the answer nowhere. It must be a piece of the context, letter by letter."
    raise InputError("answer is not in its context", field=field, value=f"{text!r} at {start}", hint=hint)


def _position(before: str, start: int, valid: str, answer: str) -> int | None:
    """The position in the valid text that belongs to ``start`` of a text from which it was made; None if none does."""
    place = len(valid_text(before[:start]))
    return place if valid[place : place + len(answer)] == answer else None


def _in_other_units(context: str, text: str, start: int, valid: str, answer: str) -> Iterator[tuple[str, int]]:
    """The places where the answer stands if the offset counts something else."""
    for unit, encoding, size in (("UTF-16 code units", "utf-16-le", 2), ("UTF-8 bytes", "utf-8", 1)):
        before = context.encode(encoding, "surrogatepass")[: size * start].decode(encoding, "ignore")
        if len(before.encode(encoding, "surrogatepass")) == size * start and context.startswith(before):
            place = _position(before, len(before), valid, answer)
            if place is not None:
                yield unit, place
    forms: dict[str, Callable[[str], str]] = {
        "decomposed characters (NFD)": lambda part: unicodedata.normalize("NFD", part),
        "composed characters (NFC)": lambda part: unicodedata.normalize("NFC", part),
        "line ends as two characters": lambda part: part.replace("\n", "\r\n"),
        "line ends as one character": lambda part: part.replace("\r\n", "\n"),
    }
    for unit, form in forms.items():
        formed, formed_text = form(context), form(text)
        if formed != context and formed[start : start + len(formed_text)] == formed_text:
            place = _restored(context, form, formed[:start], valid, answer)
            if place is not None:
                yield unit, place


def _restored(context: str, form: Callable[[str], str], before: str, valid: str, answer: str) -> int | None:
    """The position behind the longest part of the context that has the form ``before``."""
    low, high = 0, len(context)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (low, middle - 1) if len(form(context[:middle])) > len(before) else (middle, high)
    return _position(context, low, valid, answer) if form(context[:low]) == before else None


def _with_other_blanks(context: str, answer: str) -> list[Span]:
    """Where the words of an answer stand with other blanks between them, or without those around the answer."""
    pattern = r"\s+".join(map(re.escape, answer.split()))
    found = itertools.islice(re.finditer(pattern, context), _MAX_PLACES) if pattern else ()
    return [Span(text=each[0], start=each.start()) for each in found]


def _places(context: str, answer: str) -> list[int]:
    found: list[int] = []
    place = context.find(answer)
    while place >= 0 and len(found) < _MAX_PLACES:
        found.append(place)
        place = context.find(answer, place + 1)
    return found
