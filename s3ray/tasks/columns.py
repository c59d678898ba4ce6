"""Which column of a file is the label, which text is to be written, which are given to it: guessed from the rows.

Where a guess would be a bet, the user is asked. What a task has no use for is left out, with the reason: it would cost
tokens, or tell the label.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from statistics import fmean
from typing import Any, NoReturn

import regex

from s3ray.errors import InputError
from s3ray.tasks.files import Row
from s3ray.tasks.labels import label_text, only_item

MAX_LABELS = 50
"""Most classes of a column that is taken for the label though its name does not say that it is."""

_MOST_NUMBERS = 20  # different numbers in a column that is taken for the label unasked
_SURELY = 0.95  # share of the doubt about one column that another one takes away, if it determines it
_LEAST_EVIDENCE = 8  # rows whose value came before

_LABELS = frozenset(["label", "labels", "goldlabel", "class", "classlabel", "target", "y"])
_ALSO_LABELS = (
    *("category", "categories", "intent", "sentiment", "topic", "emotion", "stance", "verdict", "polarity"),
    *("toxic", "toxicity", "spam", "isspam"),
)
_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("sent1", "sent2"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("text", "textpair"),
    ("question1", "question2"),
    ("evidence", "claim"),
    ("sentence", "question"),
    ("context", "question"),
    ("passage", "question"),
    ("question", "answer"),
    ("query", "answer"),
    ("post", "comment"),
    ("post", "reply"),
)
"""Fields that go together, the given one first. The paper, too, writes hypotheses and questions."""

_ABOUT_THE_ROW = re.compile(
    r".*\bids?|uu?id|guid|index|idx|row|annotators?( name)?|annotated by|workers?|raters?|coders?|label?led by"
    r"|label?er|labeller|annotation|agreement|confidence|split|fold|partition"
    r"|user( ?name)?|screen name|profile name|reviewer( name)?|e ?mail( address)?|phone( number)?|ip( address)?"
    r"|dates?|time|timestamp|(created|updated)( at)?|explanation|rationale"
)
_ONE_TOKEN = re.compile(r"[!-~]+")
_NUMBERED = re.compile(r"[A-Za-z]{0,12}[-_#]?\d+")
_YES_OR_NO = ({"0", "1"}, {"true", "false"})
_ANY_ANSWERS = {"yes", "no", "y", "n", "true", "false", "0", "1", "maybe", "unknown"}
_WORD = regex.compile(r"\p{L}|\p{So}")
_JOINERS = (";", "|", ",", "/", "+", "&")
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The roles of a file's columns.

    ``categories`` are the ``given`` ones that repeat; ``left_out`` has a reason for each of the others; ``warnings``
    say what is odd about the label.
    """

    label: str
    writes: str
    given: tuple[str, ...]
    categories: tuple[str, ...]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]


def sort_columns(rows: Sequence[Row], label: str | None, writes: str | None) -> Columns:
    """Find the role of each column; ``label`` and ``writes`` name those that are known.

    The label is the column that is called so, else the only one with few different values. The text to be written is
    the second of a pair such as premise and hypothesis, else the longest on average.

    Raises:
        InputError: a name is not that of a column, no column suits a role, or several do.
    """
    values = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    for option, name in (("--label", label), ("--writes", writes)):
        if name is not None and name not in values:
            hint = f"Columns there: {', '.join(values)}."
            raise InputError("is not a column", field=option, value=name, hint=hint)
    reasons = {name: _no_text(column) for name, column in values.items()}
    if all(reasons[name] for name in values):
        _refuse_to_write(writes, reasons)
    if label is None:
        label = _guess_label({name: column for name, column in values.items() if name != writes})
    warnings = [*_check_label(label, values[label]), *_several_labels(label, values)]
    labels = [label_text(value) for value in values[label]]
    del reasons[label]
    texts = {name: [str(text) for text in values[name]] for name, reason in reasons.items() if reason is None}
    if writes is None:
        writes = _guess_written(texts)
    if writes is None or writes not in texts:
        _refuse_to_write(writes, reasons)
    pair = {name for names in _pairs(texts) if writes in names for name in names} | {writes}
    for name in texts:
        if name not in pair:
            reasons[name] = _not_given(name, texts[name], labels, texts[writes])
    given = tuple(name for name in texts if name != writes and reasons[name] is None)
    return Columns(
        label=label,
        writes=writes,
        given=given,
        categories=tuple(name for name in given if 2 * len(set(texts[name])) <= len(rows)),
        left_out={name: reason for name, reason in reasons.items() if reason is not None},
        warnings=tuple(warnings),
    )


