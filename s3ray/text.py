"""Texts that come in are made valid here; numbers that go out (durations, counts, scores) are written here."""

import re
import unicodedata
from collections.abc import Mapping


def valid_text(text: str) -> str:
    """Return a text that every file can hold: composed Unicode (NFC), no NUL, lone surrogates replaced by U+FFFD.

    Every text from outside passes here once: gold rows, answers of models, messages of servers.
    """
    text = text.replace("\0", "")
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


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


def num_words(text: str) -> int:
    """How long a text is: its pieces between blanks; where its script has no blanks between words, its characters."""
    unblanked = len(_UNBLANKED.findall(text))
    return len(_UNBLANKED.sub(" ", text).split()) + unblanked


_UNBLANKED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
