"""What is being learned: task specs (YAML), prompts, parsing of generated texts, metrics, gold data."""

from s3ray.tasks.task import NUM_LISTED, Task, builtin_names, load_task

__all__ = ["NUM_LISTED", "Task", "builtin_names", "load_task"]
