"""Where a result comes from: every file in ``results/`` says so."""

import os
import platform
import shutil
import subprocess
import sys
from collections import Counter

from s3ray.telemetry.provenance import code_version


def provenance() -> dict[str, str]:
    """Commit, machine and command of the program that is running."""
    module = sys.modules["__main__"].__spec__
    return {
        "commit": code_version(),
        "machine": f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()}), {_gpus()}",
        "command": " ".join(["python -m", module.name if module else "", *sys.argv[1:]]),
    }


def _gpus() -> str:
    if not shutil.which("nvidia-smi"):
        return "no GPU"
    names = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(names, capture_output=True, text=True, check=False).stdout.split("\n")
    counts = Counter(name.strip() for name in found if name.strip())
    return ", ".join(f"{num} {name}" for name, num in counts.items()) or "no GPU"
