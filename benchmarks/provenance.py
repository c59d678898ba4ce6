"""How results are kept: every file in ``results/`` says where it comes from."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from s3ray.telemetry.provenance import code_version


def provenance() -> dict[str, str]:
    """Commit, machine and command of the program that is running."""
    module = sys.modules["__main__"].__spec__
    return {
        "commit": code_version(),
        "machine": f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()}), {_gpus()}",
        "command": " ".join(["python -m", module.name if module else "", *sys.argv[1:]]),
    }


def keep_result(path: Path | None, measured: dict[str, Any]) -> None:
    """Print the JSON of what was measured and where; write it to a file too, if there is one."""
    result = {"schema": 1, **provenance(), **measured}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def _gpus() -> str:
    if not shutil.which("nvidia-smi"):
        return "no GPU"
    names = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(names, capture_output=True, text=True, check=False).stdout.split("\n")
    counts = Counter(name.strip() for name in found if name.strip())
    return ", ".join(f"{num} {name}" for name, num in counts.items()) or "no GPU"
