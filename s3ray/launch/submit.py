"""Sends a job and its files to a Ray cluster, follows its log, and sends it again if it fails."""

import asyncio
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from rich.console import Console

from s3ray.addresses import Named, who_listens
from s3ray.config.endpoint import variables_in
from s3ray.config.grid import load_campaign
from s3ray.config.job import RunConfig
from s3ray.config.load import load_config, parse_settings, read_yaml
from s3ray.environment import proxy_between
from s3ray.errors import InputError, RunError, located
from s3ray.launch.preflight import check_endpoints, check_engine_args, check_secrets
from s3ray.models import PACKAGE
from s3ray.monitor.terminal import say
from s3ray.storage.local import is_url, join, local_path
from s3ray.storage.object_store import refuse_password
from s3ray.tasks import load_task
from s3ray.tasks.source import find_file

End = Literal["done", "refused", "stopped", "failed"]

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFUSED = 2
NO_COMMAND = 127
"""The exit code of a shell that does not find its command."""


def next_id(name: str, known: Iterable[str | None]) -> str:
    """The id of the next attempt: ``NAME-1``, ``NAME-2`` ...; ``known`` may contain ids of other jobs."""
    numbers = (re.fullmatch(rf"{re.escape(name)}-([0-9]+)", each or "") for each in known)
    return f"{name}-{1 + max((int(found[1]) for found in numbers if found), default=0)}"


def end_of(status: str, exit_code: int | None) -> End:
    """How an attempt ended. Another attempt makes sense only after ``failed``.

    ``exit_code`` is that of the attempt's command; None if the driver's node died.
    """
    if status == "SUCCEEDED":
        return "done"
    if status == "STOPPED":
        return "stopped"
    return "refused" if exit_code in (_REFUSED, NO_COMMAND) else "failed"


def environment(texts: Iterable[str], key_variables: Collection[str]) -> dict[str, str]:
    """The environment variables of a job: those of ``NAME=VALUE`` texts, and those that s3ray itself sets.

    Raises:
        InputError: a text is not NAME=VALUE, or the name is that of a secret.
    """
    variables = {"PYTHONUNBUFFERED": "1"}  # else the log arrives in blocks, minutes late
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            # The text is not shown, since it may be a secret.
            raise InputError("is not NAME=VALUE", where="--env", hint="For example AWS_REGION=eu-central-1.")
        if _SECRET.search(name) or name in key_variables:
            hint = "Everyone who sees Ray's dashboard sees a job's environment. Set it on each node before `ray start`."
            raise InputError("looks like a secret, and is not sent", where="--env", value=name, hint=hint)
        variables[name] = value
    return variables


_YAML = (".yaml", ".yml")
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobBundle:
    """A checked job, ready to be sent to a cluster.

    ``folder`` is that of its run or campaign. ``files`` are relative to the working directory. ``key_variables`` are
    the names of the environment variables that hold keys.
    """

    name: str
    folder: str
    command: str
    files: tuple[str, ...]
    key_variables: frozenset[str]


def pack(job: Path, out: str | None, settings: Sequence[str]) -> JobBundle:
    """Check a job or a grid as far as that is possible on this machine, and find out what must be sent.

    ``settings`` are texts ``FIELD=VALUE``.

    Raises:
        InputError: the job is wrong, or names something that the cluster would not have.
    """
    with located(job):
        changes = parse_settings(settings)
        if "axes" in read_yaml(job):
            campaign = load_campaign(job, changes)
            name, configs = campaign.config.name, [run.config for run in campaign.runs]
            jobs, verb, prefix = [job, job.parent / campaign.config.job], "compare", "job."
        else:
            config = load_config(job, changes)
            name, configs, jobs, verb, prefix = config.name, [config], [job], "run", ""
        for config in configs:
            _check_models(config)
            check_engine_args(config)
            check_endpoints(config)  # now, before a URL with a password is sent unencrypted
            check_secrets(config)
        folder = out if out is not None else join(configs[0].store, name)
        _check_shared(out if out is not None else configs[0].store, "--out" if out is not None else "store")
        files = dict.fromkeys(_below(path) for path in [*jobs, *_files_of(configs)])
        words = ["s3ray", verb, _below(job), *(["--out", out] if out is not None else [])]
        # A job names the cluster to join from here; once sent to a cluster, it runs on that one.
        joins = [] if configs[0].cluster.address == "auto" else [f"{prefix}cluster.address=auto"]
        words += [word for setting in [*settings, *joins] for word in ("--set", setting)]
        return JobBundle(
            name=name,
            folder=folder,
            command=shlex.join(words),
            files=tuple(files),
            key_variables=frozenset(_key_variables(configs)),
        )


def _key_variables(configs: Iterable[RunConfig]) -> Iterator[str]:
    """The environment variables that hold the secrets of endpoints."""
    for config in configs:
        for endpoint in config.generator.endpoints:
            yield endpoint.key_env
            yield from variables_in([*endpoint.headers.values(), *endpoint.query.values()])


