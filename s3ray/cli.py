"""The command line: run, plan, compare, status, watch, report, audit, export, reparse.

Exit codes: 0 done; 2 the input is wrong and nothing was started; 3 the run could not go on and what is on disk is
safe; 130 interrupted.
"""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from s3ray.config import RunConfig
from s3ray.errors import InputError, S3RayError
from s3ray.files import join
from s3ray.jobfile import load_config
from s3ray.store import RunStore

app = typer.Typer(
    name="s3ray",
    help="Let a large language model write the training set of a small model, guided by the small model's mistakes.\n\n"
    "Start with: s3ray plan jobs/quickstart.yaml, then s3ray run jobs/quickstart.yaml.",
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
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Begin a new lineage beside the old ones (NAME.2, NAME.3 ...), which stay."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one field, e.g. --set generator.engines=4.", metavar="FIELD=VALUE"),
]


@app.command()
def run(job: JobFile, out: Out = None, set_: Settings = None, fresh: Fresh = False) -> None:
    """Run a job to the end, or go on where an interrupted start of it stopped.

    Live progress on a terminal, plain lines elsewhere. Ends with a table of the rounds; the folder then holds the
    student, the dataset, metrics.json and report.html.
    """
    # Ray, torch and transformers take seconds to import: a mistyped job file is refused before that.
    config = _load(job, set_)
    from s3ray.running import run_job

    run_job(config, str(job), _folder(config, out), _console(), fresh=fresh)


@app.command()
def plan(job: JobFile, out: Out = None, set_: Settings = None, fresh: Fresh = False) -> None:
    """Check a job and say what would be started, without starting it."""
    config = _load(job, set_)
    from s3ray.running import plan_job

    plan_job(config, str(job), _folder(config, out), _console(), fresh=fresh)


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
    from s3ray.campaign.grid import load_campaign

    campaign = load_campaign(grid, _settings(set_))
    from s3ray.campaign.compare import run_campaign

    folder = out if out is not None else join(campaign.runs[0].config.store, campaign.config.name)
    run_campaign(campaign, str(grid), folder, _console(), command=shlex.join(["s3ray", *sys.argv[1:]]))


@app.command()
def status(run: RunFolder) -> None:
    """Say where a run or a campaign stands: running, finished or interrupted, and what is on disk."""
    from s3ray.monitor.campaign import campaign_status, is_campaign
    from s3ray.monitor.summary import status_text

    store, now = RunStore(run), time.time()
    if is_campaign(store):
        _console().print(campaign_status(store, now))
    else:
        _console().print(status_text(RunStore.existing(run), now))


@app.command()
def watch(run: RunFolder) -> None:
    """Follow a run or a campaign to its end, from any machine that sees its folder.

    Shows what the run itself shows. Exit code 3 if it fails or no driver is at work any more.
    """
    from s3ray.monitor.watch import watch_run

    watch_run(RunStore(run), _console())


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report: one HTML page that needs no network."""
    from s3ray.monitor.report import write_report

    _console().print(f"Report: {write_report(RunStore.existing(run))}", soft_wrap=True)


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
    from s3ray.monitor.audit import audit_text
    from s3ray.monitor.report import write_report

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
    from s3ray.export import export_dataset

    _console().print(f"Dataset: {export_dataset(RunStore.existing(run), out)}", soft_wrap=True)


@app.command()
def reparse(run: RunFolder, set_: Settings = None) -> None:
    """Read the kept generations of a run again, with today's parsing and curation and without any engine.

    Goes into a new lineage beside it; `s3ray run` then trains its students. Only curation and the task's word limits
    may differ, e.g. --set curation.near_duplicate=0.9.
    """
    from s3ray.reparse import reparse_run

    reparse_run(run, _settings(set_), _console())


def _console() -> Console:
    """Standard output; wide enough for the tables where it is a file and has no width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=100)


def _load(job: Path, settings: list[str] | None) -> RunConfig:
    return load_config(job, _settings(settings))


def _settings(texts: list[str] | None) -> dict[str, Any]:
    return dict(_setting(text) for text in texts or ())


def _setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise InputError("is no FIELD=VALUE", where="--set", value=text, hint="For example generator.engines=4.")
    return field, yaml.safe_load(value)


def _folder(config: RunConfig, out: str | None) -> str:
    return out if out is not None else join(config.store, config.name)


def _bring_ray_token() -> None:
    """Clusters of Ray 2.60 ask for a token; Ray shows the one on this machine only in token mode, set before import."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or file.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def main() -> None:
    """Entry point: errors that s3ray raises on purpose end as a message and an exit code, not as a traceback."""
    console = Console(stderr=True, highlight=False)
    _bring_ray_token()
    try:
        app()
    except S3RayError as error:
        console.print(f"s3ray: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
