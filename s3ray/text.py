"""Texts that come in are made valid and divided into words here; numbers that go out are written here.

A *word* is a run of letters, numbers and the marks on them (Unicode's categories L, N, M): the vowel signs of Hindi or
Thai belong to it, and so do the joiners (ZWJ, ZWNJ) inside it. An emoji with all that modifies it, or another symbol,
is a word of its own. Where a script has no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), each of
its characters counts as one.
"""

import re
import unicodedata
from collections.abc import Mapping

import regex

_LETTER = r"\p{L}\p{N}"
_INSIDE = rf"[{_LETTER}\p{{M}}]"
_UNBLANKED = r"[\p{L}\p{N}&&[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々〆]]"
# What is drawn rather than meant is no word: ruled lines, blanks, what stands for an unknown character. The symbols of
# Latin-1 (degree, copyright) stay punctuation, as they are in most texts.
_SYMBOL = r"[\p{So}--[\u0000-\u00ff\u2500-\u259f\u2800\ufffc\ufffd]]"
_EMOJI = (
    rf"(?:[\U0001f1e6-\U0001f1ff]{{2}}|{_SYMBOL})"  # two regional indicators make one flag
    r"(?:[\p{Mn}\p{Me}\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]|\u200d\p{S})*"
)
_WORD = regex.compile(rf"[{_LETTER}](?:{_INSIDE}|[\u200c\u200d]+(?=[{_LETTER}]))*|{_EMOJI}", regex.V1)
_RUN = regex.compile(
    rf"(?:{_WORD.pattern})+(?:(?<={_INSIDE})['\u2019](?=\p{{L}})(?:{_WORD.pattern})+)*",  # the apostrophe of don't
    regex.V1,
)
_HAS_UNBLANKED = regex.compile(_UNBLANKED, regex.V1)
_OTHER = rf"[{_INSIDE}--{_UNBLANKED}]"
_UNIT = regex.compile(
    rf"{_UNBLANKED}\p{{M}}*|[[{_LETTER}]--{_UNBLANKED}](?:{_OTHER}|[\u200c\u200d]+(?={_OTHER}))*|{_EMOJI}", regex.V1
)
# Texts of these characters alone, nearly all in Latin script, have words that Python's faster ``re`` finds as well.
_NEEDS_CARE = re.compile(r"[^\x00-\u02ff\u2010-\u2027\u20ac]")
_BETWEEN = re.compile(r"[\W_]+")
_BLANKED = {code: " " for code in range(128) if not chr(code).isalnum()}
_UNSEEN = regex.compile(rf"[\ufe00-\ufe0f]|(?<={_INSIDE})[\u200c\u200d]+(?={_INSIDE})")
"""Variation selectors, and joiners between letters: they change how a word is drawn, not which word it is."""


def valid_text(text: str) -> str:
    """Return a text that every file can hold: composed Unicode (NFC), no NUL, lone surrogates replaced by U+FFFD.

    Every text from outside passes here once: gold rows, answers of models, messages of servers.
    """
    text = text.replace("\0", "")
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def words_of(text: str) -> list[str]:
    """What stands between the blanks and punctuation of a text: words, and symbols together with their neighbours."""
    return list(_RUN.findall(text))


def normalise(text: str) -> str:
    """Remove differences that are ignored in comparisons: case, punctuation, white space, Unicode forms."""
    if text.isascii():
        return " ".join(text.lower().translate(_BLANKED).split())  # as with _BETWEEN, several times faster
    text = unicodedata.normalize("NFKC", text).casefold()
    if _NEEDS_CARE.search(text) is None:
        return _BETWEEN.sub(" ", text).strip()
    return " ".join(_WORD.findall(_UNSEEN.sub("", text)))


def has_word(text: str) -> bool:
    """Whether a text has a letter, a number or a symbol; without one, ``normalise`` returns an empty text."""
    return normalise(text) != ""


def units_of(normal: str) -> list[str]:
    """The words of a normalised text; where its script has no blanks between words, its characters."""
    if normal.isascii() or _HAS_UNBLANKED.search(normal) is None:
        return normal.split()
    return list(_UNIT.findall(normal))


def num_words(text: str) -> int:
    """How long a text is: its pieces between blanks; where its script has no blanks between words, its characters."""
    pieces = text.split()
    if text.isascii() or _HAS_UNBLANKED.search(text) is None:
        return len(pieces)
    return sum(max(1, len(_UNIT.findall(piece))) for piece in pieces)


def duration(seconds: float) -> str:
    """Seconds in words: ``35 s``, ``4 min 10 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counts(by_reason: Mapping[str, int], at_most: int = 20) -> str:
    """Counts, largest first: ``duplicate 20, truncated 3``; those after the first ``at_most`` are summed up."""
    ordered = sorted(((n, reason) for reason, n in by_reason.items() if n), key=lambda item: (-item[0], item[1]))
    parts = [f"{reason or 'rows'} {n}" for n, reason in ordered[:at_most]]
    rest = sum(n for n, _ in ordered[at_most:])
    return ", ".join([*parts, f"other {rest}"] if rest else parts)


def short_count(num: int) -> str:
    """A count in at most five characters: ``950``, ``12.3k``, ``4.6M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if num >= size:
            return f"{num / size:.1f}{unit}" if num < 100 * size else f"{num // size}{unit}"
    return str(num)


def scores(values: Mapping[str, float]) -> str:
    """Metrics as text: ``accuracy 0.812, macro_f1 0.811``."""
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
