"""What is being learned: task specs (YAML), prompts, reading of what a model writes, metrics, gold data."""

from s3ray.tasks.task import NUM_LISTED, Task, builtin_names, load_task

__all__ = ["NUM_LISTED", "Task", "builtin_names", "load_task"]
