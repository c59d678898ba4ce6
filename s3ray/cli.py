"""The command line: a function for each command.

Exit codes: 0 done; 2 the input is wrong and nothing was started; 3 the run could not go on and what is on disk is
safe; 130 and 143 stopped by Ctrl-C and by SIGTERM; 1 an error of s3ray's own.
"""

import contextlib
import shlex
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from s3ray import api
from s3ray.config.job import RunConfig
from s3ray.config.load import parse_settings
from s3ray.errors import InputError, S3RayError, located, of_machine
from s3ray.monitor.campaign import milestone_of_run
from s3ray.monitor.run_view import RunView
from s3ray.monitor.terminal import Progress, Terminal, make_progress, say, summary_table
from s3ray.redaction import mask
from s3ray.report.export import labels_without_rows
from s3ray.stopping import heard_signals, is_output_lost, make_output_safe
from s3ray.storage.lineages import newest
from s3ray.storage.local import join
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import Event, read_events
from s3ray.telemetry.logs import log_from

app = typer.Typer(
    name="s3ray",
    help="Let a large language model write the training set of a small model, guided by the small model's mistakes.\n\n"
    "Start with: s3ray plan jobs/quickstart.yaml, then s3ray run jobs/quickstart.yaml. Your own data: s3ray init DATA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

JobFile = Annotated[Path, typer.Argument(help="The job: a YAML file such as jobs/quickstart.yaml.", metavar="JOB.yaml")]
RunFolder = Annotated[str, typer.Argument(help="A run's folder or URL, such as runs/quickstart.", metavar="RUN")]
Out = Annotated[
    str | None,
    typer.Option("--out", help="The run's folder or URL; default: the job's store and name.", metavar="DIR"),
]
Tune = Annotated[
    bool, typer.Option("--tune", help="Search for the settings that write fastest, and write them as a job file.")
]
Lossy = Annotated[bool, typer.Option("--lossy", help="With --tune: also try those that change the texts (fp8).")]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Begin a new lineage beside the old ones (NAME.2, NAME.3 ...), which stay."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one field, e.g. --set generator.engines=4.", metavar="FIELD=VALUE"),
]


@app.command()
def init(
    data: Annotated[
        Path,
        typer.Argument(help="All labelled rows: a .csv, .jsonl or .parquet file with column names.", metavar="DATA"),
    ],
    label: Annotated[
        str | None, typer.Option("--label", help="The column with the label; default: guessed.", metavar="COLUMN")
    ] = None,
    writes: Annotated[
        str | None,
        typer.Option("--writes", help="The text that is to be written; default: the longest.", metavar="COLUMN"),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            "--leave-out",
            help="Rows not to be used: unlabelled, or contradictory (one text with several labels).",
            metavar="KIND",
        ),
    ] = None,
) -> None:
    """Write a first task and job for a file of labelled rows into this folder, to be edited and run.

    Says which column it took for what, and asks where it cannot tell. Never overwrites.
    """
    from s3ray.tasks.draft import draft

    made, console = draft(data, label, writes, leave_out or ()), _console()
    made.write()
    task, job = made.files
    then = shlex.join(["s3ray", "plan", job])
    lines = (*made.guesses, f"Written: {task}, {job}", f"Edit the words and prompts in {task}, then: {then}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


@app.command()
def run(
    job: JobFile,
    out: Out = None,
    set_: Settings = None,
    fresh: Fresh = False,
    local: Annotated[
        bool, typer.Option("--local", help="In this process, with one engine and without Ray: for a debugger.")
    ] = False,
) -> None:
    """Run a job to the end, or go on where an interrupted start of it stopped.

    Live progress on a terminal, plain lines elsewhere. Ends with a table of the rounds; the folder then holds the
    student, the dataset, metrics.json and report.html.
    """
    config, console = _load(job, set_), _console()
    folder = api.folder_of(config, out)
    with located(job), _Progress(console, folder) as progress:
        log_from(run=config.name)
        note = partial(_note, console)
        ended = api.run(config, out=folder, fresh=fresh, local=local, on_event=progress, on_note=note)
    console.print(summary_table(ended.metrics))
    if lacking := labels_without_rows(RunStore(ended.folder)):
        told = f"WARNING: no synthetic row of {len(lacking)} labels: {', '.join(lacking)}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Run folder: {ended.folder}", soft_wrap=True, highlight=False)
    console.print(f"Report: {join(ended.folder, 'report.html')}", soft_wrap=True, highlight=False)


