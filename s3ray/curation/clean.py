"""Cleaning of one generated text: removes what a model writes around the text, and never rewords the text itself.

Every rule is anchored (start, end, whole line), so that a text which merely mentions a preface, a quotation or a
refusal passes unharmed. Cleaning is idempotent on texts that need none.
"""

import json
import re

from s3ray.curation.answer import read_answer
from s3ray.text import normalise, num_words

_QUOTES = dict(
    zip("\"'`\u201c\u2018\u00ab\u201e\u00bb\u300c\u300e", "\"'`\u201d\u2019\u00bb\u201c\u00ab\u300d\u300f", strict=True)
)
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
_OBLIGING = re.compile(
    rf"^{_OBLIGING_WORDS}[!.,]*(?:\s+{_OPENER}[^\n]{{0,120}}[.:!])?\s*\n+",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"^[*#]{0,3}(?P<kind>assistant|sentence|statement|hypothesis|question|new question|review"
    r"|(?:movie|film|customer|new|similar|positive|negative) review|example(?= \d)|final (?:answer|response|output)"
    r"|(?:option|version|variation)(?= 1[*]{0,2}:(?s:.*)\n[*#]{0,3}(?:option|version|variation) 2\b)"
    r"|(?:answer|response|output|text)(?=:[*]{0,2}\s*[\n\"]))(?P<number> \d+)?[*]{0,2}:[*]{0,2}\s*",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^(?:#{1,6} +[*]{0,2}|[*]{2,3})(?:[\w-]+ ){0,2}(?:reviews?|sentence|statement|hypothesis|question|text|example"
    r"|answer|response|output)(?: \d+)?:?[*]{0,3}:?[ ]*\n",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<![\w*])\*\*([^\s*](?:.*?[^\s*])?)\*\*(?![\w*])")
_SLANTED = re.compile(r"([*_])([^\s*_][^*_\n]* [^*_\n]*[.!?\u2026])\1")
_NUM_WORDS = re.compile(r"(?<=[.!?\"\u201d*])\s*[(\[](?:word count:? ?\d+|\d{1,4} words?)[)\]]\Z", re.IGNORECASE)
_REMARK = re.compile(r'^("[^"]+")\s*\((?:note|this)\b[^()]*\)\W*$', re.IGNORECASE)
_LIST_MARK = re.compile(r"^(?:\(?\d{1,2}[.)]|[-*\u2022])\s+")
_TRAILER = re.compile(
    r"^\W{0,3}(?:note\b[^\n]{0,40}:|(?:explanation|reason(?:ing)?|rationale|answer)\s*:|word count"
    r"|i hope (?:this|that) helps|let me know if|feel free to|would you like"
    r"|(?:this|the above) (?:review|sentence|question|hypothesis|statement|text) "
    r"(?:is|was|uses|reflects|captures|expresses|conveys|highlights|shows|follows|can|cannot|does|asks)\b)",
    re.IGNORECASE,
)
_MODEL = (
    r"an? (?:(?:responsible|ethical|helpful) )?"
    r"(?:ai (?:language )?(?:model|assistant)|(?:large )?language model|ai(?=[,.;!]| and\b| so\b|$))"
)
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
    r"(?:an?|any|the|this|that|such|such a) (?:(?:type|kind|sort)s? of )?"
    r"(?:(?:negative|positive|fake|false|movie|film|customer|product) )?"
    r"(?:reviews?|sentences?|questions?|statements?|hypothesis)\b"
)
_REFUSAL = re.compile(
    rf"^\W{{0,3}}{_SORRY}(?:(?:{_CANNOT}|{_WILL_NOT}) (?:assist|comply|help (?:you|with)|{_MAKE} {_ASKED})"
    rf"|{_CANNOT} (?:write|generate|create|provide|produce) {_PIECE}"
    rf"|{_CANNOT} (?:write|generate|create|provide|produce|fulfil+) (?:that|this|it)\W*$"
    rf"|(?:sorry|i apologi[sz]e)\W+(?:but )?{_CANNOT} do (?:that|this)\W*$"
    rf"|{_WILL_NOT} (?:write|generate|create|produce) (?:an? |any )?(?:fake|false|misleading|deceptive|hateful)\b"
    rf"|i (?:must|have to|need to) (?:respectfully |politely )?decline"
    rf"(?: to {_MAKE}\b| (?:this|that|your) request|\W*$)"
    r"|(?:this|the|your) (?:request|prompt) (?:may |would )?(?:violates?|goes against|is against|conflicts with)\b"
    r"|i(?:'m| am) not comfortable (?:writing|generating|creating|providing|producing|engaging)\b"
    rf"|as {_MODEL}[^.,\n]{{0,60}}\W+(?:i|my)\b"
    rf"|i(?:'m| am) (?:just |only )?{_MODEL}"
    rf"|i (?:do not|don't|cannot|can't)\b[^.\n]{{0,100}}\b(?:i am|i'm) (?:just |only )?{_MODEL})",
    re.IGNORECASE,
)
_RULE = re.compile(r"[-*_=]{3,}")
_MAX_ITEM_WORDS, _MAX_ITEM_CHARACTERS = 25, 60  # the latter where a script has no blanks between words
_FENCED = re.compile(r"(`{3,}|~{3,})(?:[\w+-]*\n)?(?P<inside>(?:(?!\1).)+?)\n?\1", re.DOTALL)
_TAGGED = re.compile(
    r"(?:<(label|sentiment|category|class)>[^<]*</\1>\s*)?"
    r"<((?:[a-z]+[_-]){0,2}(?:text|review|sentence|statement|hypothesis|question|paragraph|example|message|comment|post"
    r"|tweet))>(?P<inside>.*?)</\2>\s*(?:<.*)?",
    re.DOTALL | re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?(?P<inside>[^{}]*)\}{1,2}")
