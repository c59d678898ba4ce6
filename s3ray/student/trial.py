"""A student is tried before anything is written for it: loaded with its tokenizer, and run on two rows of gold.

What does not fit (padding, special tokens, sizes) shows in seconds here, and after all the generation in training. The
trial runs on a CPU in a process of its own, so that the driver does not have to load torch; and what went well is noted
in the cache, so that the next start of the same job does not take these seconds again.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from s3ray import __version__
from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.models import cache_root, local_weights
from s3ray.tasks import Task
from s3ray.tasks.spec import TaskSpec
from s3ray.telemetry.records import from_plain, to_plain
from s3ray.text import duration, valid_text
from s3ray.types import Example

TRIAL_LIMIT_S = 1800.0
"""A trial may fetch the model first."""
_READ_BYTES = 32 * 2**20
"""Files of a model up to this size are known by their content, larger ones by name and size: reading takes seconds."""
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")
"""What a trial depends on beside model and rows."""


def check_student(config: StudentConfig, task: Task, gold: Sequence[Example], *, here: bool = False) -> str:
    """Try the student of a job on the longest and the shortest row of gold, unless that went well on this machine once.

    With ``here``, and where torch is loaded already, this process does it itself. A trial that dies, of a lack of
    memory, say, refuses nothing: the text returned says so, and is empty else.

    Raises:
        InputError: the model cannot serve the task; the library's own words are in it.
    """
    ordered = sorted(gold, key=lambda row: sum(map(len, row.fields.values())))
    rows = [ordered[-1], ordered[0]]
    mark = _mark(config, task, rows)
    if mark is not None and mark.exists():
        return ""
    if here or "torch" in sys.modules:
        try_student(config, task, rows)
        note = ""
    else:
        note = _try_apart(config, task, rows)
    mark = mark or _mark(config, task, rows)  # the trial may have fetched the model
    if mark is not None and not note:
        with contextlib.suppress(OSError):  # without a mark the next start tries it again
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return note


def _mark(config: StudentConfig, task: Task, rows: Sequence[Example]) -> Path | None:
    """The file that says that a trial went well, named by all that it depends on; None if the model is not here yet."""
    place = local_weights(config.model)
    if place is None:
        return None
    settings = (config.max_length, config.trust_remote_code, task.has_labels, task.fields, task.labels)
    versions = [__version__, *map(version, _LIBRARIES)]
    digest = hashlib.sha256(json.dumps([settings, [row.fields for row in rows], versions], default=list).encode())
    for file in sorted(place.iterdir()) if place.is_dir() else [place]:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            digest.update(file.read_bytes() if size <= _READ_BYTES else b"")
    return cache_root() / "tried" / digest.hexdigest()


def try_student(config: StudentConfig, task: Task, rows: Sequence[Example]) -> None:
    """Load the student and compute the loss of rows, on a CPU and in this process.

    Raises:
        InputError: the model cannot be loaded or cannot serve the task.
    """
    import torch

    from s3ray.student.model import blaming_model, load_student
    from s3ray.student.train import try_step

    with torch.random.fork_rng(devices=[]), _quiet(), blaming_model(config.model, also=OSError):
        student = load_student(config, task, torch.device("cpu"))
        try_step(student, student.encode(rows), config.model)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about the new head of a base checkpoint, and no progress of loading its tensors."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _try_apart(config: StudentConfig, task: Task, rows: Sequence[Example]) -> str:
    """Do it in another process; returns why it came to no end, if so."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import answer; answer()"],
            input=asked(config, task, rows),
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=False,
            timeout=TRIAL_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"the student could not be tried: no end in {duration(TRIAL_LIMIT_S)}"
    if ended.returncode:
        words = valid_text(ended.stderr.decode(errors="replace")).strip().splitlines()[-1:]
        how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
        return f"the student could not be tried: {': '.join([f'its trial ended with {how}', *words])}"
    found = json.loads(ended.stdout.splitlines()[-1])
    if found:
        raise InputError(**found)
    return ""


def asked(config: StudentConfig, task: Task, rows: Sequence[Example]) -> bytes:
    """What the other process is asked, as JSON."""
    parts = {"config": config.model_dump(mode="json"), "task": task.spec.model_dump(mode="json"), "rows": rows}
    return json.dumps(to_plain(parts)).encode()


def answer() -> None:
    """What the other process does: the trial on standard input, its outcome as the last line of standard output."""
    error: InputError | None = None
    parts = json.loads(sys.stdin.buffer.read())
    rows = [from_plain(Example, row, "the trial of the student") for row in parts["rows"]]
    try:
        try_student(StudentConfig(**parts["config"]), Task(TaskSpec(**parts["task"])), rows)
    except InputError as raised:
        error = raised
    names = ("problem", "field", "value", "hint")
    found = {name: getattr(error, name) for name in names} if error else None
    sys.stdout.write(f"\n{json.dumps(found)}\n")