def _guess_label(values: Mapping[str, Sequence[Any]]) -> str:
    counts = {name: len(set(map(label_text, column)) - {""}) for name, column in values.items()}
    whole = {name: column for name, column in values.items() if not any(map(_is_nested, column))}
    for names in (_LABELS, _ALSO_LABELS):
        called = [name for name in values if _plain(name) in names]
        likely = [name for name in called if name in whole and 2 <= counts[name] <= len(values[name]) // 2]
        if len(likely) == 1 or (likely and all(_is_same(values[likely[0]], values[name]) for name in likely[1:])):
            return likely[0]
        if len(likely) > 1:
            _ask_label("several columns can be the label", likely, values)
        if called:
            _ask_label(f"{called[0]} is called a label, and does not look like one", called, values)
    few = [
        name
        for name, column in whole.items()
        if 2 <= counts[name] <= min(MAX_LABELS, len(column) // 2)
        and not _ABOUT_THE_ROW.fullmatch(_spaced(name))
        and not (counts[name] > _MOST_NUMBERS and _are_numbers(column))
    ]
    if len(few) == 1:
        return few[0]
    problem = "several columns can be the label" if few else "no column looks like a label"
    return _ask_label(problem, few or list(values), values)


def _ask_label(problem: str, names: Sequence[str], values: Mapping[str, Sequence[Any]]) -> NoReturn:
    """Refuse to guess, and say what the columns hold."""
    told = "; ".join(f"{name}: {_in_short(values[name])}" for name in names)
    if len([name for name in names if _is_yes_or_no(values[name])]) > 1:
        told += ". Is there a column for each class? Write the name of each row's class into one column"
    hint = f"Name it: --label COLUMN, one of {', '.join(values)}. It needs two values or more. {told}."
    raise InputError(problem, field="--label", hint=hint)


def _in_short(column: Sequence[Any]) -> str:
    if any(map(_is_nested, column)) or _are_written_lists(column):
        return "lists (several labels per row are not offered)"
    num = len(set(map(label_text, column)) - {""})
    if num > _MOST_NUMBERS and _are_numbers(column):
        return f"{num} different numbers (looks like regression, which is not offered)"
    return f"{num} different value{'s' if num != 1 else ''} in {len(column)} rows"


def _check_label(name: str, column: Sequence[Any]) -> tuple[str, ...]:
    """Refuse a column that cannot be a label, and say what is odd about one that can.

    Raises:
        InputError: its values are lists or other things than texts and numbers, or it has fewer than two.
    """
    written = _are_written_lists(column)
    for number, value in enumerate(column, start=1):
        if isinstance(only_item(value), list | tuple) or written:
            hint = "One label a row is what a task has: keep one of them, or make a task for each label (yes or no)."
            problem = f"row {number} has a list: several labels per row (multi-label) are not offered"
            raise InputError(problem, field=name, value=str(value)[:80], hint=hint)
        if _is_nested(value):
            hint = "Labels are texts, whole numbers or true and false."
            raise InputError(f"row {number} has no label that can be read", name, name, repr(value)[:80], hint)
    counts = Counter(filter(None, map(label_text, column)))
    if len(counts) < 2:
        hint = "Name another: --label COLUMN. It needs two values or more."
        raise InputError("has fewer than two values", field="--label", value=name, hint=hint)
    warnings = []
    if _are_numbers(column) and (len(counts) > _MOST_NUMBERS or not all(map(_is_whole, counts))):
        warnings.append(
            f"looks like regression: {name} holds {len(counts)} different numbers; to predict a number is not offered, "
            "so each becomes a class of its own"
        )
    return tuple(warnings)


def _several_labels(name: str, values: Mapping[str, Sequence[Any]]) -> list[str]:
    """What speaks for several labels per row: other columns of yes and no, or values that are joined of others."""
    warnings = []
    others = [other for other in values if other != name and _is_yes_or_no(values[other])]
    if others and _is_yes_or_no(values[name]):
        warnings.append(
            f"{', '.join(others)} can be labels too; several labels per row (multi-label) are not offered, so this "
            f"task is about {name} alone"
        )
    labels = sorted(set(map(label_text, values[name])) - {""})
    for joiner in _JOINERS:
        parts = {label: [part.strip() for part in label.split(joiner)] for label in labels}
        times = Counter(part for those in parts.values() for part in those)
        joined = [label for label, those in parts.items() if len(those) > 1 and all(times[part] > 1 for part in those)]
        if len(joined) > 1 and any(part in parts for label in joined for part in parts[label]):
            warnings.append(
                "looks like several labels per row (multi-label), which are not offered: "
                f"{', '.join(joined[:3])}; each becomes a class of its own"
            )
    return warnings


def _are_written_lists(column: Sequence[Any]) -> bool:
    return all(isinstance(value, str) and _LIST.fullmatch(value) for value in column)


def _is_yes_or_no(column: Sequence[Any]) -> bool:
    return set(map(label_text, column)) - {""} in _YES_OR_NO


def _refuse_to_write(column: str | None, reasons: Mapping[str, str | None]) -> NoReturn:
    found = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason and column in (None, name))
    hint = "A task needs a column of texts besides the label. The first line of a CSV names the columns."
    hint = f"{hint} {found}." if found else hint
    raise InputError("holds no text", field="--writes", value=column or "", hint=hint)


def _guess_written(texts: Mapping[str, Sequence[str]]) -> str | None:
    pairs = _pairs(texts)
    if pairs:
        return pairs[0][1]
    lengths = {name: fmean(map(len, column)) for name, column in texts.items() if len(set(column)) > 1}
    is_other = {name: _are_ids(texts[name]) or _are_written_lists(texts[name]) for name in lengths}
    long = {name: length for name, length in lengths.items() if not is_other[name]} or lengths
    return max(long, key=lambda name: long[name], default=None)


def _pairs(texts: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Columns that are called like the fields of a pair: the given one and the written one."""
    by_name = {_plain(name): name for name in texts}
    return [(by_name[given], by_name[written]) for given, written in _PAIRS if {given, written} <= by_name.keys()]


def _no_text(column: Sequence[Any]) -> str | None:
    """Why a column cannot be a text; None: it can."""
    filled = [value for value in column if value is not None and value != ""]
    if not filled:
        return "they are empty"
    if _are_numbers(filled):
        return "they hold numbers"
    num_texts = sum(isinstance(value, str) for value in filled)
    if num_texts < _SURELY * len(filled):
        kinds = sorted({type(value).__name__ for value in filled if not isinstance(value, str)})
        return f"they hold no texts but {', '.join(kinds)}"
    if num_texts < len(filled):
        return None  # the rows that hold something else are refused by their numbers
    if all(map(_is_moment, filled)):
        return "they hold dates or times"
    return None


def _not_given(name: str, column: Sequence[str], labels: Sequence[str], written: Sequence[str]) -> str | None:
    """Why a column of texts is not given to the language model; None: it can be."""
    num_empty = sum(not text.strip() or text == "None" for text in column)
    reasons: Iterator[tuple[bool, str]] = iter(
        (
            (num_empty > 0, "some rows have nothing there"),
            (len(set(column)) == 1, "they are the same in every row"),
            (_are_ids(column), "they look like ids"),
            (not any(map(_WORD.search, column)), "they hold no words"),
            (_ABOUT_THE_ROW.fullmatch(_spaced(name)) is not None, "they say how a row was made, not what it is about"),
            (_repeat(written, column), "they repeat the text that is to be written"),
            (_are_written_lists(column), "they hold lists"),
            (_are_votes(column, labels), "they hold labels too, of another annotator or model"),
            (_determines(column, labels), "they tell the label"),
            (_determines(labels, column), "the label tells them"),
        )
    )
    return next((reason for is_so, reason in reasons if is_so), None)


def _are_votes(column: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether a column has the values of the label, and they are not those of any question (yes, no)."""
    values, classes = ({label_text(value).casefold() for value in each} - {""} for each in (column, labels))
    return len(values & classes) > 1 and values <= classes and not classes <= _ANY_ANSWERS


def _determines(column: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the values of a column that come again say (nearly) always what stands in the other one.

    Measured is how much better the other one is guessed with the column than without it (Goodman and Kruskal's lambda).
    """
    groups: dict[str, Counter[str]] = {}
    for value, said in zip(column, other, strict=True):
        groups.setdefault(value, Counter())[said] += 1
    groups = {value: counts for value, counts in groups.items() if counts.total() > 1}
    total = sum(groups.values(), Counter[str]())
    if total.total() - len(groups) < _LEAST_EVIDENCE or len(total) < 2:
        return False
    blind = max(total.values())
    return sum(max(counts.values()) for counts in groups.values()) - blind >= _SURELY * (total.total() - blind)


def _is_same(column: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two columns say the same in other words."""
    texts = [label_text(value) for value in column], [label_text(value) for value in other]
    return len(set(texts[0])) == len(set(texts[1])) == len(set(zip(*texts, strict=True)))


def _repeat(texts: Sequence[str], others: Sequence[str]) -> bool:
    """Whether in most rows one text holds the other one, or half of it or more."""
    bare = [[" ".join(text.casefold().split()) for text in column] for column in (texts, others)]
    pairs = [sorted(pair, key=len) for pair in zip(*bare, strict=True)]
    return fmean(2 * len(short) >= len(long) and short in long for short, long in pairs) > 1 / 2


def _are_ids(column: Sequence[str]) -> bool:
    """All different tokens, or tokens such as a17 that a count has made."""
    if all(_NUMBERED.fullmatch(text.strip()) for text in column):
        return True
    tokens = all(_ONE_TOKEN.fullmatch(text.strip()) for text in column)
    return tokens and len(set(column)) >= _SURELY * len(column)


def _are_numbers(column: Sequence[Any]) -> bool:
    return all(map(_is_number, column)) and not all(isinstance(value, bool) for value in column)


def _is_number(value: object) -> bool:
    if value is None or isinstance(value, int | float | Decimal):
        return True
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return value in ("", "None")
    return True


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+", text) is not None


def _is_nested(value: object) -> bool:
    value = only_item(value)
    return value is not None and not isinstance(value, bool | int | float | Decimal | str)


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return True


def _spaced(name: str) -> str:
    """A column's name in small letters, its words apart: ``responseId`` is ``response id``."""
    return " ".join(re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower().split())


def _plain(name: str) -> str:
    return _spaced(name).replace(" ", "")
