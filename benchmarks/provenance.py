"""Where a result comes from: every file in ``results/`` says so."""

import os
import platform
import subprocess
import sys


def provenance() -> dict[str, str]:
    """Commit, machine and command of the program that is running."""
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    module = sys.modules["__main__"].__spec__
    return {
        "commit": commit or "unknown",
        "machine": f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()}), no GPU",
        "command": " ".join(["python -m", module.name if module else "", *sys.argv[1:]]),
    }