@app.command()
def plan(job: JobFile, out: Out = None, set_: Settings = None, fresh: Fresh = False) -> None:
    """Check a job and say what would be started, without starting it."""
    with located(job):
        planned = api.plan(_load(job, set_), out=out, fresh=fresh)
    name = planned.config.name
    _console().print(Text.assemble((name, "bold"), str(planned).removeprefix(name)), soft_wrap=True)


@app.command()
def compare(
    grid: Annotated[Path, typer.Argument(help="The grid: a YAML file such as jobs/compare.yaml.", metavar="GRID.yaml")],
    out: Annotated[
        str | None,
        typer.Option("--out", help="The campaign's folder or URL; default: the store and the name.", metavar="DIR"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one field of the grid, of a value or of all jobs, e.g. --set seeds=[0,1], "
            "--set axes.task.qnli.data=DIR, --set job.generator.engines=4.",
            metavar="FIELD=VALUE",
        ),
    ] = None,
) -> None:
    """Run a grid of jobs on one cluster, with engines that they share, and compare their scores.

    Every run has a folder of its own. Goes on where an interrupted start of it stopped; where all runs are finished, it
    compares them again, and needs neither models, data nor a cluster.
    """
    console = _console()
    changes, command = parse_settings(set_ or ()), shlex.join(["s3ray", *sys.argv[1:]])

    def tell(event: Event) -> None:
        if (line := milestone_of_run(event)) is not None:
            say(console, line)

    log_from(run=grid.stem)
    compared = api.compare(grid, changes, out=out, command=command, on_event=tell, on_note=partial(say, console))
    if compared.page is not None:
        console.print(Markdown(str(compared)))
        console.print(f"Comparison: {compared.page}", soft_wrap=True, highlight=False)
    compared.raise_failed()


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(help="The job, or the grid of a comparison.", metavar="JOB.yaml")],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Ray's dashboard; default: RAY_API_SERVER_ADDRESS, a RAY_ADDRESS that is a URL, http://127.0.0.1:8265.",
            metavar="URL",
        ),
    ] = None,
    out: Out = None,
    set_: Settings = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="An environment variable of the job; no secrets.", metavar="NAME=VALUE"),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show the job's log until it ends; its exit code is the command's.")
    ] = True,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="Submit a job that failed again so often; it goes on.")
    ] = 0,
) -> None:
    """Run a job, or a comparison, on a Ray cluster that s3ray is installed on.

    Sends the job file, and the task and data that it names by relative path. Ctrl-C leaves the job running.
    """
    if retries and not wait:
        hint = "Only a command that waits sees the job fail."
        raise InputError("needs --wait", where="--retries", value=str(retries), hint=hint)
    from s3ray.launch.submit import dashboard, environment, pack, submit_job

    bundle = pack(job, out, set_ or ())
    variables = environment(env or (), bundle.key_variables)
    submit_job(bundle, dashboard(address), variables, _console(), wait=wait, retries=retries)


