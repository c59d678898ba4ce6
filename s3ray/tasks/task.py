"""A loaded task: renders prompts, parses generated texts, makes examples, scores predictions.

It knows nothing of engines, rounds or the files of a run. Pickling keeps only its spec and the path of its data.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from jinja2 import Template, TemplateError

from s3ray.config.job import NOTE_STAGES
from s3ray.curation.answer import read_answer
from s3ray.curation.clean import read_list
from s3ray.curation.wording import Wording
from s3ray.errors import InputError, located
from s3ray.tasks.classification import Classification
from s3ray.tasks.span import SpanAnswers
from s3ray.tasks.spec import SUBJECT, Form, TaskSpec, load_spec, template_parts
from s3ray.tasks.templates import compile_template, names_in
from s3ray.text import has_word, normalise, num_words
from s3ray.types import (
    AHEAD,
    Example,
    GenerationRequest,
    Origin,
    Parsed,
    Prompt,
    Rejection,
    RejectionReason,
    Score,
    Source,
    Span,
)

NUM_LISTED = 10
"""Reasons or subjects that one prompt asks for."""

STILL_THINKING = "cut while the model was still thinking aloud"
"""Detail of a rejection for which `generator.thinking` and more tokens are the way out."""

_BUILTIN = Path(__file__).parent / "builtin"
_KINDS: dict[str, type[Classification] | type[SpanAnswers]] = {"classification": Classification, "span": SpanAnswers}
_SOURCES = {
    "seed": Source.SEED,
    "extrapolate": Source.EXTRAPOLATED,
    AHEAD: Source.EXTRAPOLATED,
    "imitate": Source.IMITATED,
}


class Task:
    """What is being learned. ``data`` is the folder of its data, None for a task that lives on the hub."""

    def __init__(self, spec: TaskSpec, data: Path | None = None) -> None:
        self.spec = spec
        self.data = data
        self.kind = spec.kind
        self.name = spec.name
        self.fields = spec.fields
        self.written = spec.writes
        self.context_fields = spec.context_fields
        self.passage_fields = spec.passage_fields
        self.labels = tuple(label.name for label in spec.labels)
        self.has_labels = spec.kind == "classification"
        self.metric = spec.deciding_metric
        self.attributes = spec.attributes
        self.target = _KINDS[spec.kind](spec)
        self._wording = Wording(
            labels=[said for label in spec.labels for said in (label.name, label.words, label.answer)],
            prefaces=spec.prompts.prefaces,
            refusals=spec.prompts.refusals,
        )
        self._templates: dict[tuple[Form, str, str], Template] = {
            (form, name, part): compile_template(source) for form, name, part, source in template_parts(spec)
        }

    def __reduce__(self) -> tuple[type["Task"], tuple[TaskSpec, Path | None]]:
        return Task, (self.spec, self.data)

    def has_form(self, form: Form) -> bool:
        """Whether the task has prompts of this form."""
        return getattr(self.spec.prompts, form) is not None

    def note_prompts(self, form: Form) -> frozenset[str]:
        """The notes (``NOTE_STAGES``) that the task has prompts of this form for."""
        return frozenset(name for of, name, _ in self._templates if of == form and name in NOTE_STAGES)

    def uses(self, form: Form, template: str, name: str) -> bool:
        """Whether a prompt uses a name."""
        parts = template_parts(self.spec)
        return any(name in names_in(source) for of, of_name, _, source in parts if (of, of_name) == (form, template))

    def has_verify(self, form: Form) -> bool:
        """Whether the task can ask for the label of a finished example."""
        return (form, "verify", "user") in self._templates or (form, "verify", "text") in self._templates

    def verification(self, request: GenerationRequest, text: str) -> GenerationRequest:
        """The request that asks for the label of a text that was written for ``request``."""
        return request._replace(template="verify", context=self._filled(request, text))

    def render(self, request: GenerationRequest, form: Form) -> Prompt:
        """The prompt of a request. The task must have the form and the request's template."""
        values: dict[str, Any] = {
            "context": request.context,
            "fields": request.context,
            "vary": {SUBJECT: "", **request.attributes} if self.spec.subjects else request.attributes,
            "reasons": list(request.reasons),
            "num_reasons": NUM_LISTED,
            "num_subjects": NUM_LISTED,
            "parent": request.parent.fields if request.parent else {},
            "predicted": self.target.in_words(request.predicted) if request.predicted else "",
            "pattern": request.pattern,
            "near": request.near,
            "shown": [{**example.fields, **self.target.show(example)} for example in request.shown],
            **self.target.template_values(request),
        }

        def part(name: str) -> str:
            return self._templates[form, request.template, name].render(values)

        choices = self.target.choices(request) if request.template == "verify" else ()
        if form == "chat":
            return Prompt(system=part("system").strip(), user=part("user").strip(), choices=choices)
        prompts = self.spec.prompts.completion
        return Prompt(text=part("text"), stop=getattr(prompts, request.template).stop, choices=choices)

    def read(self, request: GenerationRequest, text: str, finish_reason: str, clean: bool) -> Parsed | Rejection:
        """Parse a generation, or reject it with a reason.

        Thoughts and marks of the chat format go in any case. Without ``clean`` the text is used unchanged beyond that,
        and rejected only if it is empty, has no word, or repeats the parent. Notes are parsed to one note per line.
        """
        answer = read_answer(text)
        if answer.is_cut:
            return Rejection(reason=RejectionReason.TRUNCATED, detail=STILL_THINKING)
        if request.template in NOTE_STAGES:
            return self._read_as_list(answer.text, finish_reason)
        written = self._wording.clean(answer.text) if clean else answer.text.strip()
        if not written:
            if finish_reason == "length":
                return Rejection(reason=RejectionReason.TRUNCATED, detail="cut before the first word")
            return Rejection(reason=RejectionReason.EMPTY)
        if not has_word(written):
            return Rejection(reason=RejectionReason.UNPARSABLE, detail="no word in it")
        rejection = self._unclean(written, finish_reason) if clean else None
        if rejection:
            return rejection
        if request.parent and normalise(written) == normalise(request.parent.fields[self.written]):
            return Rejection(reason=RejectionReason.COPY_OF_PARENT, detail=f"parent {request.parent.id}")
        return Parsed(text=written)

    def _read_as_list(self, text: str, finish_reason: str) -> Parsed | Rejection:
        items = [item for item in read_list(self._wording.without_preface(text)) if not self._wording.is_refusal(item)]
        if finish_reason == "length":
            items = items[:-1]
        if not items:
            return Rejection(reason=RejectionReason.UNPARSABLE, detail="no item in it")
        return Parsed(text="\n".join(items))

    def _unclean(self, written: str, finish_reason: str) -> Rejection | None:
        limits = self.spec.limits
        length = num_words(written)
        if finish_reason == "length":
            return Rejection(reason=RejectionReason.TRUNCATED, detail=f"cut after {length} words")
        if self._wording.is_refusal(written):
            return Rejection(reason=RejectionReason.REFUSAL, detail=written[:80])
        if length < limits.min_words:
            return Rejection(reason=RejectionReason.TOO_SHORT, detail=f"{length} words, least {limits.min_words}")
        if length > limits.max_words:
            return Rejection(reason=RejectionReason.TOO_LONG, detail=f"{length} words, most {limits.max_words}")
        return None

    def read_notes(self, text: str) -> tuple[str, ...]:
        """The items that a model listed, cleaned, each once."""
        return read_list(text)

    def example(self, request: GenerationRequest, text: str) -> Example:
        """The example that a request and its accepted text make.

        The recorded label or answer is the one that was asked for (paper, Algorithm 1); see ``curation.verify``.
        """
        origin = Origin(
            source=_SOURCES[request.stage],
            round=request.round,
            parent=request.parent.id if request.parent else None,
            off_policy=request.stage == AHEAD,
        )
        return self.make_example(self._filled(request, text), self.target.of_request(request), origin)

    def _filled(self, request: GenerationRequest, text: str) -> dict[str, str]:
        return {name: text if name == self.written else request.context[name] for name in self.fields}

    def make_example(self, fields: Mapping[str, str], target: Mapping[str, Any], origin: Origin) -> Example:
        """Make an example; its id is a hash (16 hex digits) of its fields and target, whatever its origin."""
        example = Example(id="", fields=fields, origin=origin, **target)
        spans = [(span.text, span.start) for span in example.answers]
        content = json.dumps([[fields[name] for name in self.fields], example.label, spans])
        return Example(id=xxhash.xxh64_hexdigest(content.encode()), fields=fields, origin=origin, **target)

    def is_correct(self, example: Example, predicted: str) -> bool:
        """Whether a student's answer (a label name, or an answer's text) is right."""
        return self.target.is_correct(example, predicted)

    def score(self, examples: Sequence[Example], predicted: Sequence[str]) -> Score:
        """All metrics of the task, in [0, 1]: accuracy and macro-F1, or SQuAD's exact match and F1.

        Raises:
            ValueError: there are no examples, or not as many predictions.
        """
        if not examples or len(examples) != len(predicted):
            raise ValueError(f"cannot score {len(predicted)} predictions on {len(examples)} examples")
        return Score(main=self.metric, values=self.target.scores(examples, predicted), num_examples=len(examples))


