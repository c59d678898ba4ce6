"""A student that was trained on gold says how likely it finds the labels of the training set's other rows."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from s3ray.config import StudentConfig
from s3ray.student.encode import Encoded
from s3ray.student.losses import target_probabilities
from s3ray.student.model import Student, load_student, saved_student
from s3ray.student.predict import BATCH_SIZE
from s3ray.student.ranks import Ranks, agreed
from s3ray.tasks import Task


def ask_checker(
    config: StudentConfig, task: Task, place: str, inputs: Sequence[Encoded], asked: Sequence[int], ranks: Ranks
) -> list[Encoded]:
    """The inputs, those at the places ``asked`` with the probability that the checker gives to their targets.

    All workers call this together. The checker in the folder ``place`` has the student's tokenizer and is forgotten
    afterwards. Batches are the same whatever the number of workers, and so are the answers.
    """
    checker = agreed(ranks, lambda: _load(config, task, place, ranks.device))
    order = sorted(asked, key=lambda number: len(inputs[number].input_ids))
    batches = [order[first : first + BATCH_SIZE] for first in range(0, len(order), BATCH_SIZE)]
    believed: dict[int, float] = {}
    checker.model.train(mode=False)
    with torch.inference_mode():
        for numbers in batches[ranks.rank :: ranks.world_size]:
            batch = [inputs[number] for number in numbers]
            believed.update(zip(numbers, target_probabilities(checker.logits(batch), batch).tolist(), strict=True))
    answers = {number: answer for part in ranks.gather(believed) for number, answer in part.items()}
    return [replace(item, believed=answers.get(number)) for number, item in enumerate(inputs)]


def _load(config: StudentConfig, task: Task, place: str, device: torch.device) -> Student:
    with saved_student(place) as folder:
        return load_student(config.model_copy(update={"model": folder}), task, device)