@app.command()
def bench(
    job: JobFile,
    tune: Tune = False,
    lossy: Lossy = False,
    engines: Annotated[
        str | None, typer.Option("--engines", help="Engine counts, e.g. 1,2,4; default: the job's.", metavar="N,N")
    ] = None,
    max_num_seqs: Annotated[
        str | None,
        typer.Option("--max-num-seqs", help="Sequences that one engine decodes at once.", metavar="N,N"),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="seed, extrapolate; default: all that the strategy writes.", metavar="SET,SET"),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", min=1, help="Of each cell; default: 8 times what the largest decodes at once."),
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="How often the sweep is measured.")] = 1,
    min_seconds: Annotated[
        float, typer.Option("--min-seconds", min=0, help="Cells with a shorter steady window are flagged.")
    ] = 10.0,
    out: Annotated[
        str | None,
        typer.Option("--out", help="A folder or URL; default: NAME-bench or NAME-tune in the store.", metavar="DIR"),
    ] = None,
    set_: Settings = None,
) -> None:
    """Measure how fast a job's engines write: engine counts x batch limits x sets of prompts.

    Writes profile.json and prints the table. Each cell loads its engines, warms them up, and then measures the requests
    of the job's own strategy up to the examples that a run would keep.

    With --tune it searches for faster settings, and writes them as NAME-tuned.yaml. A search that was stopped goes on.
    """
    config = _load(job, set_)
    if tune:
        given = {"--engines": engines, "--max-num-seqs": max_num_seqs, "--prompts": prompts}
        _tune(job, config, parse_settings(set_ or ()), given, out, requests=requests, lossy=lossy)
        return
    if lossy:
        raise InputError("needs --tune", where="--lossy", hint="The sweep measures the job's own number formats.")
    from s3ray.bench.run import bench_job
    from s3ray.bench.sweep import Options

    options = Options(
        engines=engines,
        max_num_seqs=max_num_seqs,
        prompts=prompts,
        requests=requests,
        repeats=repeat,
        min_seconds=min_seconds,
    )
    folder = out if out is not None else join(config.store, f"{config.name}-bench")
    with located(job):
        bench_job(config, folder, _console(), options)


