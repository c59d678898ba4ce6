"""The pool of a run, with a record kept of all that its dispatcher decides and its engines say."""

from collections.abc import Iterator, Mapping

from s3ray.bench.record import PhaseRecord, PhaseRecorder
from s3ray.config.job import RunConfig
from s3ray.generator.pool import Emit, GeneratorPool
from s3ray.generator.scheduling.queue import RequestSource
from s3ray.generator.worker import ServedTask
from s3ray.placement.plan import Plan
from s3ray.tables import Chunk

_ANSWER_S = 60.0


class MeasuredPool:
    """A pool whose engines are all there before anything is asked, and whose phases are recorded."""

    def __init__(self, config: RunConfig, tasks: Mapping[str, ServedTask], plan: Plan, *, emit: Emit) -> None:
        self._recorder = PhaseRecorder()
        self._pool = GeneratorPool(config, tasks, plan, emit=emit, recorder=self._recorder)

    def get_ready(self) -> None:
        """See ``GeneratorPool.start_all``."""
        self._pool.start_all()

    def begin_phase(self) -> PhaseRecord:
        """A new record, which begins with the counters of every engine as they stand while nothing is under way."""
        record = self._recorder.begin_record()
        self._pool.refresh_stats(_ANSWER_S)
        record.timings.clear()
        return record

    def generate(self, source: RequestSource) -> Iterator[Chunk]:
        """See ``GeneratorPool.generate``."""
        return self._pool.generate(source)

    def end_phase(self) -> None:
        """Close the record with the counters of every engine."""
        self._pool.refresh_stats(_ANSWER_S)

    def close(self) -> None:
        """See ``GeneratorPool.close``."""
        self._pool.close()