def _files_of(configs: Iterable[RunConfig]) -> Iterator[Path]:
    """The files of tasks and data that the jobs name by relative path."""
    for name, data in dict.fromkeys((config.task, config.data) for config in configs):
        path = Path(name)
        is_own = path.suffix in _YAML
        if is_own and path.is_absolute():
            place = Path(data) if data else None
        else:
            task = load_task(name, data)  # checks it as well
            place = task.data if is_own or data else None  # a builtin task has its data in the package
            if is_own:
                yield path
        if place is not None and not place.is_absolute():
            splits = [place] if place.is_file() else [find_file(place, split) for split in _SPLITS]
            yield from (file for file in splits if file)


def _below(path: Path) -> str:
    """A path relative to the working directory."""
    relative = os.path.relpath(path)
    if relative.startswith(os.pardir):
        hint = "Submit from a folder that has all files which the job names by relative path, or use absolute paths."
        raise InputError("lies outside the folder that you submit from", value=str(path), hint=hint)
    return relative


def _check_models(config: RunConfig) -> None:
    models = {"student.model": config.student.model}
    if config.generates and config.generator.engine == "vllm":
        models["generator.model"] = config.generator.model
        models["generator.adapter"] = config.generator.adapter
    for field, model in models.items():
        path = Path(model)
        is_here = model.startswith((".", "~")) or path.suffix == ".gguf" or path.exists()
        if model and not model.startswith(PACKAGE) and not path.is_absolute() and is_here:
            hint = "Models are not sent. Name a hub id, package:NAME, or an absolute path that every node has."
            raise InputError("is a relative path", field=field, value=model, hint=hint)


def _check_shared(place: str, field: str) -> None:
    refuse_password(place)
    if not is_url(place) and not Path(local_path(place)).is_absolute():
        hint = (
            "On the cluster it would lie in the job's working directory and be lost with it. Give `store` or --out as "
            "an absolute path that every node reaches, or as a URL such as s3://bucket/runs."
        )
        raise InputError("is a relative path", field=field, value=place, hint=hint)


_DASHBOARD = "http://127.0.0.1:8265"
_LOOK_EVERY_S = 1.0
_SILENCE_S = 120.0
_UNREACHABLE_S = 300.0
_BROKEN = (OSError, RuntimeError, AuthenticationError, aiohttp.ClientError)
"""The errors of Ray's client if the cluster does not answer: its own, and those of requests and aiohttp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How an attempt ended, in Ray's words."""

    status: str
    exit_code: int | None
    message: str

    def __str__(self) -> str:
        return self.message if self.exit_code is None else f"its command ended with exit code {self.exit_code}"


def submit_job(
    bundle: JobBundle, address: Named, variables: Mapping[str, str], console: Console, *, wait: bool, retries: int
) -> None:
    """Send a job; with ``wait`` follow it to its end, and send it again up to ``retries`` times if it fails.

    Raises:
        InputError: no cluster answers, or the cluster refused the job; nothing was started.
        RunError: the job failed, was stopped, or could not be reached for five minutes.
        KeyboardInterrupt: Ctrl-C; the job goes on.
    """
    client = _connect(address)
    for left in range(retries, -1, -1):
        try:
            attempt = _send(client, bundle, variables)
        except InputError as error:
            if left == retries:
                raise
            raise RunError(f"no further attempt: {error}") from error
        say(console, f"Submitted {attempt}: {bundle.command}")
        say(console, _how_to_see(attempt, client.get_address(), bundle.folder))
        if not wait:
            return
        try:
            ended = _follow(client, attempt, console)
        except KeyboardInterrupt:
            say(console, f"{attempt} goes on; nobody waits for it any more.")
            say(console, _how_to_see(attempt, client.get_address(), bundle.folder))
            raise
        end = end_of(ended.status, ended.exit_code)
        if end == "done":
            say(console, f"{attempt} is finished. Run folder: {bundle.folder}")
            return
        if end != "failed" or not left:
            raise _error(end, attempt, ended, bundle)
        say(console, f"{attempt} failed: {ended}; another attempt goes on where it stopped.")


def dashboard(option: str | None) -> Named:
    """The address of the dashboard that jobs are sent to, and what names it, in the order in which Ray itself looks."""
    if option is not None:
        return Named(address=option, where="--address")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        address = os.environ.get(name, "").strip()
        # RAY_ADDRESS may also be the address of the cluster itself, for programs that join it.
        if address and (name != "RAY_ADDRESS" or address.startswith(("http://", "https://"))):
            return Named(address=address, where=name)
    return Named(address=_DASHBOARD, where="--address")


