"""What happened when, for the plots of the report: tokens per second and training, along the working time of a run.

Working time is the time of all attempts one after the other; the pauses between them are left out. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s3ray.monitor.events import Event

NUM_BINS = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Tokens per second by engine in equal bins of ``bin_s`` seconds, and when students were trained.

    ``rates`` maps each engine to one rate per bin; ``training`` holds (round, start, end) in seconds of working time.
    """

    bin_s: float
    rates: dict[str, tuple[float, ...]]
    training: tuple[tuple[int, float, float], ...]

    @property
    def total(self) -> tuple[float, ...]:
        """Tokens per second of all engines, per bin."""
        return tuple(sum(column) for column in zip(*self.rates.values(), strict=True))


def timeline(events: Iterable[Event]) -> Timeline:
    """Lay the chunks of a run along its working time. What a chunk holds was written since the chunk before it."""
    placed = _working_time(events)
    end = placed[-1][0] if placed else 0.0
    bin_s = max(end / NUM_BINS, 1e-3)
    rates: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * NUM_BINS)
    for start, now, event in _spans(placed, "chunk_written", {"stage_started", "engine_ready", "chunk_written"}):
        for engine, share in event["engines"].items():
            if share["output_tokens"]:
                _spread(rates[engine], start, now, share["output_tokens"], bin_s)
    training = [
        (event["round"], start, now) for start, now, event in _spans(placed, "student_finished", {"student_started"})
    ]
    return Timeline(
        bin_s=bin_s,
        rates={engine: tuple(row) for engine, row in sorted(rates.items())},
        training=tuple(training),
    )


def _working_time(events: Iterable[Event]) -> list[tuple[float, Event]]:
    placed: list[tuple[float, Event]] = []
    now, last = 0.0, None
    for event in events:
        if last is not None and event["attempt"] == last["attempt"]:
            now += max(0.0, event["time"] - last["time"])
        placed.append((now, event))
        last = event
    return placed


def _spans(placed: Sequence[tuple[float, Event]], name: str, begins: set[str]) -> Iterable[tuple[float, float, Event]]:
    start = 0.0
    for now, event in placed:
        if event["event"] == name:
            yield start, now, event
        if event["event"] in begins:
            start = now


def _spread(row: list[float], start: float, end: float, tokens: int, bin_s: float) -> None:
    """Add ``tokens``, written evenly from ``start`` to ``end``, to the rates of the bins that this span touches."""
    end = max(end, start + 1e-3)
    first, last = int(start / bin_s), min(int(end / bin_s), len(row) - 1)
    for i in range(min(first, last), last + 1):
        overlap = min(end, (i + 1) * bin_s) - max(start, i * bin_s)
        row[i] += tokens * max(0.0, overlap) / (end - start) / bin_s
