"""The student: a pretrained encoder with a new head, its tokenizer, and its task."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.machine import cpu_flags, has_bfloat16
from s3ray.models import make_tokenizer_portable, resolve_model
from s3ray.storage.object_store import open_folder
from s3ray.student.encode import Encoded, collate, encode
from s3ray.student.trained import TRAINED
from s3ray.tasks import Task
from s3ray.types import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A model on its device, the tokenizer and the task that go with it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    max_length: int
    device: torch.device

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The model inputs of examples; a span example may give several."""
        return encode(self.tokenizer, self.task, examples, self.max_length)

    def logits(self, inputs: Sequence[Encoded], through: torch.nn.Module | None = None) -> tuple[torch.Tensor, ...]:
        """Float32 scores of a batch: labels ``(batch, labels)``, or first and last tokens ``(batch, longest)`` each.

        ``through`` is the model as wrapped for data-parallel training. Padding can never be an answer.
        """
        batch = collate(inputs, self.tokenizer.pad_token_id, self.device)
        bf16 = computes_in_bfloat16(self.device.type, torch.cuda.is_bf16_supported(), cpu_flags())
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            output = (through or self.model)(**batch)
        if self.task.has_labels:
            return (output.logits.float(),)
        padding = batch["attention_mask"] == 0
        lowest = torch.finfo(torch.float32).min
        return (
            output.start_logits.float().masked_fill(padding, lowest),
            output.end_logits.float().masked_fill(padding, lowest),
        )


def computes_in_bfloat16(device: str, cuda_has_it: bool, flags: Collection[str]) -> bool:
    """Whether a student computes in bfloat16 on a device of this type; ``flags`` are the CPU's."""
    return cuda_has_it if device == "cuda" else device == "cpu" and has_bfloat16(flags)


def load_student(config: StudentConfig, task: Task, device: torch.device) -> Student:
    """Load the base checkpoint with a head for the task. The head is random: seed torch first.

    Raises:
        InputError: the checkpoint or its tokenizer cannot serve the task.
    """
    folder = resolve_model(config.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    if not tokenizer.is_fast:
        hint = "Choose a model that comes with tokenizer.json."
        raise InputError("has no fast tokenizer", field="student.model", value=config.model, hint=hint)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    options = {
        "use_safetensors": True,
        "dtype": torch.float32,
        "trust_remote_code": config.trust_remote_code,
        "ignore_mismatched_sizes": True,  # a checkpoint's head for other labels is replaced
    }
    if task.has_labels:
        id2label = dict(enumerate(task.labels))
        label2id = {label: number for number, label in id2label.items()}
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(id2label), id2label=id2label, label2id=label2id, **options
        )
    else:
        model = AutoModelForQuestionAnswering.from_pretrained(folder, **options)
    model.config.pad_token_id = tokenizer.pad_token_id
    return Student(model=model.to(device), tokenizer=tokenizer, task=task, max_length=config.max_length, device=device)


@contextlib.contextmanager
def saved_student(output: str) -> Iterator[str]:
    """The local folder of a saved student, for ``load_student``; one at a URL is downloaded for the ``with`` block."""
    with open_folder(output).on_disk() as folder:
        yield str(folder)


def save_student(student: Student, output: str | Path, about: Mapping[str, Any]) -> None:
    """Save model (safetensors), tokenizer and ``about`` (``trained.json``), replacing an earlier student.

    A folder appears whole or not at all. On an object store ``trained.json`` is written last: a student without it is
    not finished.
    """
    with open_folder(str(output)).rewritten(last=TRAINED) as folder:
        student.model.save_pretrained(folder)
        student.tokenizer.save_pretrained(folder)
        make_tokenizer_portable(folder)
        (folder / TRAINED).write_text(json.dumps(about, indent=1) + "\n")
        # safetensors writes files that only their owner can read; a run folder is often shared.
        for file in folder.iterdir():
            file.chmod(file.stat().st_mode | 0o444)
