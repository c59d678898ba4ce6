"""Values of labels: one text for the same value in every file, and which of them are spellings of one class."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from s3ray.text import valid_text

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")


def label_text(value: object) -> str:
    """The one text of a label's value, whatever a file stores it as; empty: there is no label.

    A boolean, a whole number and a float are the same value as their text: ``True`` is ``true``, and 1, 1.0 and ``"1"``
    are ``1``. Blanks around a text do not count.
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    text = valid_text(str(value)).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text


def spellings(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The values (``label_text``) of each class, the most frequent first; the classes in the order of ``counts``.

    Values that differ by case or blanks alone are spellings of one class.
    """
    groups: dict[str, list[str]] = {}
    for value in counts:
        groups.setdefault(" ".join(value.split()).casefold(), []).append(value)
    return [tuple(sorted(group, key=lambda value: -counts[value])) for group in groups.values()]
