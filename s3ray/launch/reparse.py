"""Parsing and curating the stored generations of a run again, without an engine, into a new lineage.

The requests are made once more, from the same fingerprint, notes and mistakes, so that each outcome in the journal
finds its request. The outcome's raw text is parsed again, and the usual driver and stages judge and close the rounds.
``fingerprint.json`` is written last: without it a lineage does not count.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console

from s3ray import __version__
from s3ray.config.job import NOTE_STAGES, RunConfig, to_yaml
from s3ray.config.load import set_fields, validate
from s3ray.config.shaping import changes_in_words, data_changes, fingerprint
from s3ray.errors import InputError, StoreError, located
from s3ray.launch.fingerprint import shaping_settings
from s3ray.monitor.terminal import say
from s3ray.rounds.driver import ROWS_BEFORE, Driver, Parts, rows_before
from s3ray.rounds.stage import Stage
from s3ray.storage.lineages import Lineage, following, lineage_of
from s3ray.storage.local import join, split
from s3ray.storage.run_folder import RunStore
from s3ray.strategies import make_strategy
from s3ray.strategies.base import StagePlan
from s3ray.tables import Chunk, outcomes_from_table, table_from_outcomes
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import GoldSplit, load_gold
from s3ray.telemetry.events import EventLog, Reparsed, RunStarted
from s3ray.types import FailureReason, GenerationRequest, Outcome, OutcomeStatus, Rejection, StudentJob, StudentResult


def reparse_run(run: str, changes: Mapping[str, Any], console: Console) -> str:
    """Write a new lineage from the finished rounds of a run; returns its folder. The run itself is only read.

    Raises:
        InputError: the run has no generations, or more than curation would change; nothing was written.
        StoreError: the journal does not fit the requests, or cannot be read.
    """
    old = RunStore.existing(run)
    config = _config(old, changes)
    task = load_task(config.task, config.data)
    gold = load_gold(task, config.gold, config.data)
    settings = _settings(old, config, task, gold)
    if not config.generates or not old.rounds():
        hint = "It needs a generator and a finished round. Chunks of an unfinished round stay where they are."
        raise InputError("has no generations to read again", where=old.root, hint=hint)
    folder, first = split(old.root)
    place, lineage = following(join(folder, lineage_of(old).of if lineage_of(old).number > 1 else first))
    lineage = replace(lineage, parent=old.name)
    new = RunStore(place)
    with new.lock(partial(say, console)):
        new.write_text("config.yaml", to_yaml(config))
        _write_rounds(old, new, config, task, gold, lineage, fingerprint(settings))
        new.create(
            settings,
            to_yaml(config),
            lineage=lineage.as_dict(),
            task=task.spec.model_dump(mode="json"),
            requests=old.requests,
        )
    _print_summary(old, new, console)
    return place


def _config(old: RunStore, changes: Mapping[str, Any]) -> RunConfig:
    for field in changes:
        if not field.startswith("curation.") and field not in ("task", "data"):
            hint = "Only curation.* and the paths of task and data may change; for the rest begin with `run --fresh`."
            raise InputError("changes more than curation", where="--set", field=field, hint=hint)
    with located(old.url("config.yaml")):
        config = validate(RunConfig, set_fields(old.read_config(), changes))
    if config.curation.verify != "none" and old.read_config()["curation"]["verify"] == "none":
        hint = "Its generator was never asked; begin with `run --fresh`."
        value = config.curation.verify
        raise InputError("needs verdicts, which this run does not have", old.root, "curation.verify", value, hint)
    calibrate, asked = config.curation.calibrate, old.read_config()["curation"].get("calibrate", 0)
    if config.curation.verify != "none" and calibrate not in (0, asked):
        hint = f"Leave it out, set it to 0, or begin with `run --fresh`; the generator judged up to {asked} gold rows."
        raise InputError("needs other verdicts than this run has", old.root, "curation.calibrate", str(calibrate), hint)
    return config


def _settings(old: RunStore, config: RunConfig, task: Task, gold: GoldSplit) -> dict[str, Any]:
    """The new lineage's settings, which may differ from the old ones in curation and the task's word limits only."""
    known = old.identity()
    settings = shaping_settings(config, task, gold)
    for part in ("generator", "student"):  # identified by content when the run began; no model need be here now
        settings[part]["model"] = known["settings"][part]["model"]
    if adapter := known["settings"]["generator"].get("adapter"):
        settings["generator"]["adapter"] = adapter
    spec = task.spec.model_dump(mode="json")
    flexible = ("curation", "task_content")
    places = {"gold_content": str(task.data or config.task)}
    lines = changes_in_words(_without(known["settings"], *flexible), _without(settings, *flexible), places)
    lines += data_changes(_without(known.get("task", spec), "limits"), _without(spec, "limits"), "task: ")
    if lines:
        hint = "The requests would differ. Undo that, or begin a new lineage with `s3ray run --fresh`."
        raise InputError(f"was made with other settings: {'; '.join(lines)}", where=old.root, hint=hint)
    return settings


def _without(tree: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}


def _write_rounds(
    old: RunStore,
    new: RunStore,
    config: RunConfig,
    task: Task,
    gold: GoldSplit,
    lineage: Lineage,
    own_fingerprint: str,
) -> None:
    events = EventLog(new, config.name, attempt=1)
    strategy = config.strategy
    events.emit(
        RunStarted(
            task=task.name,
            strategy=strategy.name,
            generator=config.generator.model or config.generator.engine,
            student=config.student.model,
            rounds=make_strategy(strategy).last_round,
            engines=0,
            workers=0,
            version=__version__,
            fingerprint=own_fingerprint,
            lineage=lineage,
            resumed=False,
        )
    )
    parts = Parts(
        config=config,
        task=task,
        gold=gold,
        store=new,
        events=events,
        requests=old.requests,
        generator=_NothingMore(),
        trainer=_NoTrainer(),
    )
    journal = _OldJournal(old, new, config, task)
    driver = Driver(parts, journal)
    driver.keep_gold()
    for round_ in old.rounds():
        journal.bring_inputs(round_)
        driver.write_round(round_)
    events.emit(Reparsed(parent=old.name, rounds=tuple(new.rounds())))


class _NothingMore:
    """A generator without engines: all outcomes are in the journal already."""

    works_while_training = False

    def generate(self, source: Stage) -> Iterator[Chunk]:
        source.end()
        yield from ()

    def pause(self) -> None:
        """Nothing is running."""


class _NoTrainer:
    def train(self, job: StudentJob) -> StudentResult:
        raise NotImplementedError("students of a new lineage are trained by `s3ray run`")


class _OldJournal:
    """Copies from the old lineage to the new one: the inputs of its rounds, and its outcomes, parsed again."""

    def __init__(self, old: RunStore, new: RunStore, config: RunConfig, task: Task) -> None:
        self._old = old
        self._new = new
        self._task = task
        self._clean = config.curation.clean
        self._strategy = make_strategy(config.strategy)

    def bring_inputs(self, round_: int) -> None:
        """Copy the inputs of the round's requests: mistakes, probes, rows and notes."""
        if round_:
            whole = self._old.mistakes_before(round_)
            for name in dict.fromkeys([*self._old.mistake_blocks(round_), whole]):
                own = self._new.in_round(round_, name.removeprefix(whole.removesuffix("mistakes.parquet")))
                self._new.write_table(own, self._old.read_table(name))
            for name in (f"probes/{probed}.parquet" for probed in self._strategy.probes):
                table = self._old.read_table(self._old.source(round_, name))
                self._new.write_table(self._new.in_round(round_, name), table)
        if round_ and self._strategy.reads_rows:
            self._new.write_table(
                self._new.in_round(round_, ROWS_BEFORE), rows_before(self._old, self._strategy, round_)
            )
        for stage in NOTE_STAGES:
            notes = self._new.notes(round_, stage)
            if self._old.has(notes):
                self._new.write_json(notes, self._old.read_json(notes))

    def fill(self, round_: int, plan: StagePlan) -> StagePlan:
        """Parse the old outcomes of a stage again; see ``JournalSource``."""
        drawn: dict[int, GenerationRequest] = {}
        for chunk in self._old.read_chunks(round_, plan.name):
            outcomes = [self._read_again(plan, drawn, outcome) for outcome in outcomes_from_table(chunk)]
            self._new.write_chunk(round_, plan.name, table_from_outcomes(outcomes))
        return replace(plan, requests=itertools.chain(drawn.values(), plan.requests))

    def _read_again(self, plan: StagePlan, drawn: dict[int, GenerationRequest], outcome: Outcome) -> Outcome:
        while outcome.index not in drawn and (request := next(plan.requests, None)) is not None:
            drawn[request.index] = request
        asked = drawn.get(outcome.index)
        if asked is None or asked.id != outcome.request_id:
            raise StoreError(
                f"{self._old.root}: the journal of stage {plan.name} has the outcome of a request that is no longer "
                f"made ({outcome.request_id})",
                "Another version of s3ray wrote it, or the task's prompts, labels or attributes have changed.",
            )
        return read_again(self._task, asked, outcome, clean=self._clean)


