"""Decides which texts of a stage are kept: as examples, as notes, or as label probabilities of gold rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from s3ray.config.job import VERDICTS, CurationConfig
from s3ray.curation.calibrate import Calibration, calibrate
from s3ray.curation.duplicates import DuplicateIndex, NewText
from s3ray.curation.sketch_index import SketchIndex
from s3ray.strategies.base import RoundContext, StagePlan
from s3ray.strategies.requests import make_request
from s3ray.tasks import Task
from s3ray.types import Example, GenerationRequest, Outcome, Rejection, RejectionReason

_GOLD_KEYS = 48  # all that a sketch has to remember a text by: gold is small, and what is like it must not pass
_ROWS_AT_ONCE = 4096


class ExampleJudge:
    """Keeps texts that are copies neither of gold (any part of it) nor of a synthetic row that was kept before.

    With ``curation.verify`` the generator must also confirm their labels.
    """

    def __init__(
        self,
        task: Task,
        gold: Iterable[Example],
        kept: Iterable[Example],
        curation: CurationConfig,
        keep: Callable[[Example], None],
        calibration: Calibration | None = None,
        sketches: bool = False,
    ) -> None:
        """``kept`` are the synthetic rows of earlier rounds; ``keep`` is called with every new one.

        ``calibration`` corrects the generator's label probabilities. With ``sketches`` copies are looked for by
        sketches (``curation.sketch.uses_sketches``).
        """
        self._task = task
        self._curation = curation
        self._keep = keep
        self._calibration = calibration
        limits = curation.near_duplicate, curation.rouge_l
        gold = list(gold)
        self._gold = (
            SketchIndex(*limits, num_texts=len(gold), num_keys=_GOLD_KEYS) if sketches else DuplicateIndex(*limits)
        )
        self._synthetic = SketchIndex(*limits) if sketches else DuplicateIndex(*limits)
        _add(self._gold, ((example.id, NewText(example.fields[task.written])) for example in gold))
        if isinstance(self._gold, SketchIndex):
            self._gold.flush()
        rows = ((each.id, NewText(each.fields[task.written], self._scope(each.fields))) for each in kept)
        _add(self._synthetic, rows)

    def expect(self, coming: Sequence[tuple[GenerationRequest, Outcome]]) -> None:
        """Look the texts up together."""
        texts = [NewText(outcome.text, self._scope(request.context), outcome.sketch) for request, outcome in coming]
        self._synthetic.expect(texts)
        self._gold.expect([text._replace(scope="") for text in texts] if self._task.passage_fields else texts)

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """Keep the text as an example, or reject it as a copy, or because the generator doubts its label."""
        label_probabilities = outcome.label_probabilities
        if label_probabilities and self._calibration is not None:
            label_probabilities = self._calibration.of(label_probabilities)
        if self._curation.verify != "none" and (doubt := self._doubt(request, label_probabilities, outcome.detail)):
            return Rejection(reason=RejectionReason.DOUBTED, detail=doubt)
        copied = self._gold.find(outcome.text)
        if copied is not None:
            return Rejection(reason=RejectionReason.COPY_OF_GOLD, detail=f"of {copied[1]}")
        scope = self._scope(request.context)
        copied = self._synthetic.find(outcome.text, scope=scope)
        if copied is not None:
            return Rejection(reason=copied[0], detail=f"of {copied[1]}")
        example = self._task.example(request, outcome.text)
        self._synthetic.add(example.id, outcome.text, scope=scope)
        is_soft = self._curation.verify == "soft" and self._task.has_labels
        self._keep(replace(example, soft=label_probabilities) if is_soft else example)
        return None

    def _doubt(self, request: GenerationRequest, label_probabilities: Sequence[float], detail: str) -> str:
        """Why the generator doubts its text; empty if it does not. ``detail`` says why there are no probabilities."""
        if not label_probabilities:
            return detail or "the generator was not asked for its label"
        certainty = self._task.target.certainty(request, label_probabilities)
        if certainty >= self._curation.verify_least:
            return ""
        if not self._task.has_labels:
            return f"the generator finds the answer right with {certainty:.2f}"
        given = zip(self._task.labels, label_probabilities, strict=True)
        return f"asked for {request.label}, the generator gives {', '.join(f'{name} {p:.2f}' for name, p in given)}"

    def _scope(self, fields: Mapping[str, str]) -> str:
        return "\x1f".join(fields[name] for name in self._task.passage_fields)


def _add(index: DuplicateIndex | SketchIndex, rows: Iterable[tuple[str, NewText]]) -> None:
    """Add rows to an index, many at a time."""
    rows = iter(rows)
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        index.expect([text for _, text in some])
        for id, text in some:
            index.add(id, text.text, text.scope)


class NoteJudge:
    """Collects the notes that a stage lists, until there are enough for each key: K reasons per label (Algorithm 1).

    The requests of the stage take the keys in turn (``strategies.base.NoteStage``).
    """

    def __init__(self, task: Task, keys: Sequence[str], num_each: int) -> None:
        self.notes: dict[str, list[str]] = {key: [] for key in keys}
        self._task = task
        self._keys = keys
        self._num_each = num_each

    def expect(self, coming: Sequence[tuple[GenerationRequest, Outcome]]) -> None:
        """Nothing to prepare."""

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """Keep the items of an answer that are new."""
        kept = self.notes[self._keys[request.index % len(self._keys)]]
        read = self._task.read_notes(outcome.text)
        if not read:
            return Rejection(reason=RejectionReason.UNPARSABLE, detail="no item in it")
        known = {item.casefold() for item in kept}
        new = [item for item in dict.fromkeys(read) if item.casefold() not in known]
        if not new:
            return Rejection(reason=RejectionReason.DUPLICATE, detail="only what was known")
        kept.extend(new[: self._num_each - len(kept)])
        return None


def calibration_stage(context: RoundContext, num: int) -> StagePlan:
    """Ask for the labels of the first ``num`` rows of the extrapolation part, whose order is random."""
    requests = (
        make_request(context, VERDICTS, index, template="verify", label=row.label, given=row.fields)
        for index, row in enumerate(context.gold[:num])
    )
    return StagePlan(name=VERDICTS, requests=requests)


class CalibrationJudge:
    """Collects the label probabilities that the generator gives to gold rows."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._probabilities: list[Sequence[float]] = []
        self._truth: list[int] = []

    def expect(self, coming: Sequence[tuple[GenerationRequest, Outcome]]) -> None:
        """Nothing to prepare."""

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """Keep the probabilities, unless the generator named no label."""
        if not outcome.label_probabilities:
            return Rejection(reason=RejectionReason.UNPARSABLE, detail=outcome.detail)
        self._probabilities.append(outcome.label_probabilities)
        self._truth.append(self._task.labels.index(request.label or ""))
        return None

    def calibration(self) -> Calibration | None:
        """The calibration; None if the generator answered for too few rows of a label."""
        return calibrate(self._probabilities, self._truth, len(self._task.labels))
