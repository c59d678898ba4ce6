"""The fields of a task's YAML file. A new task is such a file and needs no Python.

A spec that loads is consistent: its labels, fields and templates fit together, so a run cannot fail on them later.
"""

from collections.abc import Mapping
from operator import not_
from pathlib import Path
from typing import Annotated, Generic, Literal, Self, TypeVar

import regex
from pydantic import AfterValidator, BaseModel, Field, PositiveInt, model_validator

from s3ray.config.job import NOTE_STAGES, StrictModel
from s3ray.config.load import read_yaml, validate
from s3ray.errors import located
from s3ray.tables import TABLE_COLUMNS
from s3ray.tasks.labels import label_text
from s3ray.tasks.templates import check_template

SUBJECT = "subject"
"""The attribute with the subject of a seed example, in addition to the attribute that the subject replaces."""

Form = Literal["chat", "completion"]
Metric = Literal["accuracy", "macro_f1", "exact_match"]
LabelValue = bool | int | float | str
LeaveOut = Literal["unlabelled", "unanswerable", "contradictory"]
Strings = Annotated[tuple[str, ...], Field(strict=False)]


def _check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            found = regex.compile(pattern, regex.IGNORECASE).match("")
        except regex.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        if found:
            raise ValueError(f"{pattern!r} fits an empty text too, so it would be found in every text")
    return patterns


Patterns = Annotated[Strings, AfterValidator(_check_patterns)]

_METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "span": ("exact_match",),
}
_SPAN_FIELDS = ("question", "context")


class Label(StrictModel):
    """One class of a classification task."""

    name: str = Field(min_length=1)
    """What reports, datasets and predictions call it."""
    value: LabelValue | Annotated[tuple[LabelValue, ...], Field(strict=False, min_length=1)]
    """Its value in the source's label column; a list: all of them, such as the spellings of one class. Whole numbers
    and booleans are the same as their texts there: 1 is 1.0 and "1", and true is "True"."""
    words: str = Field(min_length=1)
    """How a prompt says it."""
    says: str | None = Field(default=None, min_length=1)
    """The short answer to prompt `verify` that means it; null: `words`. Labels must differ in the first word of it."""

    @property
    def answer(self) -> str:
        """``says``, default resolved."""
        return self.says or self.words

    @property
    def values(self) -> tuple[str, ...]:
        """``value`` as the texts that ``label_text`` makes of what the source has."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        return tuple(dict.fromkeys(map(label_text, values)))


class HubSource(StrictModel):
    """A dataset on the Hugging Face hub."""

    hub: str
    """Its id, or a folder that `datasets.load_dataset` reads."""
    config: str | None = None
    """Its configuration, where it has several."""
    train: str = "train"
    """Split from which gold is drawn."""
    validation: str | None = None
    """Split for choosing the student's best epoch; null: drawn from train."""
    test: str = "test"
    """Split on which the last student is scored."""


class ChatTemplate(StrictModel):
    """A prompt for chat models: two messages, Jinja2."""

    system: str = ""
    """System message; empty: none."""
    user: str = Field(min_length=1)
    """The order."""


class CompletionTemplate(StrictModel):
    """A prompt for base and tiny models: a text to continue, Jinja2."""

    text: str = Field(min_length=1)
    """Ends where the model goes on, best inside an opened quotation."""
    stop: Strings = ()
    """Strings at which the continuation ends."""


Template = TypeVar("Template", ChatTemplate, CompletionTemplate)


class _PromptSet(StrictModel, Generic[Template]):
    reasons: Template | None = None
    """Asks for reasons behind a label (paper, Algorithm 1); none: seed prompts go without."""
    subjects: Template | None = None
    """Asks for what seed examples can be about (ZeroGen's first stage); none: they are written in one stage."""
    patterns: Template | None = None
    """Asks what gold rows have in common that the student got wrong (s3plus); none: mistakes are not described."""
    seed: Template
    """Asks for a new text with a label, from scratch."""
    extrapolate: Template
    """Asks for a new text like a gold example."""
    verify: Template | None = None
    """Asks for the label of a finished example (span: whether the answer is right); none: `curation.verify` cannot."""


class ChatPrompts(_PromptSet[ChatTemplate]):
    """The chat prompts of a task."""


class CompletionPrompts(_PromptSet[CompletionTemplate]):
    """The completion prompts of a task."""


class Prompts(StrictModel):
    """The prompts of a task, in one form or both; a job picks the form that suits its generator."""

    chat: ChatPrompts | None = None
    """For instruction-tuned models."""
    completion: CompletionPrompts | None = None
    """For base and tiny models."""
    prefaces: Patterns = Field(default=(), exclude_if=not_)
    """Regular expressions for what the generator says before a text in the task's language, such as
    `(Gerne|Klar)[^:]{0,80}:`; what they find at the beginning of a text goes. English ones are built in."""
    refusals: Patterns = Field(default=(), exclude_if=not_)
    """Regular expressions for how the generator declines to write in the task's language, such as
    `(Es tut mir leid, aber )?ich kann (das|dabei) nicht`; a text that begins so is rejected. English ones are built
    in."""