@app.command()
def bench_compare(
    old: Annotated[str, typer.Argument(help="A profile.json, or the folder that holds it.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="The one that is compared with it.", metavar="NEW")],
) -> None:
    """Compare two profiles cell by cell: ratios, next to the spread of their repeats."""
    from s3ray.bench.compare import compare_profiles, comparison_table
    from s3ray.bench.profile import read_profile

    with located(f"{old}, {new}"):
        compared = compare_profiles(read_profile(old), read_profile(new))
    _console().print(comparison_table(compared))


@app.command()
def status(run: RunFolder) -> None:
    """Show the state of a run or a campaign: running, finished or interrupted, and what is on disk."""
    from s3ray.monitor.campaign import campaign_status, is_campaign
    from s3ray.monitor.terminal import status_text

    store, now = RunStore(run), time.time()
    if is_campaign(store):
        _console().print(campaign_status(store, now))
    else:
        _console().print(status_text(RunStore.existing(run), now))


@app.command()
def watch(run: RunFolder) -> None:
    """Follow a run or a campaign to its end, from any machine that sees its folder.

    Shows what the run itself shows. Exit code 3 if it fails, or if its driver is no longer at work.
    """
    from s3ray.monitor.campaign import watch_run

    watch_run(RunStore(run), _console(), _pause)


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report: one HTML page that needs no network."""
    _console().print(f"Report: {api.open(run).report()}", soft_wrap=True)


@app.command()
def audit(
    run: RunFolder,
    rows: Annotated[
        int,
        typer.Option(
            "--rows", min=100, help="Most rows of each kind that are looked at closely: synthetic, gold, test."
        ),
    ] = 2000,
) -> None:
    """Measure a run's synthetic rows against gold: right labels, copies, drift, coverage, variety.

    Reads the test part of gold. Writes audit.json and the report; needs the extra `audit`.
    """
    from s3ray.audit.audit import audit_run
    from s3ray.report.audit import audit_text
    from s3ray.report.run import write_report

    console, store = _console(), RunStore.existing(run)
    found = audit_run(store, rows, lambda text: console.print(text, style="dim", highlight=False))
    console.print(audit_text(found))
    console.print(f"Report: {write_report(store)}", soft_wrap=True)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[
        str | None, typer.Option("--out", help="A new folder or URL; default: dataset/ in the run.", metavar="DIR")
    ] = None,
) -> None:
    """Write the synthetic dataset of a run: Parquet and a dataset card, for datasets.load_dataset."""
    from s3ray.report.export import export_dataset

    _console().print(f"Dataset: {export_dataset(RunStore.existing(run), out)}", soft_wrap=True)


@app.command()
def reparse(run: RunFolder, set_: Settings = None) -> None:
    """Read the kept generations of a run again, with today's parsing and curation and without any engine.

    Goes into a new lineage beside it; `s3ray run` then trains its students. Only curation and the task's word limits
    may differ, e.g. --set curation.near_duplicate=0.9.
    """
    from s3ray.launch.reparse import reparse_run

    reparse_run(run, parse_settings(set_ or ()), _console())


def _console() -> Terminal:
    """The console on standard output; wide enough for the tables if it is a file, which has no width."""
    console = Terminal()
    return console if console.is_terminal else Terminal(width=100)


def _load(job: Path, settings: list[str] | None) -> RunConfig:
    return api.load_job(job, parse_settings(settings or ()))


def _tune(
    job: Path,
    config: RunConfig,
    changes: dict[str, Any],
    given: dict[str, str | None],
    out: str | None,
    *,
    requests: int | None,
    lossy: bool,
) -> None:
    """``given`` are options of the sweep, which mean nothing to the search."""
    from s3ray.bench.tune import tune_job
    from s3ray.bench.tuned import change_text

    for option, value in given.items():
        if value is not None:
            hint = "The search tries what fits. Leave it out, or sweep without --tune."
            raise InputError("means nothing with --tune", where=option, value=value, hint=hint)
    text = change_text(job.read_text(encoding="utf-8"), changes)
    folder = out if out is not None else join(config.store, f"{config.name}-tune")
    with located(job):
        tune_job(config, text, folder, _console(), requests=requests, lossy=lossy)


class _Progress(contextlib.AbstractContextManager["_Progress"]):
    """Shows the progress of a run, from the first event of this start on, on top of that of earlier starts."""

    def __init__(self, console: Console, folder: str) -> None:
        self._console = console
        self._folder = folder
        self._progress: Progress | None = None

    def __call__(self, event: Event) -> None:
        if self._progress is None:
            place, _ = newest(self._folder)  # of the lineages; a fresh one is there by now
            earlier = (past for past in read_events(RunStore(place)) if past.attempt < event.attempt)
            self._progress = make_progress(self._console, RunView.replay(earlier))
        self._progress(event)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()


def _pause(seconds: float) -> None:
    """Wait; ends the command if nobody reads what it shows."""
    if is_output_lost():
        raise typer.Exit
    time.sleep(seconds)


def _note(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: what a user did, a machine did or a signal did becomes a message and an exit code, no traceback."""
    make_output_safe()
    with heard_signals() as stops:
        try:
            api.bring_ray_token()
            app()
        except SystemExit:
            if stops.error is None:  # else typer made of it what Ctrl-C is to it
                raise
            _end(str(stops.error), stops.error.exit_code)
        except S3RayError as error:
            _end(str(error), error.exit_code)
        except OSError as error:
            problem = of_machine(error)
            if problem is None:
                _end_with_traceback()
            else:
                _end(str(problem), problem.exit_code)
        except Exception:
            _end_with_traceback()


def _end(text: str, code: int) -> NoReturn:
    Terminal(stderr=True, highlight=False).print(f"s3ray: {mask(text)}", style="red", soft_wrap=True)
    sys.exit(code)


def _end_with_traceback() -> NoReturn:
    """End after a bug; Python would print its message with any secret in it."""
    Terminal(stderr=True, highlight=False).print(mask(traceback.format_exc()), soft_wrap=True)
    sys.exit(1)
