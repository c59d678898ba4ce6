"""Cleaning of one generated text: what a model writes around the text goes, the text itself is never reworded.

Every rule is anchored (start, end, whole line), so that a text which merely mentions a preface, a quotation or a
refusal passes unharmed. Cleaning is idempotent on texts that need none.
"""

import re
import unicodedata

_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
_PREFACE = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|here is|here's|here are|below is|the following is)\b"
    r"[^\n:]{0,160}:\s*",
    re.IGNORECASE,
)
_OBLIGING = re.compile(r"^(?:sure|certainly|of course|absolutely|okay)(?: thing)?[!.,]*\s*\n+", re.IGNORECASE)
_ROLE = re.compile(
    r"^[*#]{0,3}(?:assistant|answer|response|output|text|sentence|statement|hypothesis|question|new question|review"
    r"|(?:movie|film|customer|new|similar|positive|negative) review)(?: \d+)?[*]{0,2}:[*]{0,2}\s*",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"^(?:\(?\d{1,2}[.)]|[-*\u2022])\s+")
_TRAILER = re.compile(
    r"^\W{0,3}(?:note\b[^\n]{0,40}:|explanation\s*:|answer\s*:|word count|i hope (?:this|that) helps|let me know if"
    r"|feel free to|would you like|(?:this|the above) (?:review|sentence|question|hypothesis|statement|text) "
    r"(?:is|was|uses|reflects|captures|expresses|conveys|highlights|shows|follows|can|cannot|does|asks)\b)",
    re.IGNORECASE,
)
_UNABLE = r"i(?:'m| am) (?:unable|not able) to|i (?:cannot|can not|can't|won't|will not|could not|couldn't)"
_REFUSED = (
    r"(?:assist|comply|fulfil+|help (?:you|with)|complete (?:this|that|your)|continue with|engage in"
    r"|(?:write|provide|generate|create|produce) (?:you |reviews?\b|(?:a|an|any|the|that|such)\b))"
)
_REFUSAL = re.compile(
    r"^\W{0,3}(?:(?:i(?:'m| am) (?:very |really )?sorry|sorry|i apologi[sz]e|unfortunately|my apologies)\W+(?:but )?)?"
    rf"(?:(?:as an ai\b[^.\n]{{0,60}}?,? )?(?:{_UNABLE}) {_REFUSED}"
    r"|as an ai (?:language )?(?:model|assistant)\W+(?:i|my)\b"
    r"|i(?:'m| am) (?:just |only )?an ai\b)",
    re.IGNORECASE,
)
_MAX_ITEM_WORDS = 25
_NOT_WORDS = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Fold what does not make two texts different: case, punctuation, white space, Unicode forms."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def is_refusal(text: str) -> bool:
    """Whether a model declines to write. A text that itself refuses something ("I can't recommend it") is none."""
    return _REFUSAL.match(text.strip().replace("\u2019", "'")) is not None


def clean_text(raw: str) -> str:
    """Take away what surrounds a generated text; the rest keeps its words, letter case and paragraphs.

    Removed: prefaces ("Sure! Here is a review:"), role labels, list marks (of a list, the first item stays), trailing
    notes, enclosing quotation marks, a closing one that was opened in the prompt, superfluous white space.
    """
    text = _OBLIGING.sub("", _fold_space(raw), count=1)
    text = _PREFACE.sub("", text, count=1).strip()
    text = _ROLE.sub("", _without_trailers(text), count=1).strip()
    text = _ROLE.sub("", _first_item(text), count=1).strip()
    text = _unquote(_after_closing_quote(text).replace("**", "").strip())
    return _unquote(_ROLE.sub("", text, count=1).strip())


def read_list(raw: str) -> tuple[str, ...]:
    """The items of a numbered, bulleted or plain list, one per line, cleaned; no prefaces, paragraphs, repetitions."""
    items: dict[str, str] = {}
    for line in _fold_space(raw).splitlines():
        if line.endswith(":") or _PREFACE.match(line) or _TRAILER.match(line):
            continue
        item = _unquote(_LIST_MARK.sub("", line).replace("**", "").strip()).rstrip(" .;,")
        if normalise(item) and len(item.split()) <= _MAX_ITEM_WORDS and not is_refusal(item):
            items.setdefault(normalise(item), item)
    return tuple(items.values())


def _fold_space(text: str) -> str:
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r\n", "\n"))
    return re.sub(r" ?\n[ \n]*", "\n", text).strip()


def _without_trailers(text: str) -> str:
    kept: list[str] = []
    for line in text.splitlines():
        if kept and _TRAILER.match(line):
            break
        kept.append(line)
    return "\n".join(kept).strip()


def _first_item(text: str) -> str:
    if not _LIST_MARK.match(text):
        return text
    first, *others = text.splitlines()
    kept = [_LIST_MARK.sub("", first, count=1)]
    for line in others:
        if _LIST_MARK.match(line):
            break
        kept.append(line)
    return "\n".join(kept)


def _after_closing_quote(text: str) -> str:
    """Cut at a double quotation mark that closes what nothing in the text opened."""
    if text[:1] == '"':
        end = re.search(r'(?<=\S)"(?=\s*\n|\s*\((?:note|this)\b)', text[1:], re.IGNORECASE)
        return text[: end.end() + 1] if end and text[1 : end.start() + 1].count('"') % 2 == 0 else text
    if text.count('"') % 2 == 0:
        return text
    end = re.search(r'(?<=[^\s\d])"(?=\s|$)', text)
    return text[: end.start()].strip() if end and text[: end.start()].count('"') % 2 == 0 else text


def _unquote(text: str) -> str:
    """Strip quotation marks that enclose the whole text, not those of its first and its last word."""
    if len(text) < 3 or text[-1] != _QUOTES.get(text[0]):
        return text
    inside = text[1:-1]
    first = re.search(rf"(?<!\w){re.escape(text[-1])}|{re.escape(text[-1])}(?!\w)", inside)
    if first and first.start() > 0 and not inside[first.start() - 1].isspace():
        return text
    return inside.strip()