class Limits(StrictModel):
    """Length of the written text in words; what is outside is rejected."""

    min_words: PositiveInt = 1
    """Fewest words."""
    max_words: PositiveInt = 400
    """Most words."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_words < self.min_words:
            raise ValueError(f"max_words ({self.max_words}) is less than min_words ({self.min_words})")
        return self


class TaskSpec(StrictModel):
    """What is being learned: the data, the labels, and how a language model is asked for more."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name of the task."""
    kind: Literal["classification", "span"]
    """classification: one label for the fields. span: a piece of the field `context` answers the field `question`."""
    description: str = ""
    """One sentence for people."""
    metric: Metric | None = None
    """The metric that decides; default: accuracy for classification, exact_match for span (F1 is reported too)."""
    fields: Strings = Field(min_length=1)
    """Input fields of the student, in the order in which it reads them. Span tasks: [question, context]."""
    writes: str
    """The field that the generator writes; all others are given to it from gold."""
    categories: Strings = Field(default=(), exclude_if=not_)
    """Given fields that say what a row is about in a word or two and come again in many rows, such as a product. Other
    given fields are passages: none that stands in a test or selection row is written for."""
    columns: Mapping[str, str] = {}
    """Columns of the source, for fields that are called differently there; a field's own name is read too."""
    label_column: str = "label"
    """Column with the label (classification)."""
    answers_column: str = "answers"
    """Column with the answers, as in SQuAD: {text: [...], answer_start: [...]} (span)."""
    labels: tuple[Label, ...] = Field(default=(), strict=False)
    """The classes (classification)."""
    leave_out: Annotated[tuple[LeaveOut, ...], Field(strict=False)] = Field(default=(), exclude_if=not_)
    """Rows of the data to leave out, counted by `plan`: unlabelled ones, unanswerable questions, contradictory ones,
    whose text stands in another row with another label. Without it unlabelled and unanswerable rows are refused, and of
    contradictory ones one is kept, as of all rows that repeat a text."""
    source: HubSource | None = None
    """Where the data lies on the hub."""
    data: str | None = None
    """Folder with train, validation and test files (.csv, .tsv, .jsonl, .json, each also .gz, or .parquet), or one such
    file with all rows, of which a fifth is the test split; relative to this file; wins over `source`."""
    attributes: Mapping[str, Strings] = {}
    """Lists from which prompts draw at random, for variety; templates say `vary.NAME`."""
    subjects: str | None = None
    """The attribute whose place a subject takes where the generator writes subjects first; seed prompts say
    `vary.subject` too, which is empty where there is none."""
    prompts: Prompts
    """How the generator is asked."""
    limits: Limits = Limits()
    """Length of the written text."""

    @property
    def deciding_metric(self) -> Metric:
        """The metric that decides, default resolved."""
        return self.metric or _METRICS[self.kind][0]

    @property
    def context_fields(self) -> tuple[str, ...]:
        """The fields that are given to the generator."""
        return tuple(name for name in self.fields if name != self.writes)

    @property
    def passage_fields(self) -> tuple[str, ...]:
        """The context fields that are not categories."""
        return tuple(name for name in self.context_fields if name not in self.categories)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_fields(self)
        _check_labels(self)
        _check_answers(self)
        if self.metric and self.metric not in _METRICS[self.kind]:
            raise ValueError(f"metric {self.metric} does not suit a {self.kind} task; use {_METRICS[self.kind][0]}")
        if not (self.prompts.chat or self.prompts.completion):
            raise ValueError("prompts are missing: give `prompts.chat`, `prompts.completion` or both")
        empty = [name for name, values in self.attributes.items() if not values]
        if empty:
            raise ValueError(f"attribute {empty[0]} has no values; list some or remove it")
        _check_subjects(self)
        return self


