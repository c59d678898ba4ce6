"""Run folders whose synthetic rows have known defects: a language of random words, where one word gives the label."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.shaping import data_shaping
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.tasks import Task, load_task
from s3ray.types import Example, Origin, Source, Span
from tests.models import make_bert

SIGNS = {"negative": ("dreadful", "dull", "broken"), "positive": ("lovely", "superb", "charming")}
OTHER = {"negative": "positive", "positive": "negative"}
WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbour", "island", "jungle", "kettle"),
    *("lantern", "meadow", "nectar", "orchard", "pebble", "quarry", "river", "saddle", "timber", "umbrella"),
    *("valley", "willow", "yarrow", "zephyr", "anchor", "bridge", "castle", "dragon", "engine"),
)
PARTS = {"extrapolate": 120, "select": 60, "test": 120}


def make_model(folder: Path) -> str:
    """A BERT that knows the language."""
    folder.mkdir()
    return str(make_bert(folder, [*WORDS, *(word for sign in SIGNS.values() for word in sign)]))


def review(chance: random.Random, number: int) -> Example:
    label = ("negative", "positive")[number % 2]
    words = [*chance.sample(WORDS, 9), chance.choice(SIGNS[label])]
    chance.shuffle(words)
    return Example(
        id=f"{chance.getrandbits(64):016x}",
        fields={"text": " ".join(words)},
        label=label,
        origin=Origin(source=Source.GOLD),
    )


def question(chance: random.Random, number: int) -> Example:
    """The answer is the word after the one that is asked for."""
    words = chance.sample(WORDS, 10)
    place = number % 9
    start = len(" ".join(words[: place + 1])) + 1
    return Example(
        id=f"{chance.getrandbits(64):016x}",
        fields={"question": f"{words[place]} {words[-1 - place]}", "context": " ".join(words)},
        answers=(Span(text=words[place + 1], start=start),),
        origin=Origin(source=Source.GOLD),
    )


def written(rows: Sequence[Example], round_: int, parents: Sequence[Example] = ()) -> list[Example]:
    """The rows as if a generator had written them, each from a parent where there are some."""
    source = Source.EXTRAPOLATED if parents else Source.SEED
    origins = [
        Origin(source=source, round=round_, parent=parents[place % len(parents)].id if parents else None)
        for place in range(len(rows))
    ]
    return [replace(row, origin=origin) for row, origin in zip(rows, origins, strict=True)]


def make_run(
    folder: str | Path,
    model: str,
    gold: dict[str, list[Example]],
    rounds: Sequence[Sequence[Example]],
    task: str = "review_sentences",
    strategy: str = "s3",
) -> RunStore:
    """The folder of a run with these rows, before any student was trained."""
    config = RunConfig.model_validate(
        {
            "name": "defects",
            "task": task,
            "strategy": {"name": strategy},
            "generator": {"engine": "fake"},
            "student": {"model": model, "learning_rate": 2e-3, "batch_size": 8, "epochs": 4, "max_length": 32},
        }
    )
    known: Task = load_task(task)
    store = RunStore(folder)
    store.create(data_shaping(config), to_yaml(config), task=known.spec.model_dump(mode="json"))
    for part, rows in gold.items():
        store.write_table(store.gold(part), table_from_examples(rows, known.fields, known.has_labels))
    for number, accepted in enumerate(rounds):
        table = table_from_examples(accepted, known.fields, known.has_labels)
        store.write_table(store.accepted(number), table)
        rejected = ("request_id", "stage", "status", "reason", "detail", "label", "parent", "text", "raw")
        nothing = table.select(["id"] * len(rejected)).rename_columns(list(rejected)).slice(0, 0)
        store.write_table(store.rejected(number), nothing)
        counts = {"requested": len(accepted), "accepted": len(accepted), "rejected": {}, "failed": {}, "seconds": 1.0}
        tokens = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
        about = {"round": number, "rows": len(accepted), "stages": {}}
        store.write_json(store.round_report(number), {**counts, **tokens, **about})
    return store


def figures(num_groups: int = 1, **differs: Any) -> dict[str, Any]:
    """The content of an audit.json in which nothing stands out; ``differs`` changes the group of all rows."""
    same = {"labels": {"no": 0.5, "yes": 0.5}, "label_drift": 0.0, "words": [4.0, 8.0, 10.0, 12.0, 30.0]}
    same |= {"coverage": 0.5, "precision": 0.5, "told_apart": 0.6, "self_bleu": 0.2, "distinct_2": 0.9}
    group = {
        **{"name": "all", "round": None, "source": None, "rows": 1000, "looked_at": 500},
        **{"exact_copies": 0, "near_copies": 0, "copies_of_gold": {"extrapolate": 0, "select": 0, "test": 0}},
        "parents": {"rows": 200, "similarity": [0.1, 0.2, 0.3, 0.4, 0.5], "above_0.8": 0, "above_0.9": 0},
        "agreement": {"value": 0.88, "by_label": {"no": 0.9, "yes": 0.86}},
        "label_accuracy": {
            "value": 0.97,
            "low": 0.9,
            "high": 1.0,
            "clipped": False,
            "by_label": {"no": 1, "yes": 0.94},
        },
        "answered": None,
    }
    held_out = {"by": "test", "rows": 300, "scores": {"accuracy": 0.9, "macro_f1": 0.89}}
    return {
        "run": "figures",
        "rounds": [0],
        "looked_at": {"synthetic": 500, "gold": 100, "test": 300},
        "checker": {"trained_on": 100, "held_out": held_out, "identifiable": True},
        "gold": {"rows": {"extrapolate": 60, "select": 40, "test": 300}, **same},
        "groups": [
            {**group, **same, **differs},
            *({**group, **same, "name": f"round {number} seed"} for number in range(num_groups - 1)),
        ],
        "findings": [],
    }


def gold_reviews(chance: random.Random, **sizes: int) -> dict[str, list[Example]]:
    """Gold in parts, half of each of either label."""
    return {part: [review(chance, number) for number in range(num)] for part, num in {**PARTS, **sizes}.items()}


def flipped(rows: Sequence[Example], num: int) -> list[Example]:
    """The rows, the first ``num`` with the wrong label."""
    return [replace(row, label=OTHER[row.label or ""]) if place < num else row for place, row in enumerate(rows)]
