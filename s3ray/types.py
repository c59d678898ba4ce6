"""The values that cross a process boundary: frozen, picklable, and free of heavy imports.

Terms are the paper's (S3, arXiv 2310.13671): a *mistake* is a gold example that the student answers wrongly, *seed*
examples are written without regard to mistakes, *extrapolated* ones from a mistake.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Source(StrEnum):
    """Where an example comes from."""

    GOLD = "gold"
    SEED = "seed"
    EXTRAPOLATED = "extrapolated"
    IMITATED = "imitated"


AHEAD = "ahead"
"""The stage that is written from mistakes of the student before the last one (``strategy.ahead``)."""


class RejectionReason(StrEnum):
    """Why a generation does not become an example. The list is complete: reports account for every request by it."""

    EMPTY = "empty"
    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    UNPARSABLE = "unparsable"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    COPY_OF_PARENT = "copy_of_parent"
    COPY_OF_GOLD = "copy_of_gold"
    DOUBTED = "doubted"
    SURPLUS = "surplus"


class FailureReason(StrEnum):
    """Why a request never became a generation. The list is complete; the comments say what is tried before that.

    The loss of an engine is not a reason: its requests are sent to other engines. A request that was in flight when two
    engines died is then sent alone.
    """

    REFUSED_BY_ENGINE = "refused_by_engine"  # final at once: the engine will refuse it again
    TIMEOUT = "timeout"  # it was sent once more, to another engine if there is one
    POISON = "poison"  # it was in flight when two engines died, and two more died when it ran alone
    ERROR = "error"  # final at once: rendering or reading it would fail in the same way again


class OutcomeStatus(StrEnum):
    """The three ways in which a request can end."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An answer of extractive question answering: its text, and the position of its first character in the context."""

    text: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an example comes from, from which round, and from which gold example (``parent`` is its id).

    ``off_policy``: the parent was a mistake of the student before the last one at that time (stage ``AHEAD``).
    """

    source: Source
    round: int = 0
    parent: str | None = None
    off_policy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled row of a task.

    ``fields`` maps the task's input fields to texts. Classification sets ``label`` (a label's *name*, never its
    number); extractive question answering sets ``answers`` (several for gold rows that have several references).
    ``soft`` is the probability of each label, in the task's order, where the generator was asked for it; empty: the
    label is certain.
    """

    id: str
    fields: Mapping[str, str]
    label: str | None = None
    answers: tuple[Span, ...] = ()
    soft: tuple[float, ...] = ()
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A gold example that the student got wrong: the input of error extrapolation (paper, Algorithm 2).

    ``predicted`` is the label name or answer text that the student gave, ``confidence`` its probability in [0, 1].
    """

    example: Example
    predicted: str
    confidence: float


class GenerationRequest(NamedTuple):
    """What to write, not how to word it: the actor renders the prompt from a template of the task.

    ``template`` names the prompt of the task (``seed``, ``extrapolate``, a note's). ``index`` is the position in the
    stage's sequence; outcomes are judged in this order, whatever the order of arrival. Requests of one ``group`` share
    a prompt prefix. ``context`` holds the fields that are given rather than written, ``answer`` the answer to ask for
    (span tasks), ``parent`` the gold example to imitate, ``predicted`` the student's wrong answer to it, ``pattern`` a
    description of such mistakes, ``shown`` other examples for the prompt, ``near`` the given fields of another row that
    are most similar to ``context``, and ``max_tokens`` the request's own limit in place of the job's. ``served_task``
    names the run whose prompts and rules apply if several runs share the engine. A tuple, because millions are sent
    (``generator.actor.pack``).
    """

    id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which means nothing here
    stage: str
    round: int
    template: str
    group: str
    seed: int
    label: str | None = None
    context: Mapping[str, str] = {}
    answer: Span | None = None
    reasons: tuple[str, ...] = ()
    attributes: Mapping[str, str] = {}
    parent: Example | None = None
    predicted: str | None = None
    pattern: str = ""
    shown: tuple[Example, ...] = ()
    near: Mapping[str, str] = {}
    variant: int = 0
    max_tokens: int | None = None
    served_task: str = ""


NOT_YET = GenerationRequest(id="", index=-1, stage="", round=-1, template="", group="", seed=0)
"""Stands in the sequence of a stage while the next request is not known yet. Has no position, and is never sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered prompt: chat messages (``system`` may be empty) or, for base and tiny models, a text to continue.

    Exactly one of ``user`` and ``text`` is set. With ``choices`` the answer is one of them, and the engine is asked for
    their probabilities. ``stop`` are strings at which the completion ends; the punctuation of the one that was matched
    is kept, without quotes and whitespace (``". "`` leaves the full stop).
    """

    user: str | None = None
    system: str = ""
    text: str | None = None
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat messages, as vLLM, Hugging Face and OpenAI take them."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": self.user or ""}]
        return messages if self.system else messages[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What an engine wrote for one request. ``finish_reason`` is ``stop`` or ``length`` (cut at ``max_tokens``)."""

    request_id: str
    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A generation that could be used: the written text, cleaned."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A generation that cannot be used, and why; ``detail`` is human-readable."""

    reason: RejectionReason
    detail: str = ""


class Outcome(NamedTuple):
    """How one request ended at an engine, as it is written to the journal.

    ``text`` is the cleaned text of an accepted outcome, ``raw`` what the engine wrote (kept, so that a better parser
    can read it again without an engine). Whether an accepted outcome enters the dataset is decided later, in the order
    of ``index``, by the checks that need other rows (duplicates, copies of gold, quotas). ``label_probabilities`` are
    the generator's own probabilities of the labels, if it was asked. Token counts cover every try, ``seconds`` the time
    at the engine that answered. ``sketch`` (``curation.sketch``) travels with it to the search for copies, and is not
    written to the journal. A tuple, because millions are converted to Arrow columns and back (``tables``).
    """

    request_id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which means nothing here
    status: OutcomeStatus
    reason: str = ""
    detail: str = ""
    text: str = ""
    raw: str = ""
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    engine: str = ""
    attempt: int = 0
    seconds: float = 0.0
    label_probabilities: tuple[float, ...] = ()
    sketch: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """The limits that an engine resolved, and its device; ``device_name`` is the model of the device, if known.

    ``notes`` say in words where the engine departs from what the job asks, because its server takes no more.
    ``start_s`` says where the seconds of its start went, as far as it is known: ``turn`` (waiting for other engines on
    the node), ``memory`` (waiting for free memory), ``weights``, ``compile``, ``profile``, ``graphs``.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_kv_tokens: int
    dtype: str
    device: str
    device_name: str = ""
    notes: tuple[str, ...] = ()
    start_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The statistics that an engine reports.

    ``num_running`` and ``num_waiting`` are sequences at this moment, ``kv_use`` the share of the KV cache in use (0 to
    1); the other counts and ``busy_s`` (seconds with a request under way) accumulate from its start. ``num_replies``
    counts all answers of an endpoint, also errors, as a sign of life. ``capacity`` is how many sequences the engine
    wants at once, if that changes (an endpoint that answers 429); None means its resolved limit.
    """

    num_running: int = 0
    num_waiting: int = 0
    kv_use: float = 0.0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    num_replies: int = 0
    busy_s: float = 0.0
    capacity: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """An engine's part in a chunk (``rows`` and ``output_tokens``), and its state at that moment.

    ``running`` and ``waiting`` are sequences, ``kv_use`` is from 0 to 1. ``prompt_tokens``, ``cached_tokens``,
    ``preemptions`` and ``busy_s`` (seconds with a request under way) accumulate from the start of its process, after
    ``restarts`` restarts. ``own_busy_s`` is the run's share of the engine's busy seconds since the last chunk if runs
    share the engine, else None.
    """

    rows: int = 0
    output_tokens: int = 0
    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    restarts: int = 0
    busy_s: float = 0.0
    own_busy_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The metrics of a student on one part of gold, in [0, 1]; ``main`` names the one that decides."""

    main: str
    values: Mapping[str, float]
    num_examples: int

    @property
    def value(self) -> float:
        """The metric that decides."""
        return self.values[self.main]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentJob:
    """One student to train from the base checkpoint. All paths must be reachable by every worker.

    The student is trained on ``train_path``, its epoch chosen on ``select_path``, its mistakes mined on ``mine_path``,
    and it is scored on ``test_path`` if that is given (for the last student only). Files are example tables
    (``tables.table_from_examples``). The folder ``output`` receives model and tokenizer. ``checker`` is the folder of a
    student trained on gold, by whose probabilities rows are weighed (``student.weigh``). ``probes`` are example tables
    by name; what the student predicts for each is written to ``probes/NAME.parquet`` in ``output``
    (``tables.PROBE_SCHEMA``).
    """

    round: int
    train_path: str
    select_path: str
    mine_path: str | None
    test_path: str | None
    output: str
    seed: int
    checker: str | None = None
    probes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One epoch of training: mean loss per row, score on the selection part, seconds of its steps."""

    epoch: int
    loss: float
    select: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A student's answer to one example: label name or text, its probability, and the main metric of this row."""

    id: str
    predicted: str
    confidence: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentResult:
    """A trained student: its scores, and the seconds of each phase (``start``, ``train``, ``score``).

    ``train`` and ``score`` count from the last start of the workers; time lost by the death of a worker counts as
    ``start``. Mistakes are on disk.
    """

    round: int
    num_rows: int
    best_epoch: int
    epochs: tuple[EpochReport, ...]
    select: Score
    mine: Score | None
    test: Score | None
    test_answers: tuple[Answer, ...] = ()
    seconds: Mapping[str, float]
