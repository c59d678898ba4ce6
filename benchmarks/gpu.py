"""Does all of s3ray work on this GPU, how fast, and what is left behind? The first thing to run on a new machine.

    python -m benchmarks.gpu --minutes 10

Needs one GPU, an environment with ``s3ray[gpu]``, and no network: the models come from packages (``--model`` takes a
larger one). Parts, each in a process of its own and with a share of the time: two starts of an engine, by part;
training steps of a student; the pool against bare vLLM (what ``vllm bench throughput`` runs: ``LLM.generate``) and Ray
Data LLM on the same requests; sleep against stop; two engines on one GPU; the search for faster settings against the
defaults. Around each part the GPU's memory is read. A part that fails, or that there is no time for, is a line of the
table. Without a GPU it runs in a small size on the CPU, but for what needs one. The last line is a JSON object.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import gpu_memory
from benchmarks.gpu_verdicts import PartPlan, Result, allot, table, verdicts
from benchmarks.provenance import keep_result
from benchmarks.workload import MODEL, device

PLAN = (
    PartPlan(name="starts", weight=2, least_s=40),
    PartPlan(name="student", weight=0.5, least_s=20),
    PartPlan(name="throughput", weight=3, least_s=90),
    PartPlan(name="sleep", weight=1, least_s=30, needs_gpu=True),
    PartPlan(name="halves", weight=1, least_s=30),
    PartPlan(name="tuned", weight=3, least_s=60),
)
END_S = 20.0
"""How long a part may take to end when its time is over, before it is killed."""
SETTLE_S = 10.0
"""How long the driver may take to give memory back."""


def run_part(part: PartPlan, size: str, model: str, seconds: float, folder: Path) -> Result:
    """Run one part to its end, or to the end of its time."""
    before, began = gpu_memory(), time.monotonic()
    out, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part.name, "--size", size, "--model", model]
    command += ["--seconds", str(seconds), "--out", str(out)]
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
        problem = _wait(process, seconds)
    if process.returncode and not problem:
        problem = _last_line(log) or f"ended with code {process.returncode}"
    figures: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return Result(
        name=part.name,
        seconds=time.monotonic() - began,
        problem=problem,
        figures=figures,
        memory_before=before,
        memory_after=_settled(before),
    )


def _wait(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for a process; what is left of it and of its children when its time is over is killed."""
    problem = ""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        problem = f"its {seconds:.0f} s were over"
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_S)
    _signal(process, signal.SIGKILL)
    process.wait()
    return problem


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _settled(before: int | None) -> int | None:
    """The GPU's memory when it is as it was before, or after some seconds."""
    until = time.monotonic() + SETTLE_S
    while (now := gpu_memory()) is not None and before is not None and now > before and time.monotonic() < until:
        time.sleep(0.5)
    return now


def main() -> None:
    """Run all parts, judge, and keep the result, which is on disk after each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", choices=("small", "full"), help="default: full on a GPU, small without")
    parser.add_argument("--model", default=MODEL, help="the generator: hub id, folder, or package:NAME")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PLAN], help="default: all")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/gpu.json"))
    options = parser.parse_args()
    size = options.size or ("full" if device() == "gpu" else "small")
    until = time.monotonic() + 60 * options.minutes
    plan = [part for part in PLAN if not options.parts or part.name in options.parts]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="s3ray-gpu-") as folder:
        for number, part in enumerate(plan):
            left = until - time.monotonic()
            seconds = allot(part, plan[number + 1 :], left)
            if part.needs_gpu and device() != "gpu":
                result = Result(name=part.name, problem="there is no GPU")
            elif not seconds:
                result = Result(
                    name=part.name, problem=f"left out: {left:.0f} s were left, it needs {part.least_s:.0f}"
                )
            else:
                print(f"{part.name}: up to {seconds:.0f} s", file=sys.stderr, flush=True)
                result = run_part(part, size, options.model, seconds, Path(folder))
            results.append(result)
            options.results.with_suffix(".partial.json").write_text(json.dumps([asdict(each) for each in results]))
    answers = verdicts({each.name: each for each in results})
    print(table(results, answers))
    measured = {"parts": [asdict(each) for each in results], "verdicts": [asdict(each) for each in answers]}
    keep_result(options.results, {"size": size, "model": options.model, **measured})
    options.results.with_suffix(".partial.json").unlink()


if __name__ == "__main__":
    main()
