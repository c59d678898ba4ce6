"""Device-seconds of a run: what its generation and its training cost, whoever it shared engines with. Pure.

Generation is charged by the seconds in which engines were busy, not by the time that requests took: hundreds of them
are under way at once. Where runs share an engine, its busy seconds between two chunks are parted by the tokens that it
computed for each run, written ones and those of prompts that no cache held. Devices that waited are charged to nobody.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from s3ray.monitor.events import ChunkWritten, Event, RoundLinked
from s3ray.types import EngineReport


class BusyClock:
    """How long each engine was busy since it told so last; one that was started again counts from zero."""

    def __init__(self) -> None:
        self._busy_s: dict[str, float] = {}

    def newly(self, engines: Mapping[str, EngineReport]) -> dict[str, float]:
        """Seconds since the chunk before, by engine."""
        newly = {}
        for name, told in engines.items():
            before = self._busy_s.get(name, 0.0)
            newly[name] = told.busy_s - (before if told.busy_s >= before else 0.0)
            self._busy_s[name] = told.busy_s
        return newly


def busy_seconds(events: Iterable[Event]) -> dict[int, float]:
    """Seconds in which engines were busy for a run, by round.

    A round that was copied from another run is charged as if it had been written: that is what it costs alone.
    """
    seconds: dict[int, float] = {}
    attempt, clock = 0, BusyClock()
    for event in events:
        if event.attempt != attempt:
            attempt, clock = event.attempt, BusyClock()
        if isinstance(event, RoundLinked):
            seconds[event.round] = event.busy_s
        elif isinstance(event, ChunkWritten):
            own = clock.newly({name: told for name, told in event.engines.items() if told.own_busy_s is None})
            own |= {name: told.own_busy_s for name, told in event.engines.items() if told.own_busy_s is not None}
            seconds[event.round] = seconds.get(event.round, 0.0) + sum(own.values())
    return seconds


def per_engine(config: Mapping[str, Any]) -> float | None:
    """Devices that an engine of a resolved job holds; None for endpoints, whose devices nobody knows."""
    generator = config["generator"]
    if generator["engine"] == "openai":
        return None
    devices: float = generator["tensor_parallel"] * generator["pipeline_parallel"] * generator["gpu_share"]
    return devices


def training_s(seconds: Mapping[str, float], workers: int) -> float:
    """Device-seconds of a student from ``seconds`` of its score.json: of all workers, training and scoring.

    ``workers`` are the job's; in a campaign a student may have got fewer, and knows (``all_workers``).
    """
    return seconds.get("all_workers", workers * (seconds["train"] + seconds["score"]))
