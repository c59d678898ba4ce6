"""Trains students in this process, without Ray: for a debugger, for tests and for ``s3ray run --local``."""

from s3ray.config.job import StudentConfig
from s3ray.student.session import train_student
from s3ray.tasks import Task
from s3ray.types import StudentJob, StudentResult


class LocalStudentTrainer:
    """Trains one student at a time; the driver uses it in the place of ``RayStudentTrainer``."""

    def __init__(self, config: StudentConfig, task: Task) -> None:
        self._config = config
        self._task = task

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student; see ``train_student``."""
        return train_student(self._config, self._task, job)
