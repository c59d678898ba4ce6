"""Small task specs, and examples and requests of any task."""

from typing import Any

from s3ray.tasks import Task
from s3ray.types import Example, GenerationRequest, Origin, Source, Span

TOPICS: dict[str, Any] = {
    "name": "topics",
    "kind": "classification",
    "fields": ["title", "text"],
    "writes": "text",
    "columns": {"text": "body"},
    "labels": [
        {"name": "sport", "value": 1, "words": "sports news"},
        {"name": "money", "value": "m", "words": "business news"},
    ],
    "attributes": {"place": ["Oslo", "Lima"]},
    "limits": {"min_words": 2, "max_words": 8},
    "prompts": {
        "completion": {
            "reasons": {"text": "{{ num_reasons }} signs of {{ label }}, not of {{ labels | join(', ') }}:\n1."},
            "seed": {
                "text": '{{ context.title }} in {{ vary.place }}, {{ reasons | join(", ") }} ({{ label }}): "\n',
                "stop": ['"'],
            },
            "extrapolate": {"text": '{{ context.title }} ({{ label }}): {{ parent.text }}\nLike it: "'},
            "verify": {"text": '{{ fields.title }}: {{ fields.text }}\nIs it {{ labels | join(" or ") }}? It is "'},
        }
    },
}
ANSWERS: dict[str, Any] = {
    "name": "answers",
    "kind": "span",
    "fields": ["question", "context"],
    "writes": "question",
    "prompts": {
        "chat": {
            "seed": {"user": "{{ context.context }} Answer: {{ answer }}. Question?"},
            "extrapolate": {"system": "Be brief.", "user": "{{ context.context }} {{ answer }} {{ parent.question }}"},
        }
    },
}


def gold_example(task: Task, number: int = 0, written: str | None = None) -> Example:
    """A gold row of any task, without its data."""
    filled = {name: f"Row {number}: the {name} says that Anna won the old silver cup." for name in task.fields}
    filled[task.written] = written or filled[task.written]
    span = Span(text="Anna", start=filled[task.fields[-1]].find("Anna"))
    return Example(
        id=f"g{number}",
        fields=filled,
        label=task.labels[number % len(task.labels)] if task.has_labels else None,
        answers=() if task.has_labels else (span,),
        origin=Origin(source=Source.GOLD),
    )


def request_of(task: Task, template: str, label: str | None = None, **changes: Any) -> GenerationRequest:
    """A request as the strategies make them."""
    parent = changes.pop("parent", None)
    given = parent or gold_example(task)
    values: dict[str, Any] = {
        "id": "r",
        "index": 0,
        "stage": template,
        "round": 1,
        "template": template,
        "label": label or given.label,
        "context": {name: given.fields[name] for name in task.context_fields},
        "answer": given.answers[0] if given.answers else None,
        "attributes": {name: values[0] for name, values in task.attributes.items()},
        "parent": parent,
        "group": "g",
        "seed": 1,
    }
    return GenerationRequest(**(values | changes))
