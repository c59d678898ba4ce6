"""The head of a Ray cluster as people start it: with a dashboard, and with a token that it asks for."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

WAIT_S = 600
"""What hangs is given up then. Nothing is fast or slow by it: a busy machine may take minutes for a run."""
RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a head listens, what a client of it has in its environment, and the port where it shows metrics."""

    address: str
    dashboard: str
    environment: dict[str, str]
    metrics_port: int


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    """A head of its own: no folder, port or token of another Ray on this machine."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = {name: free_port() for name in names}
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # short, because Ray puts sockets below it
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"RAY_AUTH_TOKEN_PATH": str(token), "PATH": commands}
    del environment["RAY_AUTH_MODE"]  # s3ray finds the token without being told to look for one
    options = ["--num-cpus=4", f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in ports.items())]
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--disable-usage-stats", *options],
        # A node that is told to end waits for others to take its work over; these all end together.
        env=environment | {"RAY_AUTH_MODE": "token", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_listener(ports["dashboard-agent-listen-port"])
        yield Head(
            address=f"127.0.0.1:{ports['port']}",
            dashboard=f"http://127.0.0.1:{ports['dashboard-port']}",
            environment=environment,
            metrics_port=ports["metrics-export-port"],
        )
    finally:
        processes = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in processes:
            process.terminate()
        for process in psutil.wait_procs(processes, timeout=5)[1]:
            process.kill()
        head.wait(WAIT_S)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_listener(port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.2)
