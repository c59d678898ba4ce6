"""Cleaning in the words of a task: its labels, and what prefaces and refusals look like in its language."""

import re
from collections.abc import Iterable

import regex

from s3ray.curation.clean import clean_text, is_refusal

_MATCH_S = 5.0  # patterns take microseconds; one that takes seconds on a text practically never ends
_KEY = (
    r"(?:\w+ )?(?:label|sentiment|category|class|classification|topic|tag|tone|polarity|emotion|intent|verdict|stance)"
)
_FEWEST_LETTERS = 3
_COMMON = ("yes", "no", "true", "false", "none", "not", "and", "the")  # before a colon they are rarely a label
_MAY_SAY = re.compile("[:=\uff1a\n([|>\u2192\u2013\u2014]| - ")
_TEXT_KEY = re.compile(r"\A(?:text|output|example|content)\s?:\s*", re.IGNORECASE)
_OPEN, _CLOSE = r"[\"'\u201c*(\[]{0,3}", r"[\"'\u201d*)\].!]{0,4}"


class Wording:
    """What belongs to a task alone in the cleaning of its texts.

    ``labels`` are all ways to say a label. ``prefaces`` and ``refusals`` are regular expressions, in addition to those
    in English that are built in; they are looked for at the beginning of a text, whatever the letter case.
    """

    def __init__(self, labels: Iterable[str] = (), prefaces: Iterable[str] = (), refusals: Iterable[str] = ()) -> None:
        self._prefaces = [regex.compile(pattern, regex.IGNORECASE) for pattern in prefaces]
        self._refusals = [regex.compile(pattern, regex.IGNORECASE) for pattern in refusals]
        names = sorted({label.strip() for label in labels} - {""}, key=lambda name: (-len(name), name))
        long = [name for name in names if _is_telling(name)]
        self._first = self._last = self._before = None
        if names:
            self._first, self._last = _label_lines(names, long)
        if long:
            any_long = "|".join(map(re.escape, long))
            self._before = re.compile(
                rf"\W{{0,3}}(?:{any_long})\W{{0,2}}(?::\W{{0,3}}\s|\uff1a|[ ][-\u2013\u2014][ ])", re.IGNORECASE
            )

    def clean(self, raw: str) -> str:
        """Remove what surrounds a generated text (``clean_text``), the task's prefaces, and what says its label."""
        text = clean_text(raw)
        shorter = self._without_label(self.without_preface(text))
        return text if shorter == text else clean_text(shorter)

    def is_refusal(self, text: str) -> bool:
        """Whether a model declines to write, in English or in the task's words.

        Raises:
            TimeoutError: a pattern of the task takes too long.
        """
        return is_refusal(text) or any(pattern.match(text, timeout=_MATCH_S) for pattern in self._refusals)

    def without_preface(self, text: str) -> str:
        """The text without what the task's patterns find at its beginning.

        Raises:
            TimeoutError: a pattern of the task takes too long.
        """
        for pattern in self._prefaces:
            if found := pattern.match(text, timeout=_MATCH_S):
                text = text[found.end() :].lstrip()
        return text

    def _without_label(self, text: str) -> str:
        """The text without a label before or after a colon, where it stands at the beginning or at the end."""
        if self._first is None or self._last is None or not _MAY_SAY.search(text):
            return text
        whole = text
        text = self._first.sub("", text, count=1)
        text = self._last.sub("", text, count=1)
        text = _TEXT_KEY.sub("", text) if text != whole else text
        before = self._before and self._before.match(text)
        # "Positive: the staff. Negative: the food." is a text.
        if before and self._before and not self._before.search(text, before.end()):
            text = text[before.end() :]
        return text


def _is_telling(label: str) -> bool:
    """Whether words before a colon, or after any word and a colon, are hardly anything but the label."""
    is_short = label.isascii() and len(label) < _FEWEST_LETTERS
    return not is_short and label.casefold() not in _COMMON


def _label_lines(names: list[str], long: list[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for a label at the beginning and at the end: as a line of its own, in brackets, or after "Label"."""
    label = rf"{_OPEN}(?:{'|'.join(map(re.escape, names))}){_CLOSE}"
    lines = [rf"{_OPEN}{_KEY}\*{{0,2}}\s?[:=\uff1a]\s?{label}"]
    any_long = "|".join(map(re.escape, long)) or "(?!)"  # which nothing fits
    if long:
        key = r"[^\W\d_]+(?: [^\W\d_]+){0,2}"
        lines += [
            rf"{_OPEN}{key}\*{{0,2}}\s?[:\uff1a]\s?{_OPEN}(?:{any_long}){_CLOSE}",
            rf"{_OPEN}(?:{any_long}){_CLOSE}",
        ]
    whole = "|".join(lines)
    in_brackets = rf"[(\[](?:{any_long})[)\]]"
    first = (
        rf"\A(?:(?:{whole})[ ]*(?:\n+|\Z)|{in_brackets}:?[ ]+"
        rf"|{lines[0]}(?:(?<=[.!;\])])|[ ]?[;|]|[ ][-\u2013\u2014](?=[ ]))[ ]*)"
    )
    last = (
        rf"(?:\n+(?:{whole})|(?<=[.!?\"\u201d)\u3002\uff01\uff1f\u0964])[ ]?(?:{lines[0]}|{in_brackets})"
        rf"|[ ]*(?:->|=>|\u2192|\|)[ ]*(?:{any_long})\.?)\s*\Z"
    )
    return re.compile(first, re.IGNORECASE), re.compile(last, re.IGNORECASE)
