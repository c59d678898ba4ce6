"""Cleaning of one generated text: removes what a model writes around the text, and never rewords the text itself.

Every rule is anchored (start, end, whole line), so that a text which merely mentions a preface, a quotation or a
refusal passes unharmed. Cleaning is idempotent on texts that need none.
"""

import re

from s3ray.curation.answer import read_answer
from s3ray.text import normalise, num_words

_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
_OBLIGING_WORDS = r"(?:sure|certainly|of course|absolutely|okay|ok)\b(?: thing)?"
_OPENER = r"(?:here is|here['\u2019]s|here are|below is|the following is)\b"
_WRITING = r"(?:review|sentence|question|statement|hypothesis|paragraph|text|response)s?\b[^\n:]{0,120}"
# A preface names what was written ("Here is a review of a phone:") or ends its line; "Here's the problem: ..." is text.
_PREFACE = re.compile(
    rf"^(?:(?:{_OBLIGING_WORDS}\W{{0,3}})?{_OPENER}[^\n:]{{0,80}}?"
    rf"\b(?:{_WRITING}|(?:version|example|message|answer|one)s?):\s*"
    rf"|(?:{_OBLIGING_WORDS}|{_OPENER})[^\n:]{{0,160}}:(?:\s*\n|\s*(?=[\"\u201c])))",
    re.IGNORECASE,
)
_OBLIGING = re.compile(rf"^{_OBLIGING_WORDS}[!.,]*\s*\n+", re.IGNORECASE)
_ROLE = re.compile(
    r"^[*#]{0,3}(?:assistant|sentence|statement|hypothesis|question|new question|review"
    r"|(?:movie|film|customer|new|similar|positive|negative) review"
    r"|(?:answer|response|output|text)(?=:[*]{0,2}\s*[\n\"]))(?: \d+)?[*]{0,2}:[*]{0,2}\s*",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<![\w*])\*\*([^\s*](?:.*?[^\s*])?)\*\*(?![\w*])")
_REMARK = re.compile(r'^("[^"]+")\s*\((?:note|this)\b[^()]*\)\W*$', re.IGNORECASE)
_LIST_MARK = re.compile(r"^(?:\(?\d{1,2}[.)]|[-*\u2022])\s+")
_TRAILER = re.compile(
    r"^\W{0,3}(?:note\b[^\n]{0,40}:|explanation\s*:|answer\s*:|word count|i hope (?:this|that) helps|let me know if"
    r"|feel free to|would you like|(?:this|the above) (?:review|sentence|question|hypothesis|statement|text) "
    r"(?:is|was|uses|reflects|captures|expresses|conveys|highlights|shows|follows|can|cannot|does|asks)\b)",
    re.IGNORECASE,
)
_MODEL = r"an? (?:ai (?:language )?(?:model|assistant)|(?:large )?language model|ai(?=[,.;!]| and\b| so\b|$))"
_SORRY = r"(?:(?:i(?:'m| am) (?:very |really )?sorry|sorry|i apologi[sz]e|unfortunately|my apologies)\W+(?:but )?)?"
_CANNOT = r"(?:i(?:'m| am) (?:unable|not able) to|i (?:cannot|can not|can't))"
_WILL_NOT = r"(?:i(?:'m| am) not comfortable with|i (?:won't|will not))"
# Opinions decline too ("I can't write this place off"): the object must be a model's work, such as a review.
_ASKED = (
    r"(?!(?:\w+ )?(?:enough|more|much)\b)(?:[\w'-]+ ){0,4}?"
    r"(?:contents?|text|responses?|answers?|information|requests?|prompts?|conversations?|discussions?)\b"
)
_MAKE = r"(?:write|generate|create|provide|produce|fulfil+|complete|continue with|engage in)"
_PIECE = (
    r"(?:an?|any|the|this|that|such|such a) (?:(?:negative|positive|fake|false|movie|film|customer|product) )?"
    r"(?:reviews?|sentences?|questions?|statements?|hypothesis)\b"
)
_REFUSAL = re.compile(
    rf"^\W{{0,3}}{_SORRY}(?:(?:{_CANNOT}|{_WILL_NOT}) (?:assist|comply|help (?:you|with)|{_MAKE} {_ASKED})"
    rf"|{_CANNOT} (?:write|generate|create|provide|produce) {_PIECE}"
    r"|i(?:'m| am) not comfortable (?:writing|generating|creating|providing|producing|engaging)\b"
    rf"|as {_MODEL}[^.,\n]{{0,60}}\W+(?:i|my)\b"
    rf"|i(?:'m| am) (?:just |only )?{_MODEL}"
    rf"|i (?:do not|don't|cannot|can't)\b[^.\n]{{0,100}}\b(?:i am|i'm) (?:just |only )?{_MODEL})",
    re.IGNORECASE,
)
_MAX_ITEM_WORDS = 25
_FENCED = re.compile(r"(`{3,}|~{3,})(?:[\w+-]*\n)?(?P<inside>(?:(?!\1).)+?)\n?\1", re.DOTALL)
_BLANKS = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r" ?\n[ \n]*")


