"""What is particular to classification: any number of texts in, one label out."""

from collections.abc import Mapping, Sequence
from typing import Any

from s3ray.errors import InputError
from s3ray.tasks import metrics
from s3ray.tasks.spec import TaskSpec
from s3ray.types import Example, GenerationRequest


class Classification:
    """Reads labels from ``column``, judges predictions, scores with accuracy and macro-F1."""

    def __init__(self, spec: TaskSpec) -> None:
        self.column = spec.label_column
        self._names = {str(label.value): label.name for label in spec.labels}
        self._words = {label.name: label.words for label in spec.labels}

    def read_target(self, row: Mapping[str, Any], fields: Mapping[str, str], where: str) -> dict[str, Any]:
        """The target of a source row, as arguments of ``Example``.

        Raises:
            InputError: the label is none of the task's.
        """
        name = self._names.get(str(row[self.column]))
        if name is None:
            legal = ", ".join(f"{value} ({name})" for value, name in self._names.items())
            hint = f"Values of this task: {legal}. Change the data, or `labels` of the task."
            raise InputError("unknown label", where=where, field=self.column, value=repr(row[self.column]), hint=hint)
        return {"label": name}

    def of_request(self, request: GenerationRequest) -> dict[str, Any]:
        """The target that a request asks for, as arguments of ``Example``."""
        return {"label": request.label}

    def template_values(self, request: GenerationRequest) -> dict[str, object]:
        """What the templates may say about the target."""
        return {"label": self._words[request.label] if request.label else "", "labels": list(self._words.values())}

    def is_correct(self, example: Example, predicted: str) -> bool:
        """Whether the predicted label name is the example's."""
        return example.label == predicted

    def scores(self, examples: Sequence[Example], predicted: Sequence[str]) -> dict[str, float]:
        """All metrics of this kind."""
        truth = [example.label or "" for example in examples]
        return {"accuracy": metrics.accuracy(truth, predicted), "macro_f1": metrics.macro_f1(truth, predicted)}
