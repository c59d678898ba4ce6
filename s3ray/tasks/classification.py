"""Classification: any number of texts in, one label out."""

from collections.abc import Mapping, Sequence
from typing import Any

from s3ray.errors import InputError
from s3ray.tasks import metrics
from s3ray.tasks.labels import label_text
from s3ray.tasks.spec import TaskSpec
from s3ray.types import Example, GenerationRequest


class Classification:
    """Reads labels from ``column``, judges predictions, scores with accuracy and macro-F1."""

    def __init__(self, spec: TaskSpec) -> None:
        self.column = spec.label_column
        self._names = {value: label.name for label in spec.labels for value in label.values}
        self._words = {label.name: label.words for label in spec.labels}
        self._answers = {label.name: label.answer for label in spec.labels}

    def read_target(self, row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
        """The target of a source row, as arguments of ``Example``.

        Raises:
            InputError: the task has no such label.
        """
        name = self._names.get(label_text(row[self.column]))
        if name is None:
            legal = ", ".join(f"{value} ({name})" for value, name in self._names.items())
            hint = f"Values of this task: {legal}. Change the data, or `labels` of the task."
            if label_text(row[self.column]).lstrip("0") in self._names:
                hint += " YAML reads 01 as the number 1: write value: '01'."
            raise InputError("unknown label", field=self.column, value=repr(row[self.column]), hint=hint)
        return {"label": name}

    def of_request(self, request: GenerationRequest) -> dict[str, Any]:
        """The target that a request asks for, as arguments of ``Example``."""
        return {"label": request.label}

    def template_values(self, request: GenerationRequest) -> dict[str, object]:
        """The target, as values for prompt templates."""
        return {"label": self._words[request.label] if request.label else "", "labels": list(self._words.values())}

    def choices(self, request: GenerationRequest) -> tuple[str, ...]:
        """The answers to choose from when a text is verified: that of the requested label first, then the others."""
        return tuple(self._answers[name] for name in self._asked_first(request))

    def label_probabilities(self, request: GenerationRequest, probabilities: Sequence[float]) -> tuple[float, ...]:
        """Reorder the probabilities of ``choices`` into the task's order of labels."""
        by_name = dict(zip(self._asked_first(request), probabilities, strict=True))
        return tuple(by_name[name] for name in self._answers)

    def certainty(self, request: GenerationRequest, label_probabilities: Sequence[float]) -> float:
        """The probability of the label that was requested."""
        return label_probabilities[list(self._answers).index(request.label or "")]

    def _asked_first(self, request: GenerationRequest) -> list[str]:
        return sorted(self._answers, key=lambda name: name != request.label)

    def show(self, example: Example) -> dict[str, object]:
        """The target of an example that a prompt shows, as values for its template."""
        return {"label": self._words[example.label] if example.label else ""}

    def in_words(self, predicted: str) -> str:
        """A student's answer as prompts word it."""
        return self._words.get(predicted, predicted)

    def is_correct(self, example: Example, predicted: str) -> bool:
        """Whether the predicted label name is the example's."""
        return example.label == predicted

    def scores(self, examples: Sequence[Example], predicted: Sequence[str]) -> dict[str, float]:
        """All metrics of classification."""
        truth = [example.label or "" for example in examples]
        return {"accuracy": metrics.accuracy(truth, predicted), "macro_f1": metrics.macro_f1(truth, predicted)}
