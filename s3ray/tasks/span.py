"""Extractive question answering: the answer is a piece of the context, and the generator writes its question."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s3ray.errors import InputError
from s3ray.tasks import metrics
from s3ray.tasks.answers import find_answer
from s3ray.tasks.spec import TaskSpec
from s3ray.types import Example, GenerationRequest, Span

_CHOICES = ("yes", "no")


class SpanAnswers:
    """Reads answers from ``column``, judges predictions, scores with SQuAD's exact match and F1."""

    def __init__(self, spec: TaskSpec) -> None:
        self.column = spec.answers_column

    def read_answers(self, answers: Any, context: str) -> tuple[tuple[Span, ...], tuple[str, ...]]:
        """The answers of a source row in ``valid_text(context)``, and why those that were moved had to be.

        Raises:
            InputError: they are not in SQuAD's format, or one is neither at its position nor at one place alone.
        """
        try:
            pairs = [(str(text), int(start)) for text, start in _pairs(answers)]
        except (TypeError, KeyError, ValueError):
            hint = "Expected as in SQuAD: {text: [...], answer_start: [...]}, both of one length."
            raise InputError("not a list of answers", field=self.column, value=repr(answers)[:200], hint=hint) from None
        found = [find_answer(context, text, start, self.column) for text, start in pairs]
        return tuple(span for span, _ in found), tuple(why for _, why in found if why)

    def of_request(self, request: GenerationRequest) -> dict[str, Any]:
        """The target that a request asks for, as arguments of ``Example``."""
        return {"answers": (request.answer,)}

    def template_values(self, request: GenerationRequest) -> dict[str, object]:
        """The target, as values for prompt templates."""
        return {"answer": request.answer.text if request.answer else ""}

    def choices(self, request: GenerationRequest) -> tuple[str, ...]:
        """The answers to choose from when it is verified that the given answer is right for a question."""
        return _CHOICES

    def label_probabilities(self, request: GenerationRequest, probabilities: Sequence[float]) -> tuple[float, ...]:
        """The probability of yes."""
        return tuple(probabilities[:1])

    def certainty(self, request: GenerationRequest, label_probabilities: Sequence[float]) -> float:
        """The probability that the requested answer is right."""
        return label_probabilities[0]

    def show(self, example: Example) -> dict[str, object]:
        """The target of an example that a prompt shows, as values for its template."""
        return {"answer": example.answers[0].text if example.answers else ""}

    def in_words(self, predicted: str) -> str:
        """A student's answer as prompts word it."""
        return predicted

    def is_correct(self, example: Example, predicted: str) -> bool:
        """Whether the predicted text equals a reference answer, as SQuAD's exact match compares."""
        return metrics.exact_match([span.text for span in example.answers], predicted) == 1.0

    def scores(self, examples: Sequence[Example], predicted: Sequence[str]) -> dict[str, float]:
        """All metrics of span tasks, as means over questions."""
        pairs = [([span.text for span in e.answers], text) for e, text in zip(examples, predicted, strict=True)]
        return {
            "exact_match": sum(metrics.exact_match(*pair) for pair in pairs) / len(pairs),
            "f1": sum(metrics.token_f1(*pair) for pair in pairs) / len(pairs),
        }


def _pairs(answers: Any) -> Iterable[tuple[Any, Any]]:
    """Texts and offsets: SQuAD's lists as `datasets` stores them, or objects as in SQuAD's own files."""
    if isinstance(answers, Mapping) and isinstance(answers["text"], str):
        answers = [answers]
    if isinstance(answers, list):
        return [(answer["text"], answer["answer_start"]) for answer in answers]
    return zip(answers["text"], answers["answer_start"], strict=True)
