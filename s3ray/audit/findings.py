"""What in an audit deserves a closer look, in sentences. Pure; docs/audit.md gives the reasons for the limits."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from s3ray.report.audit import percent

LEAST_LABEL_ACCURACY = 0.9
MOST_LABEL_DRIFT = 0.1
MOST_COPIES = 0.01
MOST_LIKE_PARENT = 0.05
LENGTH_RATIO = 1.5
LEAST_ANSWERED = 0.8
LEAST_COVERAGE = 0.5
MOST_TOLD_APART = 0.9
MORE_SELF_BLEU = 0.1

Group = Mapping[str, Any]


def find(audit: Mapping[str, Any]) -> list[str]:
    """The sentences, gravest first; each names the groups of rows that it holds for."""
    found = [*_leaks(audit), *_checker(audit)]
    for head, say in _LOOKS:
        told = [f"{group['name']} {text}" for group in audit["groups"] if (text := say(group, audit))]
        found += [f"{head}: {'; '.join(told)}."] if told else []
    return found


def _leaks(audit: Mapping[str, Any]) -> Iterator[str]:
    copies = audit["groups"][0]["copies_of_gold"]
    if copies["test"]:
        yield f"{copies['test']} rows are copies or near copies of test rows: the test score is too good."
    if others := copies["extrapolate"] + copies["select"]:
        yield f"{others} rows are copies or near copies of gold rows outside the test part."


def _checker(audit: Mapping[str, Any]) -> Iterator[str]:
    if audit["checker"].get("identifiable") is False:
        yield "The checker is too weak, or gold too small, to say how many labels are right."


def _labels(group: Group, audit: Mapping[str, Any]) -> str:
    accuracy = group["label_accuracy"]
    if accuracy is None or accuracy["value"] >= LEAST_LABEL_ACCURACY:
        return ""
    return f"{percent(accuracy['value'])} right ({percent(accuracy['low'])} to {percent(accuracy['high'])})"


def _answers(group: Group, audit: Mapping[str, Any]) -> str:
    answered, gold = group["answered"], audit["checker"]["held_out"]["scores"]
    if answered is None or answered["f1"] >= LEAST_ANSWERED * gold["f1"]:
        return ""
    return f"F1 {answered['f1']:.2f}, on gold {gold['f1']:.2f}"


def _copies(group: Group, audit: Mapping[str, Any]) -> str:
    exact, near = group["exact_copies"] / group["rows"], group["near_copies"] / max(1, group["looked_at"])
    return f"{percent(exact)} exact, {percent(near)} exact or near" if max(exact, near) > MOST_COPIES else ""


def _parents(group: Group, audit: Mapping[str, Any]) -> str:
    parents = group["parents"]
    share = parents["above_0.8"] / max(1, parents["rows"])
    return percent(share) if share > MOST_LIKE_PARENT else ""


def _drift(group: Group, audit: Mapping[str, Any]) -> str:
    drift = group["label_drift"]
    return f"by {percent(drift)}" if drift is not None and drift > MOST_LABEL_DRIFT else ""


def _length(group: Group, audit: Mapping[str, Any]) -> str:
    own, gold = group["words"][2], audit["gold"]["words"][2]
    return "" if gold / LENGTH_RATIO <= own <= gold * LENGTH_RATIO else f"median {own:g} words, gold {gold:g}"


def _coverage(group: Group, audit: Mapping[str, Any]) -> str:
    own, gold = group["coverage"], audit["gold"]["coverage"]
    if own is None or own >= LEAST_COVERAGE * gold:
        return ""
    return f"{percent(own)} of test rows, other gold rows {percent(gold)}"


def _told_apart(group: Group, audit: Mapping[str, Any]) -> str:
    area = group["told_apart"]
    return f"area {area:.2f}" if area is not None and area > MOST_TOLD_APART else ""


def _variety(group: Group, audit: Mapping[str, Any]) -> str:
    own, gold = group["self_bleu"], audit["gold"]["self_bleu"]
    return f"self-BLEU {own:.2f}, gold {gold:.2f}" if own is not None and own > gold + MORE_SELF_BLEU else ""


_LOOKS: tuple[tuple[str, Callable[[Group, Mapping[str, Any]], str]], ...] = (
    ("Many labels seem to be wrong", _labels),
    ("The checker finds fewer of the answers than on gold", _answers),
    ("Rows repeat each other", _copies),
    ("Rows are near copies of their parents", _parents),
    ("Labels are shared out otherwise than in gold", _drift),
    ("Texts are longer or shorter than gold", _length),
    ("Rows leave out much of gold", _coverage),
    ("Rows are easily told from gold", _told_apart),
    ("Rows sound more alike than gold", _variety),
)
