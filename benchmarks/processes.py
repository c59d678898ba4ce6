"""Processes of a benchmark: those that a run started, by their command line, and peers in a process of their own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

LIMIT_S = 1800.0


def below(words: str, pid: int | None = None) -> Iterator[psutil.Process]:
    """The living processes below this one (or below ``pid``) whose command line contains ``words``."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            is_meant = words in " ".join(process.cmdline())
        except psutil.Error:
            continue  # it ended while we looked
        if is_meant:
            yield process


def run_peer(module: str, peer: str, options: Sequence[str], environment: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run ``python -m MODULE PEER OPTIONS --out FILE`` to its end; returns the report that it writes.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="s3ray-peer-") as folder:
        report, log = Path(folder) / "report.json", Path(folder) / "log"
        command = [sys.executable, "-m", module, peer, *options, "--out", str(report)]
        with log.open("w") as sink:
            ended = subprocess.run(
                command, stdout=sink, stderr=sink, env=os.environ | environment, timeout=LIMIT_S, check=False
            )
        if ended.returncode:
            raise SystemExit(f"{peer} ended with code {ended.returncode}:\n{log.read_text(errors='replace')[-5000:]}")
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return content
