"""The student: a pretrained encoder with a new head, its tokenizer, and its task."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError, S3RayError
from s3ray.machine import cpu_flags, has_bfloat16
from s3ray.models import resolve_model
from s3ray.storage.object_store import open_folder
from s3ray.student.encode import Encoded, collate, encode
from s3ray.student.tokenizer import fit_to_model, load_tokenizer, save_tokenizer
from s3ray.student.trained import TRAINED
from s3ray.tasks import Task
from s3ray.text import valid_text
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
        bf16 = computes_in_bfloat16(self.device.type, cuda_has_bfloat16(), cpu_flags())
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


def cuda_has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16; where it only emulates it (T4, RTX 20), float32 is several times faster."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def computes_in_bfloat16(device: str, cuda_has_it: bool, flags: Collection[str]) -> bool:
    """Whether a student computes in bfloat16 on a device of this type; ``flags`` are the CPU's."""
    return cuda_has_it if device == "cuda" else device == "cpu" and has_bfloat16(flags)


_FAULTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)


@contextlib.contextmanager
def blaming_model(model: str, also: type[Exception] = InputError) -> Iterator[None]:
    """Take what the libraries raise in the block for a fault of the model: it would come again each time.

    A lack of memory, a broken connection and a fault of a device pass unchanged, and so do other errors of files than
    those of type ``also``.

    Raises:
        InputError: with the library's own words.
    """
    try:
        yield
    except (S3RayError, torch.OutOfMemoryError):
        raise
    except (*_FAULTS, SafetensorError, StrictDataclassError, RuntimeError, also) as error:
        words = valid_text(str(error)).strip()
        if type(error) is RuntimeError and any(word in words for word in ("memory", "CUDA", "NCCL", "gloo")):
            raise
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        said = " ".join([f"{type(error).__name__}:", *lines[:3]])
        hint = "Choose another model or max_length. These are the words of the library that runs it."
        if "trust_remote_code" in said:
            hint = "Read the code that comes with it; student.trust_remote_code: true then lets it run."
        problem = f"cannot be this task's student: {said}"
        raise InputError(problem, field="student.model", value=model, hint=hint) from error


def load_student(config: StudentConfig, task: Task, device: torch.device) -> Student:
    """Load the base checkpoint with a head for the task. The head is random: seed torch first.

    Raises:
        InputError: the checkpoint or its tokenizer cannot serve the task.
    """
    with blaming_model(config.model):
        return _load(config, task, device)


def _load(config: StudentConfig, task: Task, device: torch.device) -> Student:
    folder = resolve_model(config.model, field="student.model")
    tokenizer = load_tokenizer(folder, config, task)
    options = {
        "use_safetensors": True,
        "dtype": torch.float32,
        "trust_remote_code": config.trust_remote_code,
        "ignore_mismatched_sizes": True,  # a checkpoint's head for other labels is replaced
        # Whatever its config.json says: scores are read by their names, and nothing else is.
        **{"return_dict": True, "output_attentions": False, "output_hidden_states": False},
    }
    if task.has_labels:
        id2label = dict(enumerate(task.labels))
        label2id = {label: number for number, label in id2label.items()}
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(id2label), id2label=id2label, label2id=label2id, **options
        )
    else:
        # Two outputs a token, its scores as first and as last; a checkpoint's head may have had others.
        model = AutoModelForQuestionAnswering.from_pretrained(folder, num_labels=2, **options)
    if hasattr(model.config, "use_mems_eval"):
        model.config.use_mems_eval = False  # else XLNet returns what the pipelines of transformers cannot batch
    fit_to_model(tokenizer, model, config.model)
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
        save_tokenizer(student.tokenizer, folder)
        (folder / TRAINED).write_text(json.dumps(about, indent=1) + "\n")
        # safetensors writes files that only their owner can read; a run folder is often shared.
        for file in folder.iterdir():
            file.chmod(file.stat().st_mode | 0o444)
