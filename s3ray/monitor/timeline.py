"""What happened when, for the plots of the report: tokens per second and training, along the working time of a run.

Working time is the time of all attempts one after the other; the pauses between them are left out. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s3ray.monitor.events import (
    ChunkWritten,
    EngineLost,
    EngineReady,
    Event,
    StageStarted,
    StudentFinished,
    StudentStarted,
)

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
    for engine, start, now, tokens in _shares(placed):
        _spread(rates[engine], start, now, tokens, bin_s)
    return Timeline(
        bin_s=bin_s,
        rates={engine: tuple(row) for engine, row in sorted(rates.items())},
        training=tuple(_training(placed)),
    )


def _working_time(events: Iterable[Event]) -> list[tuple[float, Event]]:
    placed: list[tuple[float, Event]] = []
    now, last = 0.0, None
    for event in events:
        if last is not None and event.attempt == last.attempt:
            now += max(0.0, event.time - last.time)
        placed.append((now, event))
        last = event
    return placed


def _shares(placed: Sequence[tuple[float, Event]]) -> Iterable[tuple[str, float, float, int]]:
    """(engine, start, end, tokens) of every chunk: written since the chunk before, or since that engine was ready."""
    start, ready = 0.0, dict[str, float]()
    for now, event in placed:
        match event:
            case EngineReady():
                ready.setdefault(event.engine, now)
            case EngineLost():
                # What it wrote before it was lost comes with the next chunk, so that its second start is no beginning.
                ready.setdefault(event.engine, start)
            case ChunkWritten():
                for engine, share in event.engines.items():
                    if share.output_tokens:
                        yield engine, ready.get(engine, start), now, share.output_tokens
        if isinstance(event, StageStarted | ChunkWritten):
            start, ready = now, {}


def _training(placed: Sequence[tuple[float, Event]]) -> Iterable[tuple[int, float, float]]:
    start = 0.0
    for now, event in placed:
        if isinstance(event, StudentStarted):
            start = now
        elif isinstance(event, StudentFinished):
            yield event.round, start, now


def _spread(row: list[float], start: float, end: float, tokens: int, bin_s: float) -> None:
    """Add ``tokens``, written evenly from ``start`` to ``end``, to the rates of the bins that this span touches."""
    end = max(end, start + 1e-3)
    first, last = int(start / bin_s), min(int(end / bin_s), len(row) - 1)
    for i in range(min(first, last), last + 1):
        overlap = min(end, (i + 1) * bin_s) - max(start, i * bin_s)
        row[i] += tokens * max(0.0, overlap) / (end - start) / bin_s
