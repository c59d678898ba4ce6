"""Runs commands in this process, hundreds a second, and judges how they end."""

import functools
import io
import logging
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest
import typer

from s3ray import cli

NUM_CASES = {
    # On broken jobs, tasks, rows, grids, options and environments.
    **{"plan": 500, "run": 400, "compare": 200, "submit": 300, "bench": 300, "init": 1000},
    # On broken folders; the short runs among them more often, and seldom what reads all of a run and writes a page.
    **{"status": 1800, "watch": 2800, "bench-compare": 2400},
    **{"report": 80, "export": 80, "audit": 150, "reparse": 40, "compare again": 40, "run again": 40},
}
"""Cases by command; what is cheap is tried more often."""
LEAST_CASES = 10_000


def s3ray(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it says on standard error."""
    out, err = io.StringIO(), io.StringIO()
    argv, streams, handlers = sys.argv, (sys.stdout, sys.stderr), logging.getLogger().handlers[:]
    sys.argv, (sys.stdout, sys.stderr) = ["s3ray", *arguments], (out, err)
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0), err.getvalue()
    finally:
        sys.argv, (sys.stdout, sys.stderr) = argv, streams
        logging.getLogger().handlers[:] = handlers
    return 0, err.getvalue()


def judge(code: int, text: str) -> str:
    """What is wrong with the end of a command; empty if nothing is."""
    if "Traceback (most recent call last)" in text or "crash.txt" in text or code not in (0, 2, 3):
        return f"exit code {code}: {text.strip().splitlines()[-1] if text.strip() else ''}"
    if code and not re.search(r"\w[\w.]*: \S|cannot be|/\w|^Usage: ", text):
        return f"names nothing: {text!r}"
    return ""


def fuzz(name: str, broken: Callable[[random.Random], tuple[str, ...]], put_right: Callable[[], None]) -> None:
    """Run one command so often on what ``broken`` leaves, which also says its arguments; then all is put right.

    Raises:
        AssertionError: one of them ended in a way that none may; the case can be had again by its number.
    """
    codes: Counter[int] = Counter()
    found: list[str] = []
    started = time.process_time()
    for number in range(NUM_CASES[name]):
        arguments = broken(random.Random(f"{name} {number}"))
        code, text = s3ray(*arguments)
        put_right()
        codes[code] += 1
        if wrong := judge(code, text):
            found.append(f"case {number} of {name} ({arguments}): {wrong}\n{text}")
    took_s = time.process_time() - started
    counts = ", ".join(f"{num} ended with {code}" for code, num in sorted(codes.items()))
    sys.stdout.write(f"{name}: {codes.total()} cases in {took_s:.1f} s: {counts}\n")
    assert not found, f"{len(found)} of {codes.total()} cases ended as none may. The first:\n{found[0]}"
    assert codes.total() == NUM_CASES[name]
    assert codes[2] + codes[3] >= codes.total() / 50, "hardly anything that was broken was noticed"


def make_calls_cheap(patch: pytest.MonkeyPatch) -> None:
    """Build the commands once, not for each call, and let `watch` leave once it has read what is there."""

    def leave(_: float) -> None:
        raise typer.Exit

    patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
    patch.setattr(cli, "_pause", leave)
