"""The Python API: load, plan and run a job, compare many, and read a run.

Nothing here prints, sets up logging or closes a Ray that it did not start. Ray, torch, transformers and datasets are
imported by the calls that use them.
"""

import contextlib
import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3ray.config.grid import load_campaign
from s3ray.config.job import RunConfig
from s3ray.config.load import read_yaml, set_fields, validate
from s3ray.errors import InputError, located
from s3ray.monitor.metrics import Metrics, RoundMetrics, build_metrics, read_metrics
from s3ray.report.export import written_rows
from s3ray.report.run import write_report
from s3ray.storage.local import join
from s3ray.storage.run_folder import METRICS, RunStore
from s3ray.tasks.given import write_rows, write_task
from s3ray.tasks.spec import TaskSpec
from s3ray.telemetry.events import Event, Listener, read_events

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from s3ray.campaign.run import Comparison
    from s3ray.launch.run import Callbacks, Plan

JobLike = str | Path | Mapping[str, Any] | RunConfig
"""A job: the path of its file, a dict of its fields, or the config that ``load_job`` returned."""


def load_job(job: JobLike, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read and check a job: its file, a dict of its fields, or a job that was loaded before.

    ``overrides`` maps dotted fields (``generator.engines``) to values and wins. Some fields can be more than a file can
    say: a strategy or an engine may be its class, ``task`` a ``TaskSpec`` or a dict of its fields (its ``data`` is then
    relative to the working directory), and ``data`` rows in memory: a ``datasets.Dataset``, dicts of columns, or either
    by split (train, validation, test). Task and rows in memory are written below ``~/.cache/s3ray/given``
    (``XDG_CACHE_HOME``), in a folder named by their content, so that the same task and rows make the same job again.

    Raises:
        InputError: the file is missing or not YAML, or a field is unknown, missing or of the wrong type or value.
    """
    with _located(job):
        if isinstance(job, RunConfig):
            fields = job.model_dump()
        elif isinstance(job, Mapping):
            # A copy, because fields are changed below, except for the rows, which may be many and are only read.
            fields = {name: value if name == "data" else copy.deepcopy(value) for name, value in job.items()}
        else:
            fields = read_yaml(Path(job))
        set_fields(fields, overrides or {})
        task, data = fields.get("task"), fields.get("data")
        if isinstance(task, Mapping):
            with located("task"):
                task = validate(TaskSpec, dict(task))
        if isinstance(task, TaskSpec):
            fields["task"] = str(write_task(task))
            data = data if data is not None else task.data
        if data is not None:
            fields["data"] = str(data) if isinstance(data, str | Path) else str(write_rows(data))
        return validate(RunConfig, fields)


def plan(job: JobLike, *, out: str | Path | None = None, fresh: bool = False) -> "Plan":
    """Check a job and return what ``run`` would start (``print`` shows it). Starts and writes nothing.

    Raises:
        InputError: the job cannot run.
    """
    with _located(job):
        config = load_job(job)
        bring_ray_token()
        from s3ray.launch.run import plan_job

        return plan_job(config, folder_of(config, out), fresh=fresh)


def run(
    job: JobLike,
    *,
    out: str | Path | None = None,
    fresh: bool = False,
    local: bool = False,
    on_event: Listener | None = None,
    on_note: Callable[[str], None] | None = None,
) -> "Run":
    """Run a job to the end, or go on where an interrupted start of it stopped.

    ``out`` is the run's folder or URL; default: the job's store and name. ``fresh`` begins a new lineage beside the
    old ones. ``on_event`` is called with every event of this start once it is on disk, in the thread where it happens.
    ``on_note`` is called with texts that say which cluster is used and what the run waits for. If this process has a
    Ray open, that is used and stays open; else one is joined or started as ``cluster.address`` says, and left at the
    end. ``local`` is for a debugger: everything happens in this process, with one engine and without Ray.

    Raises:
        InputError: the job cannot run; nothing was started and nothing on disk was touched.
        RunError: the run could not go on; the message says what is safe. The same call goes on from there.
    """
    with _located(job):
        config = load_job(job)
        bring_ray_token()
        from s3ray.launch.run import run_job

        callbacks = _callbacks(on_event, on_note)
        return Run(run_job(config, folder_of(config, out), fresh=fresh, local=local, callbacks=callbacks))


def compare(
    grid: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    command: str | None = None,
    on_event: Listener | None = None,
    on_note: Callable[[str], None] | None = None,
) -> "Comparison":
    """Run a grid of jobs on one cluster, with engines that they share, and compare their scores.

    ``overrides`` maps dotted fields of the grid, of a value or (``job.``) of all jobs to values. Goes on where an
    interrupted start stopped. The page of the comparison quotes ``command`` as the command that made it; default: this
    call. ``on_event`` is called with the events of all runs, in their threads; ``event.run`` names the run. A run that
    fails does not stop the others: the result lists it in ``failed``, and its ``raise_failed()`` raises the error.

    Raises:
        InputError: the grid or one of its jobs is wrong; nothing was started.
    """
    campaign = load_campaign(grid, overrides)
    bring_ray_token()
    from s3ray.campaign.run import run_campaign

    folder = str(out) if out is not None else join(campaign.runs[0].config.store, campaign.config.name)
    call = ", ".join(map(repr, [str(grid), *([dict(overrides)] if overrides else [])]))
    callbacks = _callbacks(on_event, on_note)
    return run_campaign(campaign, folder, command=command or f"s3ray.compare({call})", callbacks=callbacks)


def open(folder: str | Path) -> "Run":  # as in `s3ray.open`
    """Open the folder or URL of a run, finished or not, for reading.

    Raises:
        InputError: there is no such folder, or it is not a run's.
    """
    return Run(RunStore.existing(folder))


class Run:
    """A run, finished or not, read from its folder."""

    def __init__(self, store: RunStore) -> None:
        """Use ``run`` or ``open``."""
        self._store = store

    def __repr__(self) -> str:
        return f"Run({self.folder!r})"

    @property
    def folder(self) -> str:
        """The run's folder: an absolute path, or a URL."""
        return self._store.root

    @property
    def config(self) -> RunConfig:
        """The job with all defaults, and with the settings that depend on the cluster resolved.

        Raises:
            InputError: config.yaml cannot be read, or another version of s3ray wrote fields that this one lacks.
        """
        with located(self._store.url("config.yaml")):
            return validate(RunConfig, self._store.read_config())

    @property
    def metrics(self) -> Metrics:
        """The metrics of the run: those in metrics.json if it is finished, else those so far.

        Raises:
            StoreError: a file cannot be read.
        """
        if self._store.has(METRICS):
            return read_metrics(self._store)
        return build_metrics(self._store, list(self.events()))

    @property
    def rounds(self) -> tuple[RoundMetrics, ...]:
        """The rounds of ``metrics``; round 0 is the seed set."""
        return self.metrics.rounds

    def events(self) -> Iterator[Event]:
        """The events of all starts of the run, oldest first.

        Raises:
            StoreError: the events cannot be read.
        """
        return read_events(self._store)

    def dataset(self) -> "datasets.Dataset":
        """The synthetic rows that the newest student learns from, in the order of their rounds.

        Raises:
            InputError: there is no finished round, or none with rows.
            StoreError: a file of the run cannot be read.
        """
        import datasets

        return datasets.Dataset(written_rows(self._store))

    def student(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The newest student: a transformers model, and its tokenizer.

        Raises:
            InputError: no student is trained yet.
        """
        students = self._store.students()
        if not students:
            hint = "Let the same call of `run` go on until a student is trained."
            raise InputError("has no trained student", where=self.folder, hint=hint)
        import transformers

        from s3ray.student.model import saved_student

        is_span = self.metrics.kind == "span"
        head = (
            transformers.AutoModelForQuestionAnswering if is_span else transformers.AutoModelForSequenceClassification
        )
        runs_code = self.config.student.trust_remote_code
        with saved_student(self._store.url(self._store.in_student(students[-1], ""))) as folder:
            model = head.from_pretrained(folder, use_safetensors=True, trust_remote_code=runs_code)
            return model, transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=runs_code)

    def report(self) -> str:
        """Write report.html again from the files of the run; returns its path or URL.

        Raises:
            StoreError: a file of the run cannot be read, or the report cannot be written.
        """
        return write_report(self._store)


def _located(job: JobLike) -> contextlib.AbstractContextManager[None]:
    """A context in which errors name the job's file, if it has one."""
    return located(job) if isinstance(job, str | Path) else contextlib.nullcontext()


def folder_of(config: RunConfig, out: str | Path | None) -> str:
    """The folder or URL of a job's run: ``out``, or the job's name in its store."""
    return str(out) if out is not None else join(config.store, config.name)


def _callbacks(on_event: Listener | None, on_note: Callable[[str], None] | None) -> "Callbacks":
    from s3ray.launch.run import Callbacks, ignore

    return Callbacks(on_event=on_event or ignore, on_note=on_note or ignore)


def bring_ray_token() -> None:
    """Let Ray send this machine's token, which its clusters ask for since 2.60; must happen before Ray is imported."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    with contextlib.suppress(RuntimeError):  # no HOME, and a user without an entry
        file = str(Path(file).expanduser())
    if "ray" not in sys.modules and (os.environ.get("RAY_AUTH_TOKEN") or os.access(file, os.R_OK)):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
