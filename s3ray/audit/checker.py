"""Models that judge rows: a checker, trained on gold alone, answers them, and a base checkpoint embeds them."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from s3ray.audit.measures import Points
from s3ray.config.job import StudentConfig
from s3ray.models import resolve_model
from s3ray.student.evaluate import predict
from s3ray.student.model import load_student
from s3ray.student.ranks import SingleProcess
from s3ray.student.session import train_student
from s3ray.tables import table_from_examples
from s3ray.tasks import Task
from s3ray.types import Example, StudentJob

MIN_TEST_ROWS = 100
"""With fewer test rows the checker's errors are counted by cross-validation over the other gold rows as well."""
NUM_FOLDS = 5
_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a checker answered: ``answers`` to the rows in question, ``known`` and ``known_answers`` on held-out gold.

    ``by`` says how gold was held out: ``test``, or ``cross-validation`` where folds of the training rows were added.
    """

    answers: list[str]
    known: list[Example]
    known_answers: list[str]
    by: str


def check(
    config: StudentConfig,
    task: Task,
    gold: Sequence[Example],
    test: Sequence[Example],
    rows: Sequence[Example],
    device: torch.device,
) -> Checked:
    """Train a checker on ``gold`` as the run trains its students, and let it answer ``test`` and ``rows``.

    It learns from all of gold, so its epoch is chosen by its score on the very rows that it learns from.

    Raises:
        InputError: the model cannot serve the task.
    """
    # No warnings about the new head of a base checkpoint, and no progress of loading its tensors.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    by, known = "test", list(test)
    answers = _train_and_ask(config, task, gold, [*test, *rows], device)
    known_answers = answers[: len(test)]
    if len(test) < MIN_TEST_ROWS and len(gold) >= NUM_FOLDS:
        by = "cross-validation"
        for fold in range(NUM_FOLDS):
            held_out = gold[fold::NUM_FOLDS]
            others = [row for place, row in enumerate(gold) if place % NUM_FOLDS != fold]
            known += held_out
            known_answers = known_answers + _train_and_ask(config, task, others, held_out, device)
    return Checked(answers=answers[len(test) :], known=known, known_answers=known_answers, by=by)


def _train_and_ask(
    config: StudentConfig, task: Task, gold: Sequence[Example], rows: Sequence[Example], device: torch.device
) -> list[str]:
    plain = config.model_copy(update={"weigh": "none"})
    ranks = SingleProcess(device=device)
    with tempfile.TemporaryDirectory(prefix="s3ray-audit-") as temporary:
        table, output = str(Path(temporary) / "gold.parquet"), str(Path(temporary) / "checker")
        pq.write_table(table_from_examples(gold, task.fields, task.has_labels), table)
        job = StudentJob(
            round=0, train_path=table, select_path=table, mine_path=None, test_path=None, output=output, seed=0
        )
        train_student(plain, task, job, ranks)
        student = load_student(plain.model_copy(update={"model": output}), task, device)
        return [answer.text for answer in predict(student, rows, ranks)]


def embed(config: StudentConfig, texts: Sequence[str], device: torch.device) -> Points:
    """A point of length 1 for each text, in order: the mean of the untrained base checkpoint's last states.

    Texts are cut to ``student.max_length`` tokens.

    Raises:
        InputError: the model is not there.
    """
    folder = resolve_model(config.model)
    options = {"trust_remote_code": config.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **options).to(device)
    model.train(mode=False)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    points = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, len(order), _BATCH_SIZE):
            places = order[first : first + _BATCH_SIZE]
            batch = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=config.max_length,
                return_tensors="pt",
            ).to(device)
            states = model(**batch).last_hidden_state
            inside = batch["attention_mask"].unsqueeze(-1)
            mean = (states * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
            points[places] = normalize(mean, dim=1).cpu().numpy()
    return points