def read_again(task: Task, request: GenerationRequest, outcome: Outcome, *, clean: bool) -> Outcome:
    """Parse the raw text of an outcome by today's rules; a request that no engine answered stays failed."""
    if request.template == "verify" or (outcome.status is OutcomeStatus.FAILED and not outcome.raw):
        return outcome
    try:
        read = task.read(request, outcome.raw, outcome.finish_reason, clean=clean)
    except Exception as error:  # as in the actor, an error becomes the outcome of its request
        detail = f"{type(error).__name__}: {error}"
        return outcome._replace(status=OutcomeStatus.FAILED, reason=FailureReason.ERROR.value, detail=detail, text="")
    if isinstance(read, Rejection):
        return outcome._replace(status=OutcomeStatus.REJECTED, reason=read.reason.value, detail=read.detail, text="")
    return outcome._replace(status=OutcomeStatus.ACCEPTED, reason="", detail="", text=read.text)


def _print_summary(old: RunStore, new: RunStore, console: Console) -> None:
    for num in new.rounds():
        was, now = (store.read_json(store.round_report(num)) for store in (old, new))
        line = f"round {num}: {now['accepted']} of {now['requested']} accepted, {was['accepted']} before"
        short = {name: stage["short"] for name, stage in now["stages"].items() if stage["short"]}
        lacks = "".join(
            f"; {name} is short of {', '.join(f'{num} {label}'.strip() for label, num in missing.items())}"
            for name, missing in short.items()
        )
        say(console, line + lacks)
    say(console, f"New lineage: {new.root}\n`s3ray run` with these settings goes on with it: it trains the students.")
