"""The settings that identify a run: two starts are the same run if all that shapes its data is the same."""

import hashlib
from typing import Any

from s3ray.adapters import adapter_identity
from s3ray.config.job import RunConfig
from s3ray.config.shaping import data_shaping, fingerprint
from s3ray.models import model_identity
from s3ray.tasks import Task
from s3ray.tasks.gold import GoldSplit


def shaping_settings(config: RunConfig, task: Task, gold: GoldSplit) -> dict[str, Any]:
    """All that shapes the data: the job's settings, and the content of task and gold, whatever their paths."""
    settings = data_shaping(config)
    rows = [example.id for part in (gold.extrapolate, gold.select, gold.test) for example in part]
    rows += [repr((context.id, sorted(context.fields.items()))) for context in gold.contexts]
    settings["task"] = task.name
    settings["task_content"] = fingerprint(task.spec.model_dump(mode="json"))
    settings["gold_content"] = hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
    for part, model in (("generator", config.generator.model), ("student", config.student.model)):
        if model:
            settings[part]["model"] = model_identity(model)
    if config.generates and config.generator.adapter and config.generator.engine == "vllm":
        settings["generator"]["adapter"] = adapter_identity(config.generator.adapter)
    return settings