def _connect(named: Named) -> JobSubmissionClient:
    """Connect to a dashboard; fails at once, where Ray itself would wait for minutes.

    Raises:
        InputError: nothing listens there, or no dashboard that takes a job from here.
    """
    address = named.address
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(url)
    named = replace(named, address=url)
    try:
        port = {"http": 80, "https": 443}[parts.scheme]
        port = parts.port or port
        kind = who_listens(parts.hostname or "", port)
    except (KeyError, ValueError):
        hint = "Write http://HOST:PORT (8265 is the port of Ray's dashboard)."
        raise replace(named, address=address).refused("is not the address of a dashboard", hint) from None
    except OSError as error:
        hint = "It is the address of Ray's dashboard; `ray start --head` prints it. On a laptop, forward its port."
        raise named.refused(f"nothing listens there: {error}", hint) from None
    if kind == "other" and parts.scheme == "http":
        hint = "8265 is the port of Ray's dashboard. A dashboard behind TLS has an address that begins with https://."
        raise named.refused("what listens there does not answer as a dashboard does", hint)
    proxy = proxy_between(url, parts.hostname or "")
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        hint = "Put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN."
        raise named.refused(f"refuses: {_first_line(error)}", hint) from error
    except (OSError, RuntimeError, ValueError) as error:
        hint = "It must be the dashboard (port 8265) of a Ray cluster of the version that is installed here."
        if proxy:
            hint = f"{proxy} stands between: add {parts.hostname} to no_proxy. Else: {hint}"
        raise named.refused(f"is not a dashboard: {_first_line(error)}", hint) from error


def _send(client: JobSubmissionClient, bundle: JobBundle, variables: Mapping[str, str]) -> str:
    """Upload and submit under the next free id."""
    with tempfile.TemporaryDirectory(prefix="s3ray-submit-") as folder:
        # A copy, because Ray would leave out what a .gitignore names, and send all other files of the folder.
        for name in bundle.files:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
        try:
            attempt = next_id(bundle.name, [job.submission_id for job in client.list_jobs()])
            return str(
                client.submit_job(
                    entrypoint=bundle.command,
                    submission_id=attempt,
                    runtime_env={"working_dir": folder, "env_vars": dict(variables)},
                    metadata={"s3ray": bundle.name, "folder": bundle.folder},
                )
            )
        except (*_BROKEN, ValueError) as error:
            hint = "Put large data into a folder that every node has, and name it by absolute path."
            raise InputError(f"the cluster does not take the job: {_first_line(error)}", hint=hint) from error


def _follow(client: JobSubmissionClient, attempt: str, console: Console) -> _Ended:
    """Show an attempt's log until it ends; reconnects when the connection to the cluster breaks."""
    log = _Log(lambda text: _write(console, text))
    seen_at = time.monotonic()
    while True:
        is_broken = False
        try:
            asyncio.run(log.tail(client, attempt))
        except TimeoutError:
            pass  # silent for a while: is it still there?
        except _BROKEN:
            is_broken = True
        try:
            job = client.get_job_info(attempt)
            is_over = job.status.is_terminal()
            if is_over or is_broken:
                log.add_rest(client.get_job_logs(attempt))
        except _BROKEN as error:
            if time.monotonic() - seen_at > _UNREACHABLE_S:
                hint = f"It may still be running. Once the cluster answers: ray job status {attempt}"
                problem = f"{attempt} was out of reach for {_UNREACHABLE_S:.0f} s: {_first_line(error)}"
                raise RunError(problem, hint) from error
        else:
            seen_at = time.monotonic()
            if is_over:
                message = job.message or "Ray does not say why"
                return _Ended(status=job.status.value, exit_code=job.driver_exit_code, message=message.splitlines()[0])
        time.sleep(_LOOK_EVERY_S)


class _Log:
    """Shows each part of an attempt's log once, though Ray sends the log from its beginning each time."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._num_shown = 0

    async def tail(self, client: Any, attempt: str) -> None:
        """Show the log as it grows, until the attempt ends or the connection breaks.

        Raises:
            TimeoutError: nothing arrived for ``_SILENCE_S``: the attempt is silent, or the connection dead.
        """
        num_received = 0
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(_SILENCE_S) as limit:
            async for text in client.tail_job_logs(attempt):
                limit.reschedule(clock() + _SILENCE_S)
                num_received += len(text)
                num_new = num_received - self._num_shown
                if num_new > 0:
                    self._num_shown = num_received
                    self._show(text[-num_new:])

    def add_rest(self, text: str) -> None:
        """Show the part of the whole log that was not shown yet."""
        self._show(text[self._num_shown :])
        self._num_shown = len(text)


def _error(end: str, attempt: str, ended: _Ended, bundle: JobBundle) -> InputError | RunError:
    if ended.exit_code == NO_COMMAND:
        return InputError("the cluster's nodes have no s3ray", where=attempt, hint="Install it in their environment.")
    if end == "refused":
        return InputError("was refused on the cluster", where=attempt, hint="Its log, above, says why.")
    hint = f"The same command goes on from what is on disk. See `{shlex.join(['s3ray', 'status', bundle.folder])}`."
    if end == "stopped":
        return RunError(f"{attempt} was stopped", hint)
    return RunError(f"{attempt} failed: {ended}", hint)


def _how_to_see(attempt: str, address: str, folder: str) -> str:
    commands = {
        "watch it:": ("s3ray", "watch", folder),
        "its log:": ("ray", "job", "logs", "--address", address, "--follow", attempt),
        "stop it:": ("ray", "job", "stop", "--address", address, attempt),
    }
    return "\n".join(f"  {name:<10} {shlex.join(words)}" for name, words in commands.items())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _write(console: Console, text: str) -> None:
    console.file.write(text)
    console.file.flush()