def _check_fields(spec: TaskSpec) -> None:
    if len(set(spec.fields)) < len(spec.fields):
        raise ValueError(f"fields repeat a name: {', '.join(spec.fields)}")
    taken = next((name for name in spec.fields if name in TABLE_COLUMNS), None)
    if taken:
        way_out = f"call it {taken}_text, say, and map that to {taken!r} in `columns`"
        raise ValueError(f"field {taken!r} has the name of a column of s3ray's own tables; {way_out}")
    if spec.kind == "span" and spec.fields != _SPAN_FIELDS:
        raise ValueError(f"a span task has the fields [question, context], not [{', '.join(spec.fields)}]")
    if spec.writes not in spec.fields:
        raise ValueError(f"writes names {spec.writes!r}, which is not a field; fields are {', '.join(spec.fields)}")
    if spec.kind == "span" and spec.writes != "question":
        raise ValueError("a span task writes the question, for a given context and answer")
    stranger = next((name for name in spec.categories if name not in spec.context_fields), None)
    if stranger:
        given = ", ".join(spec.context_fields) or "none"
        raise ValueError(f"categories names {stranger!r}, which is not a given field; given fields are {given}")
    if spec.kind == "span" and spec.categories:
        raise ValueError("a span task has no categories: its context is a passage")
    strangers = [name for name in spec.columns if name not in spec.fields]
    if strangers:
        raise ValueError(f"columns names {strangers[0]!r}, which is not a field; fields are {', '.join(spec.fields)}")


def _check_subjects(spec: TaskSpec) -> None:
    asks = any(form and form.subjects for form in (spec.prompts.chat, spec.prompts.completion))
    if spec.subjects is None:
        if asks:
            raise ValueError("the prompt `subjects` needs `subjects`, the attribute whose place a subject takes")
        return
    if spec.subjects not in spec.attributes:
        known = ", ".join(spec.attributes) or "none"
        raise ValueError(f"subjects names {spec.subjects!r}, which is not an attribute; attributes are {known}")
    if SUBJECT in spec.attributes:
        raise ValueError(f"an attribute may not be called {SUBJECT!r} where `subjects` is set")


def _check_labels(spec: TaskSpec) -> None:
    if spec.kind == "span":
        if spec.labels:
            raise ValueError("a span task has no labels; remove `labels`")
        return
    if len(spec.labels) < 2:
        raise ValueError(f"a classification task needs two labels or more, not {len(spec.labels)}")
    for what, values in (
        ("name", [label.name for label in spec.labels]),
        ("value", [value for label in spec.labels for value in label.values]),
        ("words", [label.words for label in spec.labels]),
        ("answer (`says`)", [label.answer for label in spec.labels]),
    ):
        double = next((value for value in values if values.count(value) > 1), None)
        if double is not None:
            raise ValueError(f"two labels share the {what} {double!r}; each needs its own")


def _check_answers(spec: TaskSpec) -> None:
    """Answers must differ in the first word. Whether their first tokens differ is checked when the engine starts."""
    if not any(prompts and prompts.verify for prompts in (spec.prompts.chat, spec.prompts.completion)):
        return
    first = [label.answer.casefold().partition(" ")[0] for label in spec.labels]
    double = next((word for word in first if first.count(word) > 1), None)
    if double is not None:
        way_out = "give each its own short answer in `says`, as prompt `verify` asks for it"
        raise ValueError(f"two labels answer with the same first word, {double!r}; {way_out}")


def load_spec(path: Path) -> TaskSpec:
    """Read a task's YAML file.

    Raises:
        InputError: the file cannot be read, a field is wrong, or a template has an error or uses an unknown name.
    """
    with located(path):
        spec = validate(TaskSpec, read_yaml(path))
        for form, stage, part, source in template_parts(spec):
            check_template(source, legal_names(spec, stage), field=f"prompts.{form}.{stage}.{part}")
    return spec


def template_parts(spec: TaskSpec) -> list[tuple[Form, str, str, str]]:
    """All templates of a task as (form, template name, part, source)."""
    forms: dict[Form, BaseModel | None] = {"chat": spec.prompts.chat, "completion": spec.prompts.completion}
    return [
        (form, name, part, getattr(template, part))
        for form, prompts in forms.items()
        for name in (*NOTE_STAGES, "seed", "extrapolate", "verify")
        if (template := getattr(prompts, name, None)) is not None
        for part in ("system", "user", "text")
        if hasattr(template, part)
    ]


def legal_names(spec: TaskSpec, stage: str) -> frozenset[str]:
    """The names that a template may use: plain ones, and dotted ones such as ``context.premise``."""
    target = {"label", "labels"} if spec.kind == "classification" else {"answer"}
    varied = {f"vary.{name}" for name in spec.attributes}
    given = target | varied | {f"{section}.{name}" for section in ("context", "near") for name in spec.context_fields}
    by_stage = {
        # Not the label that was asked for, which would answer the question.
        "verify": {"labels" if spec.labels else "answer", *(f"fields.{name}" for name in spec.fields)},
        "reasons": target | {"num_reasons"},
        "subjects": target - {"label", "answer"} | varied | {"num_subjects"},
        "patterns": target - {"label", "answer"} | {"shown"},
        "seed": given | {"reasons", "shown"} | ({f"vary.{SUBJECT}"} if spec.subjects else set()),
        "extrapolate": given | {f"parent.{name}" for name in spec.fields} | {"predicted", "pattern", "shown"},
    }
    return frozenset(by_stage[stage])
