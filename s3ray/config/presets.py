"""Defaults that stand for several settings at once: those of a strategy, and the paper's of its students. Pure data."""

from typing import Any

_PAPER = {"model": "distilbert/distilbert-base-uncased", "max_length": 512, "min_steps": 0, "patience": None}

METHOD_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "s3plus": {"curation": {"verify": "drop"}, "student": {"weigh": "dimp"}},
    "llm2llm": {"curation": {"rouge_l": 0.95}},
}
"""Defaults that a strategy sets in other sections of a job, by section."""

# The paper's are those of its released scripts (S3, arXiv 2310.13671). They warm up for 100, 300, 100 and 0 steps; here
# it is the share that these are of its last student's steps.
STUDENT_PRESETS: dict[str, dict[str, Any]] = {
    "paper-imdb": _PAPER
    | {"learning_rate": 5.0e-6, "weight_decay": 2.0e-8, "batch_size": 8, "epochs": 6, "warmup": 0.006},
    "paper-qnli": _PAPER
    | {"learning_rate": 5.0e-6, "weight_decay": 2.0e-8, "batch_size": 32, "epochs": 10, "warmup": 0.006},
    "paper-rte": _PAPER
    | {"learning_rate": 1.0e-5, "weight_decay": 1.0e-2, "batch_size": 16, "epochs": 20, "warmup": 0.002},
    "paper-adversarial_qa": _PAPER
    | {"learning_rate": 1.0e-5, "weight_decay": 1.0e-2, "batch_size": 8, "epochs": 10, "warmup": 0.0},
}
