"""Values of labels: one text for the same value in every file, and which of them are spellings of one class."""

import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal

from s3ray.text import valid_text

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
_UNSEEN = re.compile(r"[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")
_AT_ENDS = re.compile(rf"\A(?:\s|{_UNSEEN.pattern})+|(?:\s|[\u200b\u200e\u200f\u2060\ufeff])+\Z")
_TRUTHS = {"1": "true", "0": "false"}
_ALIKE = str.maketrans("\u2018\u2019\u02bc\u201c\u201d\u2010\u2011\u2012\u2013\u2014\u2212", "'''\"\"------")


def label_text(value: object) -> str:
    """The one text of a label's value, whatever a file stores it as; empty: there is no label.

    A boolean, a whole number and a float are the same value as their text: ``True`` is ``true``, and 1, 1.0 and ``"1"``
    are ``1``. Blanks and characters without width around a text do not count, nor does a list around one value.
    """
    value = only_item(value)
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    text = _AT_ENDS.sub("", valid_text(str(value)))
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text


def only_item(value: object) -> object:
    """What a list of one item holds, as annotation tools write one label; None for an empty list; else the value."""
    if isinstance(value, list | tuple) and len(value) < 2:
        return value[0] if value else None
    return value


def spellings(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The values (``label_text``) of each class, the most frequent first; the classes in the order of ``counts``.

    Values that differ by case, blanks, characters without width or the form of quotes and dashes alone are spellings of
    one class. Where there are no other values, 1 is true and 0 is false.
    """
    groups: dict[str, list[str]] = {}
    truths = _TRUTHS if counts.keys() <= _TRUTHS.keys() | set(_TRUTHS.values()) else {}
    for value in counts:
        groups.setdefault(truths.get(value) or _compared(value), []).append(value)
    return [tuple(sorted(group, key=lambda value: -counts[value])) for group in groups.values()]


def _compared(value: str) -> str:
    bare = _UNSEEN.sub("", unicodedata.normalize("NFKC", value)).translate(_ALIKE)
    return " ".join(bare.split()).casefold().replace("i\u0307", "i") or value  # what becomes of the Turkish capital