def is_refusal(text: str) -> bool:
    """Whether a model declines to write. A review that declines something ("I can't recommend it") is no refusal."""
    return _REFUSAL.match(text.strip().replace("\u2019", "'")) is not None


def clean_text(raw: str) -> str:
    """Remove what surrounds a generated text; its words, letter case and paragraphs stay.

    Removed: thoughts and marks of the chat format (``read_answer``), prefaces ("Sure! Here is a review:"), role labels,
    list marks (of a list, the first item stays), trailing notes, enclosing code fences, quotation marks and emphasis,
    superfluous white space.
    """
    text = _without_fence(_fold_space(read_answer(raw).text))
    # Most texts are one clean line: a cheap search for the character that a rule needs saves running the rule.
    if "\n" in text:
        text = _OBLIGING.sub("", text, count=1)
    if ":" in text:
        text = _PREFACE.sub("", text, count=1).strip()
    text = _without_role(_without_fence(_without_trailers(text)))
    text = _without_role(_first_item(text))
    if "**" in text:
        text = _EMPHASIS.sub(r"\1", text)
    if text.startswith('"'):
        text = _REMARK.sub(r"\1", text)
    return _unquote(_without_role(_unquote(text.strip())))


def read_list(raw: str) -> tuple[str, ...]:
    """The items of a numbered, bulleted or plain list, one per line, cleaned; no prefaces, paragraphs, repetitions."""
    items: dict[str, str] = {}
    for line in _fold_space(raw).splitlines():
        if line.endswith(":") or _PREFACE.match(line) or _TRAILER.match(line):
            continue
        item = _unquote(_EMPHASIS.sub(r"\1", _LIST_MARK.sub("", line)).strip()).rstrip(" .;,")
        if normalise(item) and num_words(item) <= _MAX_ITEM_WORDS and not is_refusal(item):
            items.setdefault(normalise(item), item)
    return tuple(items.values())


def _fold_space(text: str) -> str:
    if text.isprintable() and "  " not in text:  # no white space but single blanks
        return text.strip()
    text = _BLANKS.sub(" ", text.replace("\r\n", "\n"))
    return _LINE_ENDS.sub("\n", text).strip()


def _without_fence(text: str) -> str:
    """The text inside a code fence, if it encloses the whole."""
    fenced = _FENCED.fullmatch(text) if text.startswith(("```", "~~~")) else None
    return fenced["inside"].strip() if fenced else text


def _without_role(text: str) -> str:
    return _ROLE.sub("", text, count=1).strip() if ":" in text else text


def _without_trailers(text: str) -> str:
    if "\n" not in text:
        return text
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


def _unquote(text: str) -> str:
    """Strip quotation marks around the whole text, but not those that belong to its first and its last word."""
    if len(text) < 3 or text[-1] != _QUOTES.get(text[0]) or text.startswith("``"):
        return text
    inside = text[1:-1]
    first = re.search(rf"(?<!\w){re.escape(text[-1])}|{re.escape(text[-1])}(?!\w)", inside)
    if first and first.start() > 0 and not inside[first.start() - 1].isspace():
        return text
    return inside.strip()
