"""A run's metrics on Ray's own way to Prometheus. What they are and when they change: ``monitor.prometheus``."""

from collections.abc import Callable

from ray.util.metrics import Counter, Gauge

from s3ray.monitor.events import Event
from s3ray.monitor.prometheus import METRICS, Meter
from s3ray.monitor.run_view import RunView


class RayMeters:
    """The metrics of this process; many runs may share them."""

    def __init__(self) -> None:
        self._by_name = {
            name: (Counter if metric.kind == "counter" else Gauge)(name, metric.says, ("run", *metric.tags))
            for name, metric in METRICS.items()
        }

    def of(self, run: str, view: RunView) -> Callable[[Event], None]:
        """A listener on the ``EventLog`` of a run; ``view`` is what earlier starts of it came to."""
        meter = Meter(run, view)

        def hear(event: Event) -> None:
            for name, value, tags in meter.samples(event):
                metric = self._by_name[name]
                if isinstance(metric, Gauge):
                    metric.set(value, tags=tags)
                elif value:  # Ray refuses to count nothing
                    metric.inc(value, tags=tags)

        return hear
