"""Who listens at the address of a Ray cluster, and who started it: told within seconds, where Ray tries for minutes."""

import contextlib
import os
import pwd
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from s3ray.errors import InputError

WAIT_S = 5.0
"""How long an address has to answer."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC says first (RFC 9113, 3.4); the server answers with a frame of its settings."""
_SETTINGS = 4

Listener = Literal["grpc", "http", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The address of a cluster, and what named it: a ``field`` of the job, or the variable or option ``where``."""

    address: str
    field: str = ""
    where: str | None = None

    def refused(self, problem: str, hint: str) -> InputError:
        """The error that blames what named the address."""
        if self.where == "RAY_ADDRESS":
            hint += " Or unset RAY_ADDRESS, or start a Ray for this run alone: --set cluster.address=local."
        return InputError(problem, where=self.where, field=self.field, value=self.address, hint=hint)


def check_address(named: Named) -> None:
    """Refuse an address at which no Ray cluster can be joined.

    Raises:
        InputError: it is not HOST:PORT, nothing listens there, or what listens is no Ray cluster.
    """
    address = named.address
    if address.startswith(("http://", "https://")):
        hint = (
            f"`s3ray submit JOB.yaml --address {shlex.quote(address)}` sends the job there. To run from here, give the "
            "address that `ray start --head` prints (HOST:6379)."
        )
        raise named.refused("is the address of a dashboard, which takes jobs but cannot be joined", hint)
    if "://" in address:
        hint = "Give the cluster's own address (HOST:6379), or send the job to its dashboard: s3ray submit."
        raise named.refused("is an address of Ray Client, through which no job is run", hint)
    place = host_and_port(address)
    if place is None:
        hint = "Write HOST:PORT (6379 is the port of `ray start --head`), auto, or local."
        raise named.refused("is not an address", hint)
    try:
        kind = who_listens(*place)
    except OSError as error:
        hint = "Check host and port, and that the cluster is up; `ray start --head` prints its address."
        raise named.refused(f"nothing listens there: {_words(error)}", hint) from None
    if kind != "grpc":
        speaker = "a web server (Ray's dashboard, say)" if kind == "http" else "something that is no Ray"
        hint = "6379 is the port of `ray start --head`, which prints it; 8265 is that of the dashboard."
        raise named.refused(f"no Ray cluster answers there, but {speaker}", hint)


def is_cluster(address: str) -> bool:
    """Whether something that may be a Ray cluster listens at an address."""
    place = host_and_port(address)
    try:
        return place is not None and who_listens(*place) == "grpc"
    except OSError:
        return False


def host_and_port(address: str) -> tuple[str, int] | None:
    """The parts of HOST:PORT or [IPV6]:PORT; None if it is neither."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    is_plain = host and port and parts.netloc == address and "@" not in address
    return (host, port) if host and port and is_plain else None


def who_listens(host: str, port: int) -> Listener:
    """What answers there: a server of gRPC, as Ray's are, one of HTTP/1, or something else.

    Raises:
        OSError: nothing listens, or the name of the host is unknown.
    """
    with socket.create_connection((host, port), timeout=WAIT_S) as connection:
        try:
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
        except OSError:  # silent, or gone again
            return "other"
    if answer.startswith(b"HTTP/"):
        return "http"
    return "grpc" if len(answer) > 3 and answer[3] == _SETTINGS else "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Whose process a cluster is on this machine, and when it was started (unix seconds)."""

    user: str
    is_other: bool
    since: float

    def __str__(self) -> str:
        return f"started by user {self.user} at {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.since))}"


def starter_of(address: str) -> Starter | None:
    """Who started this machine's part of the cluster at ``address``; None if no such process can be seen."""
    found = [starter for starter in _raylets(address) if starter is not None]
    return min(found, key=lambda starter: starter.since, default=None)


def _raylets(address: str) -> Iterator[Starter | None]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name == "raylet" and f"--gcs-address={address}" in words:
                yield _starter(folder)


def _starter(process: Path) -> Starter:
    user = process.stat().st_uid
    # The time of start is the 22nd field, in ticks since the machine's own; the second may hold blanks and brackets.
    ticks = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    since = time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK")
    return Starter(user=user_name(user), is_other=user != os.geteuid(), since=since)


def user_name(user: int) -> str:
    """The name of a user, or the number of one that has none (in containers)."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _words(error: OSError) -> str:
    return "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