def builtin_names() -> tuple[str, ...]:
    """The tasks that come with the package."""
    return tuple(sorted(path.stem for path in _BUILTIN.glob("*.yaml")))


def load_task(name_or_path: str, data: str | None = None) -> Task:
    """Load a builtin task by name, or a task YAML by path; ``data`` replaces the task's own data folder.

    Raises:
        InputError: there is no such task, or its YAML is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        names = builtin_names()
        if name_or_path not in names:
            near = difflib.get_close_matches(name_or_path, names, n=1)
            hint = f"Builtin tasks: {', '.join(names)}. Or give the path of a task's YAML file."
            hint = f"Did you mean {near[0]}? {hint}" if near else hint
            raise InputError("no such task", where="", field="task", value=repr(name_or_path), hint=hint)
        path = _BUILTIN / f"{name_or_path}.yaml"
    spec = load_spec(path)
    folder = data or (path.parent / spec.data if spec.data else None)
    task = Task(spec, Path(folder) if folder else None)
    with located(path):
        _try_templates(task)
    return task


def _try_templates(task: Task) -> None:
    """Render every template for each label, with and without the values that may be empty, to find errors early."""
    fields = dict.fromkeys(task.fields, "some text")
    span = Span(text="some", start=0)
    attributes = {name: values[0] for name, values in task.attributes.items()}
    for form, name in dict.fromkeys((form, name) for form, name, _, _ in template_parts(task.spec)):
        for label in task.labels or (None,):
            example = Example(id="", fields=fields, label=label, answers=(span,), origin=Origin(source=Source.GOLD))
            plain = GenerationRequest(
                id="",
                index=0,
                stage=name,
                round=0,
                template=name,
                label=label,
                context=fields,
                answer=span,
                attributes=attributes,
                parent=example,
                group="",
                seed=0,
            )
            full = plain._replace(
                reasons=("some reason",),
                attributes=attributes | ({SUBJECT: "some subject"} if task.spec.subjects else {}),
                predicted=label or "some",
                pattern="some pattern",
                shown=(example,),
                near=fields,
            )
            for request in (plain, full):
                try:
                    task.render(request, form)
                except (TemplateError, TypeError, ValueError, AssertionError) as error:
                    field, value = f"prompts.{form}.{name}", f"label {label}" if label else ""
                    hint = "What a template looks up by `label` needs the words of every label."
                    raise InputError(
                        f"template cannot be rendered: {error}", field=field, value=value, hint=hint
                    ) from None
