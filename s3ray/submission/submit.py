"""Sends a job to the dashboard of a Ray cluster, follows it, and sends it again where it failed."""

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from rich.console import Console

from s3ray.errors import InputError, RunError
from s3ray.submission.attempts import NO_COMMAND, end_of, next_id
from s3ray.submission.parcel import Parcel

_CONNECT_S = 5.0
_LOOK_EVERY_S = 1.0
_SILENCE_S = 120.0
_UNREACHABLE_S = 300.0
_BROKEN = (OSError, RuntimeError, AuthenticationError, aiohttp.ClientError)
"""What Ray's client raises where the cluster does not answer: its own errors, those of requests and of aiohttp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How an attempt ended, in Ray's words."""

    status: str
    exit_code: int | None
    message: str

    def __str__(self) -> str:
        return self.message if self.exit_code is None else f"its command ended with exit code {self.exit_code}"


def submit_job(
    parcel: Parcel, address: str, variables: Mapping[str, str], console: Console, *, wait: bool, retries: int
) -> None:
    """Send a job; with ``wait`` follow it to its end, and send it again up to ``retries`` times where it fails.

    Raises:
        InputError: no cluster takes it, or the cluster refused it; nothing was started.
        RunError: it failed, was stopped, or cannot be seen any more.
        KeyboardInterrupt: Ctrl-C; the job goes on.
    """
    client = _connect(address)
    for left in range(retries, -1, -1):
        try:
            attempt = _send(client, parcel, variables)
        except InputError as error:
            if left == retries:
                raise
            raise RunError(f"no further attempt: {error}") from error
        _say(console, f"Submitted {attempt}: {parcel.command}")
        _say(console, _how_to_see(attempt, client.get_address(), parcel.folder))
        if not wait:
            return
        try:
            ended = _follow(client, attempt, console)
        except KeyboardInterrupt:
            _say(console, f"{attempt} goes on; nobody waits for it any more.")
            _say(console, _how_to_see(attempt, client.get_address(), parcel.folder))
            raise
        end = end_of(ended.status, ended.exit_code)
        if end == "done":
            _say(console, f"{attempt} is finished. Run folder: {parcel.folder}")
            return
        if end != "failed" or not left:
            raise _error(end, attempt, ended, parcel)
        _say(console, f"{attempt} failed: {ended}; another attempt goes on where it stopped.")


def _connect(address: str) -> JobSubmissionClient:
    """The dashboard at an address; at once, where Ray itself would wait for minutes."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S).close()
    except (KeyError, ValueError):
        hint = "Write http://HOST:PORT (8265 is the port of Ray's dashboard)."
        raise InputError("is no address of a dashboard", where="--address", value=address, hint=hint) from None
    except OSError as error:
        hint = "It is the address of Ray's dashboard; `ray start --head` prints it. On a laptop, forward its port."
        raise InputError(f"nobody listens there: {error}", where="--address", value=url, hint=hint) from None
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        hint = "Put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN."
        raise InputError(f"refuses: {_first_line(error)}", where="--address", value=url, hint=hint) from error
    except (OSError, RuntimeError) as error:
        hint = "It must be the dashboard of a Ray cluster of the version that is installed here."
        raise InputError(f"is no dashboard: {_first_line(error)}", where="--address", value=url, hint=hint) from error


def _send(client: JobSubmissionClient, parcel: Parcel, variables: Mapping[str, str]) -> str:
    """Upload and submit under the next free id."""
    with tempfile.TemporaryDirectory(prefix="s3ray-submit-") as folder:
        # A copy: Ray would leave out what a .gitignore names, and send all else that lies there.
        for name in parcel.files:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
        try:
            attempt = next_id(parcel.name, [job.submission_id for job in client.list_jobs()])
            return str(
                client.submit_job(
                    entrypoint=parcel.command,
                    submission_id=attempt,
                    runtime_env={"working_dir": folder, "env_vars": dict(variables)},
                    metadata={"s3ray": parcel.name, "folder": parcel.folder},
                )
            )
        except (*_BROKEN, ValueError) as error:
            hint = "Large data belong into a folder that every node has, named by absolute path."
            raise InputError(f"the cluster does not take the job: {_first_line(error)}", hint=hint) from error


def _follow(client: JobSubmissionClient, attempt: str, console: Console) -> _Ended:
    """Show an attempt's log until it ends; a line to the cluster that breaks is taken up again."""
    log = _Log(lambda text: _write(console, text))
    seen_at = time.monotonic()
    while True:
        is_broken = False
        try:
            asyncio.run(log.tail(client, attempt))
        except TimeoutError:
            pass  # nothing was said for a while: is it still there?
        except _BROKEN:
            is_broken = True
        try:
            job = client.get_job_info(attempt)
            is_over = job.status.is_terminal()
            if is_over or is_broken:
                log.add_rest(client.get_job_logs(attempt))
        except _BROKEN as error:
            if time.monotonic() - seen_at > _UNREACHABLE_S:
                hint = f"It may go on all the same. Once the cluster answers: ray job status {attempt}"
                problem = f"{attempt} was out of reach for {_UNREACHABLE_S:.0f} s: {_first_line(error)}"
                raise RunError(problem, hint) from error
        else:
            seen_at = time.monotonic()
            if is_over:
                message = job.message or "Ray does not say why"
                return _Ended(status=job.status.value, exit_code=job.driver_exit_code, message=message.splitlines()[0])
        time.sleep(_LOOK_EVERY_S)


class _Log:
    """An attempt's log as far as it was shown. Ray sends it from its beginning each time."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._num_shown = 0

    async def tail(self, client: Any, attempt: str) -> None:
        """Show what comes until the attempt ends or the line breaks.

        Raises:
            TimeoutError: nothing came for ``_SILENCE_S``; a line that went dead says nothing either.
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
        """Show what of the whole log was not shown."""
        self._show(text[self._num_shown :])
        self._num_shown = len(text)


def _error(end: str, attempt: str, ended: _Ended, parcel: Parcel) -> InputError | RunError:
    if ended.exit_code == NO_COMMAND:
        return InputError("the cluster's nodes have no s3ray", where=attempt, hint="Install it in their environment.")
    if end == "refused":
        return InputError("was refused on the cluster", where=attempt, hint="Its log, above, says why.")
    hint = f"The same command goes on from what is on disk. See `s3ray status {parcel.folder}`."
    if end == "stopped":
        return RunError(f"{attempt} was stopped", hint)
    return RunError(f"{attempt} failed: {ended}", hint)


def _how_to_see(attempt: str, address: str, folder: str) -> str:
    return (
        f"  watch it:  s3ray watch {folder}\n"
        f"  its log:   ray job logs --address {address} --follow {attempt}\n"
        f"  stop it:   ray job stop --address {address} {attempt}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _write(console: Console, text: str) -> None:
    console.file.write(text)
    console.file.flush()