_KEYS_OF_TEXT = frozenset(("text", "review", "sentence", "statement", "hypothesis", "question", "paragraph", "content"))
_NUMBER_OF_KEY = re.compile(r"[\W_]*\d+$")
_FEWEST_TEXT_WORDS, _MOST_LABEL_WORDS = 3, 2  # where nothing but its length tells a text from what is said about it
_INVISIBLE = "\ufeff\u200b\u2060"
_BLANKS = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r" ?\n[ \n]*")


def is_refusal(text: str) -> bool:
    """Whether a model declines to write. A review that declines something ("I can't recommend it") is no refusal."""
    return _REFUSAL.match(text.strip().replace("\u2019", "'")) is not None


def clean_text(raw: str) -> str:
    """Remove what surrounds a generated text; its words, letter case and paragraphs stay.

    Removed: thoughts and marks of the chat format (``read_answer``), prefaces ("Sure! Here is a review:"), role labels,
    headings that name what was written, list marks (of a list, the first item stays), trailing notes, an enclosing code
    fence, tag or JSON value, enclosing quotation marks and emphasis, ruled lines at the end, superfluous white space.
    """
    text = _unpacked(_fold_space(read_answer(raw).text))
    # Most texts are one clean line: a cheap search for the character that a rule needs saves running the rule.
    if "\n" in text:
        text = _OBLIGING.sub("", text, count=1)
    if ":" in text:
        text = _PREFACE.sub("", text, count=1).strip()
    text = _without_role(_HEADING.sub("", _unpacked(_without_trailers(text)), count=1))
    text = _without_role(_first_item(text))
    if "**" in text:
        text = _EMPHASIS.sub(r"\1", text)
    if text.endswith((")", "]")):
        text = _NUM_WORDS.sub("", text)
    if text.startswith(("*", "_")) and (slanted := _SLANTED.fullmatch(text)):
        text = slanted[2]
    if text.startswith('"'):
        text = _REMARK.sub(r"\1", text)
    return _unquote(_without_role(_unquote(text.strip())))


