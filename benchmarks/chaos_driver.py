"""One start of a run for ``benchmarks.chaos``: the real driver, pool, journal and engines, a scripted student.

    python -m benchmarks.chaos_driver FOLDER --address HOST:PORT --settings JSON [--trains]

Without ``--trains`` training is left out, because what is asked is whether generation survives: the scripted student
calls gold rows mistakes by a hash of all the rows that it was given, so that one different row changes everything after
it. With it students are trained with Ray Train, as in any run.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import xxhash

from s3ray.cluster import connected, node_facts
from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.load import validate
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.placement.place import plan_placement
from s3ray.rounds.driver import Driver, Parts
from s3ray.rounds.students import Trainer
from s3ray.storage.run_folder import RunStore
from s3ray.tables import examples_from_table, table_from_mistakes
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import load_gold
from s3ray.telemetry.events import EventLog
from s3ray.types import EpochReport, Mistake, Score, StudentJob, StudentResult

TASK = "review_sentences"


class ScriptedTrainer:
    """Calls every fourth gold row a mistake, which one depending on the rows of the training set."""

    def __init__(self) -> None:
        self._task = load_task(TASK)

    def train(self, job: StudentJob) -> StudentResult:
        """See the class."""
        rows = self._read(job.train_path)
        digest = xxhash.xxh64_hexdigest(repr([(row.id, row.label, dict(row.fields)) for row in rows]).encode())
        gold = self._read(str(job.mine_path))
        missed = [row for row in gold if not xxhash.xxh64_intdigest(f"{digest}{row.id}".encode()) % 4]
        mistakes = [Mistake(example=row, predicted="", confidence=0.0) for row in missed]
        table = table_from_mistakes(mistakes, self._task.fields, self._task.has_labels)
        RunStore(job.output).write_table("mistakes/000000.parquet", table)
        score = Score(main="accuracy", values={"accuracy": 0.0}, num_examples=len(gold))
        return StudentResult(
            round=job.round,
            num_rows=len(rows),
            best_epoch=0,
            epochs=(EpochReport(epoch=0, loss=0.0, select=0.0, seconds=0.0),),
            select=score,
            mine=score,
            test=score if job.test_path else None,
            seconds={},
        )

    def _read(self, path: str) -> list[Any]:
        file = Path(path)
        return examples_from_table(RunStore(file.parent).read_table(file.name), self._task.fields)


def ray_trainer(config: RunConfig, task: Task, store: RunStore, ends: contextlib.ExitStack) -> Trainer:
    """What trains the students of any run."""
    from s3ray.student.ray_trainer import RayStudentTrainer, TrainWorkers

    place = str(store.path("ray_train"))
    workers = TrainWorkers(config.name, place, stay=True)
    ends.callback(workers.close)
    return RayStudentTrainer(config.student, task, workers, run_name=config.name, storage_path=place, gpus_per_worker=0)


def run(folder: Path, address: str, settings: dict[str, Any], trains: bool) -> None:
    """Run, or go on with, one job on the cluster at ``address``."""
    config = validate(RunConfig, {"name": folder.name, "task": TASK, **settings})
    task = load_task(TASK)
    store = RunStore(folder)
    with connected(address), store.lock(), contextlib.ExitStack() as ends:
        plan = plan_placement(config, node_facts())
        store.create({"name": config.name}, to_yaml(config))
        attempt = 1 + max((event["attempt"] for event in store.events()), default=0)
        events = EventLog(store, config.name, attempt)
        pool = GeneratorPool(config, only_task(config, task), plan, emit=events.emit)
        ends.callback(pool.close)
        parts = Parts(
            config=config,
            task=task,
            gold=load_gold(task, config.gold),
            store=store,
            events=events,
            requests={"seed": "chaos", "later": "chaos"},
            generator=pool,
            trainer=ray_trainer(config, task, store, ends) if trains else ScriptedTrainer(),
        )
        Driver(parts).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--settings", required=True, type=json.loads)
    parser.add_argument("--trains", action="store_true")
    options = parser.parse_args()
    run(options.folder, options.address, options.settings, options.trains)
