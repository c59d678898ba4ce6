"""Does a real run survive kill -9 of its parts? Kills, gives the same command again, and audits the journal.

    python -m benchmarks.kills --out runs/kills

Runs the quickstart job (real model, real vLLM, real Ray Train) in which, one after the other, are killed: a generator
actor and an EngineCore process while it generates, the driver while it generates, the driver while it trains. The last
line printed is a JSON object; ``lost`` and ``duplicated`` must be zero.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.journal import audit
from benchmarks.processes import below
from benchmarks.provenance import keep_result
from s3ray.storage.run_folder import RunStore

JOB = "jobs/quickstart.yaml"
# Long enough that every kill falls into the generation of the seed set.
SETTINGS = (
    *("strategy.seed_examples=320", "strategy.rows=340", "strategy.rounds=1"),
    *("student.epochs=2", "student.min_steps=0"),
)
LIMIT_S = 1200.0
TRAINING_S = 20.0  # of a worker's CPU time; imports take about 10


class Attempt:
    """One start of the job, observed through its events."""

    def __init__(self, out: Path, log: Path) -> None:
        self._out = out
        self._num_before = len(self._all())
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        program = Path(sys.executable).parent / "s3ray"
        with log.open("a") as sink:
            self._process = subprocess.Popen(
                [str(program), "run", JOB, *options, "--out", str(out)], stdout=sink, stderr=sink
            )

    def _all(self) -> list[dict[str, Any]]:
        return list(RunStore(self._out).events())

    def count(self, event: str) -> int:
        """Events of this start by name."""
        return sum(record["event"] == event for record in self._all()[self._num_before :])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is seen in the events."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the run ended (code {self._process.returncode}) before it could be killed")
            time.sleep(0.2)

    def kill_below(self, name: str) -> None:
        """Kill -9 one process below the driver whose command line has this name."""
        process = next(below(name, self._process.pid), None)
        if process is None:
            raise SystemExit(f"no {name} process to kill")
        process.kill()

    def wait_for_cpu_time(self, name: str, seconds: float) -> None:
        """Wait until a process below the driver has computed for so long: training steps leave no events."""

        def is_computing() -> bool:
            return any(each.cpu_times().user > seconds for each in below(name, self._process.pid))

        self.wait_for(is_computing)

    def kill_driver(self) -> None:
        """Kill -9 the driver."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> int:
        """Wait for the end; returns the exit code."""
        return self._process.wait(LIMIT_S)


def run_with_kills(out: Path, log: Path) -> list[dict[str, Any]]:
    """Kill one part after the other and finish; returns what was killed when."""
    kills = []
    attempt = Attempt(out, log)
    attempt.wait_for(lambda: attempt.count("engine_ready") >= 2 and attempt.count("chunk_written") >= 6)
    for num, name in enumerate(("GeneratorActor", "EngineCore"), start=1):
        attempt.kill_below(name)
        attempt.wait_for(lambda num=num: attempt.count("engine_lost") >= num)  # type: ignore[misc]
        attempt.wait_for(lambda num=num: attempt.count("engine_ready") >= 2 + num)  # type: ignore[misc]
        kills.append({"killed": name, "during": "generation"})
    num_chunks = attempt.count("chunk_written")
    attempt.wait_for(lambda: attempt.count("chunk_written") > num_chunks)
    attempt.kill_driver()
    kills.append({"killed": "driver", "during": "generation"})
    attempt = Attempt(out, log)
    attempt.wait_for(lambda: attempt.count("student_started") >= 1)
    attempt.wait_for_cpu_time("RayTrainWorker", TRAINING_S)
    attempt.kill_driver()
    kills.append({"killed": "driver", "during": "training"})
    code = Attempt(out, log).finish()
    if code:
        raise SystemExit(f"the last start ended with code {code}; see {log}")
    return kills


def main() -> None:
    """Kill, resume, audit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/kills"), help="folder of the run; must be new")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/kills.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    kills = run_with_kills(options.out, options.out.with_suffix(".log"))
    metrics = json.loads((options.out / "metrics.json").read_text(encoding="utf-8"))
    result = {
        "kills": kills,
        "attempts": metrics["attempts"],
        "engines_lost": metrics["engines_lost"],
        "rows": metrics["rounds"][-1]["rows"],
        "test": metrics["test"],
        **audit(options.out),
    }
    for kill in kills:
        print(f"killed {kill['killed']} during {kill['during']}")
    keep_result(options.results, result)


if __name__ == "__main__":
    main()