def read_list(raw: str) -> tuple[str, ...]:
    """The items of a numbered, bulleted or plain list, one per line, cleaned; no prefaces, paragraphs, repetitions."""
    items: dict[str, str] = {}
    for line in _fold_space(raw).splitlines():
        if line.endswith(":") or _PREFACE.match(line) or _TRAILER.match(line):
            continue
        item = _unquote(_EMPHASIS.sub(r"\1", _LIST_MARK.sub("", line)).strip()).rstrip(" .;,\u3002\uff1b\uff0c\u0964")
        if normalise(item) and _is_item(item) and not is_refusal(item):
            items.setdefault(normalise(item), item)
    return tuple(items.values())


def _is_item(text: str) -> bool:
    """Whether a line is short enough for an item of a list; a longer one is a paragraph."""
    return len(text.split()) <= _MAX_ITEM_WORDS and num_words(text) <= _MAX_ITEM_CHARACTERS


def _fold_space(text: str) -> str:
    if text.isprintable() and "  " not in text:  # no white space but single blanks
        return text.strip()
    text = _BLANKS.sub(" ", text.replace("\r\n", "\n"))
    return _LINE_ENDS.sub("\n", text).strip().strip(_INVISIBLE).strip()


def _unpacked(text: str) -> str:
    """The text inside a code fence, tags and a JSON value, if these enclose the whole; of several texts, the first."""
    fenced = _FENCED.fullmatch(text) if text.startswith(("```", "~~~")) else None
    text = fenced["inside"].strip() if fenced else text
    if not text.startswith(("{", "[", "<", "\\")):
        return text
    if text.startswith(("<", "\\")):
        wrapped = (_TAGGED if text.startswith("<") else _BOXED).fullmatch(text)
        return _unpacked(wrapped["inside"].strip()) if wrapped else text
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        return text
    is_whole = text[end:].lstrip(", \n").startswith(("{", "[", "}", "]")) or not text[end:].strip(", \n")
    found = _text_in(value) if is_whole else None
    return text if found is None else _fold_space(found)


def _text_in(value: object) -> str | None:
    """The text that was written into a JSON value; None if it cannot be told from what is said about it."""
    match value:
        case str():
            return value
        case [first, *_]:
            return _text_in(first)
        case dict() if value:
            names = {_NUMBER_OF_KEY.sub("", name) for name in value}
            if len(names) == 1:  # one text, or several that are numbered
                return _text_in(next(iter(value.values())))
            texts = {name.casefold(): text for name, text in value.items() if isinstance(text, str)}
            called = [name for name in texts if name.rpartition("_")[2] in _KEYS_OF_TEXT]
            *rest, longest = sorted(texts.values(), key=num_words) or [""]
            if len(called) == 1:
                longest, rest = texts[called[0]], []
            is_told = all(num_words(text) <= _MOST_LABEL_WORDS for text in rest)
            return longest if is_told and num_words(longest) >= _FEWEST_TEXT_WORDS else None
    return None


def _without_role(text: str) -> str:
    role = _ROLE.match(text) if ":" in text else None
    if role is None:
        return text
    rest = text[role.end() :].strip()
    if role["number"]:  # the first of several
        following = re.search(rf"\n[*#]{{0,3}}{re.escape(role['kind'])} \d+[*]{{0,2}}:", rest, re.IGNORECASE)
        rest = rest[: following.start()].strip() if following else rest
    return rest


def _without_trailers(text: str) -> str:
    if "\n" not in text:
        return text
    kept: list[str] = []
    for line in text.splitlines():
        if kept and _TRAILER.match(line):
            break
        kept.append(line)
    while len(kept) > 1 and _RULE.fullmatch(kept[-1]):
        kept.pop()
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
    if text[0] in "\u300c\u300e" and -1 < inside.find(text[-1]) < (inside + text[0]).find(text[0]):
        return text  # words run into each other there, so that a mark may stand between two of them
    return inside.strip()
