"""`s3ray audit`: reads a run's synthetic rows and gold, measures, and writes ``audit.json``.

At most ``num_rows`` of each are looked at: synthetic rows, gold rows to learn from, and test rows. The same rows are
drawn each time. Exact copies, labels and lengths are counted over all rows. Of a row only the field that the generator
wrote is measured; the checker reads all fields.
"""

import importlib.util
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from s3ray import __version__
from s3ray.audit import measures
from s3ray.audit.checker import Checked, check, embed
from s3ray.audit.findings import find
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.errors import InputError, located
from s3ray.models import check_model
from s3ray.report.audit import AUDIT
from s3ray.storage.run_folder import RunStore
from s3ray.student.ranks import SingleProcess
from s3ray.tables import examples_from_table
from s3ray.tasks import Task, load_task
from s3ray.tasks.spec import TaskSpec
from s3ray.text import num_words
from s3ray.types import Example, Source

SCHEMA = 1
MIN_COMPARED = 20
"""For smaller groups self-BLEU and distinct-2 are not computed."""
_PARTS = ("extrapolate", "select", "test")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What the run's folder holds: every synthetic row, and gold by part."""

    synthetic: list[Example]
    gold: dict[str, list[Example]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """Measurements of single rows, in the order of ``sample`` (places in ``_Rows.synthetic``); ``exact``: of all."""

    sample: list[int]
    exact: list[bool]
    near: list[bool]
    gold_parts: list[str | None]
    likeness: list[float | None]
    checked: Checked
    points: measures.Points
    gold_points: measures.Points
    test_points: measures.Points
    radius: float | None


def audit_run(store: RunStore, num_rows: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure a run's synthetic set, write ``audit.json`` and return its content; ``tell`` is given each step in words.

    Raises:
        InputError: there is nothing synthetic to audit, or something is missing to do it with.
        StoreError: a file of the run cannot be read or written.
    """
    with located(store.url("config.yaml")):
        config = validate(RunConfig, store.read_config())
        _check(config)
        task = _task(store, config)
        rows = _read(store, task)
        check_model(config.student.model, field="student.model", max_length=config.student.max_length)
    gold = _draw([*rows.gold["extrapolate"], *rows.gold["select"]], num_rows)
    test = _draw(rows.gold["test"], num_rows)
    looked = _look(config, task, rows, gold, test, num_rows, tell)
    audit = {
        "schema": SCHEMA,
        "version": __version__,
        "run": config.name,
        "task": task.name,
        "kind": task.kind,
        "strategy": config.strategy.name,
        "student": config.student.model,
        "rounds": store.rounds(),
        "looked_at": {"synthetic": len(looked.sample), "gold": len(gold), "test": len(test)},
        "checker": _checker(task, looked.checked, len(gold)),
        "radius": looked.radius,
        **_groups(task, rows, looked, gold),
    }
    audit["findings"] = find(audit)
    store.write_json(AUDIT, audit)
    return audit


def _check(config: RunConfig) -> None:
    if importlib.util.find_spec("sacrebleu") is None:
        hint = "pip install 's3ray[audit]'"
        raise InputError("needs a package that is not installed", where="s3ray audit", value="sacrebleu", hint=hint)
    if config.student.trust_remote_code:
        hint = "The audit takes what it loads from the run's folder, which may be another's, and runs no code for it."
        raise InputError("cannot be audited", field="student.trust_remote_code", value="true", hint=hint)


def _task(store: RunStore, config: RunConfig) -> Task:
    """The task as it was when the run began; for runs that did not keep it, as it is now."""
    spec = store.identity().get("task")
    if spec is None:
        return load_task(config.task, config.data)
    with located(store.url("fingerprint.json")):
        return Task(validate(TaskSpec, spec))


def _read(store: RunStore, task: Task) -> _Rows:
    tables = [store.read_table(store.accepted(num), task.fields) for num in store.rounds()]
    rows = [row for table in tables for row in examples_from_table(table, task.fields)]
    synthetic = [row for row in rows if row.origin.source is not Source.GOLD]
    if not synthetic:
        hint = "Let the same `s3ray run` command go on until a round is done; strategy gold never writes any."
        raise InputError(
            "has no finished round with synthetic rows, so there is nothing to audit", store.root, hint=hint
        )
    gold = {part: examples_from_table(store.read_table(store.gold(part), task.fields), task.fields) for part in _PARTS}
    return _Rows(synthetic=synthetic, gold=gold)


def _draw(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, in their order; the same ones each time."""
    places = random.Random("audit").sample(range(len(items)), min(most, len(items)))
    return [items[place] for place in sorted(places)]


def _look(
    config: RunConfig,
    task: Task,
    rows: _Rows,
    gold: Sequence[Example],
    test: Sequence[Example],
    num_rows: int,
    tell: Callable[[str], None],
) -> _Looked:
    sample = _draw(range(len(rows.synthetic)), num_rows)
    drawn = [rows.synthetic[place] for place in sample]
    texts, scopes = _texts(task, drawn), [_scope(task, row) for row in drawn]
    tell(f"Comparing {len(sample)} of {len(rows.synthetic)} synthetic rows with each other and with gold")
    all_texts, all_scopes = _texts(task, rows.synthetic), [_scope(task, row) for row in rows.synthetic]
    parents = {row.id: row.fields[task.written] for part in rows.gold.values() for row in part}
    origins = [parents.get(row.origin.parent or "") for row in drawn]
    device = SingleProcess().device
    tell(f"Training a checker on {len(gold)} rows of gold")
    checked = check(config.student, task, gold, test, drawn, device)
    tell("Placing rows in the student's space")
    points = embed(config.student, [*texts, *_texts(task, gold), *_texts(task, test)], device)
    test_points = points[len(texts) + len(gold) :]
    return _Looked(
        sample=sample,
        exact=[copied is not None for copied in measures.copies_within(all_texts, all_scopes, None)],
        near=[copied is not None for copied in measures.copies_within(texts, scopes, measures.NEAR)],
        gold_parts=measures.copies_of(texts, {part: _texts(task, rows.gold[part]) for part in _PARTS}, measures.NEAR),
        likeness=[
            None if parent is None else measures.similarity(text, parent)
            for text, parent in zip(texts, origins, strict=True)
        ],
        checked=checked,
        points=points[: len(texts)],
        gold_points=points[len(texts) : len(texts) + len(gold)],
        test_points=test_points,
        radius=measures.own_radius(test_points),
    )


def _texts(task: Task, rows: Sequence[Example]) -> list[str]:
    return [row.fields[task.written] for row in rows]


def _scope(task: Task, row: Example) -> str:
    return "\x1f".join(row.fields[name] for name in task.passage_fields)


def _checker(task: Task, checked: Checked, num_gold: int) -> dict[str, Any]:
    score = task.score(checked.known, checked.known_answers)
    told: dict[str, Any] = {
        "trained_on": num_gold,
        "held_out": {"by": checked.by, "rows": len(checked.known), "scores": dict(score.values)},
    }
    if task.has_labels:
        told |= {"confusion": _confusion(task, checked).astype(int).tolist(), "labels": list(task.labels)}
        told["identifiable"] = measures.is_identifiable(_confusion(task, checked))
    return told


def _confusion(task: Task, checked: Checked) -> measures.Matrix:
    return measures.count_pairs([row.label or "" for row in checked.known], checked.known_answers, task.labels)


def _groups(task: Task, rows: _Rows, looked: _Looked, gold: Sequence[Example]) -> dict[str, Any]:
    """``gold`` to compare with, and ``groups``: all rows first, then each round and source if there are several."""
    everything = [row for part in _PARTS for row in rows.gold[part]]
    origins = [(row.origin.round, row.origin.source) for row in rows.synthetic]
    parts: list[tuple[int, Source] | None] = [None, *sorted(set(origins))]
    members = {
        part: [number for number, place in enumerate(looked.sample) if part in (None, origins[place])] for part in parts
    }
    sizes = [len(within) for within in members.values() if len(within) >= MIN_COMPARED]
    num_compared = min([measures.NUM_COMPARED, len(gold), *sizes])
    reference = {
        "rows": {part: len(rows.gold[part]) for part in _PARTS},
        **_plain(task, everything, everything),
        **_space(looked, looked.gold_points),
        **_variety(_texts(task, gold), num_compared),
    }
    groups = []
    for part in parts if len(parts) > 2 else parts[:1]:
        own = [place for place, origin in enumerate(origins) if part in (None, origin)]
        within = members[part]
        drawn = [rows.synthetic[looked.sample[number]] for number in within]
        groups.append(
            {
                "name": "all" if part is None else f"round {part[0]} {part[1].value}",
                "round": None if part is None else part[0],
                "source": None if part is None else part[1].value,
                "rows": len(own),
                "looked_at": len(within),
                **_plain(task, [rows.synthetic[place] for place in own], everything),
                **_copies(looked, own, within),
                **_verdict(task, looked, drawn, within),
                **_space(looked, looked.points[within]),
                **_variety(_texts(task, drawn), num_compared),
            }
        )
    return {"compared": num_compared, "gold": reference, "groups": groups}


def _plain(task: Task, rows: Sequence[Example], gold: Sequence[Example]) -> dict[str, Any]:
    """Labels and lengths, counted over all rows."""
    shares, known = (measures.shares(row.label for row in part if row.label) for part in (rows, gold))
    return {
        "labels": shares,
        "label_drift": measures.drift(shares, known) if task.has_labels else None,
        "words": measures.quantiles([num_words(text) for text in _texts(task, rows)]),
    }


def _copies(looked: _Looked, own: Sequence[int], within: Sequence[int]) -> dict[str, Any]:
    likeness = [found for number in within if (found := looked.likeness[number]) is not None]
    parts = [looked.gold_parts[number] for number in within]
    return {
        "exact_copies": sum(looked.exact[place] for place in own),
        "near_copies": sum(looked.near[number] for number in within),
        "copies_of_gold": {part: parts.count(part) for part in _PARTS},
        "parents": {
            "rows": len(likeness),
            "similarity": measures.quantiles(likeness),
            "above_0.8": sum(found > 0.8 for found in likeness),
            "above_0.9": sum(found > 0.9 for found in likeness),
        },
    }


def _verdict(task: Task, looked: _Looked, drawn: Sequence[Example], within: Sequence[int]) -> dict[str, Any]:
    """What the checker says of the rows: agreement and estimated accuracy of labels, or SQuAD's metrics."""
    answers = [looked.checked.answers[number] for number in within]
    if not drawn:
        return {"agreement": None, "label_accuracy": None, "answered": None}
    if not task.has_labels:
        return {"agreement": None, "label_accuracy": None, "answered": dict(task.score(drawn, answers).values)}
    answered = measures.count_pairs([row.label or "" for row in drawn], answers, task.labels)
    accuracy = measures.label_accuracy(answered, _confusion(task, looked.checked), task.labels)
    by_label = {
        label: float(row[place] / row.sum())
        for place, (label, row) in enumerate(zip(task.labels, answered, strict=True))
        if row.sum()
    }
    return {
        "agreement": {"value": float(answered.trace() / answered.sum()), "by_label": by_label},
        "label_accuracy": asdict(accuracy) if accuracy else None,
        "answered": None,
    }


def _space(looked: _Looked, points: measures.Points) -> dict[str, Any]:
    """Coverage and precision against gold's test part, in the space of the student's base checkpoint."""
    test = looked.test_points
    if looked.radius is None or not len(points):
        return {"coverage": None, "precision": None, "told_apart": None}
    return {
        "coverage": measures.share_within(measures.distances(test, points), looked.radius),
        "precision": measures.share_within(measures.distances(points, test), looked.radius),
        "told_apart": measures.told_apart(points, test),
    }


def _variety(texts: Sequence[str], num_compared: int) -> dict[str, float | None]:
    if len(texts) < num_compared:
        return {"self_bleu": None, "distinct_2": None}
    compared = _draw(texts, num_compared)
    return {"self_bleu": measures.self_bleu(compared), "distinct_2": measures.distinct_2(compared)}
