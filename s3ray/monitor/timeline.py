"""Timelines of a run from its account: tokens per second, the state of each engine, and a trace for Perfetto.

All but the trace lies along working time: that of all attempts one after the other, without the pauses. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from s3ray.monitor.accounting import CHECKER, Account, Lane, Window, seconds_by_state

NUM_RATES = 72  # points of the throughput plot, about 6 units of its width each
NUM_BINS = 200  # pieces of a lane: finer ones would be narrower than a pixel on a phone
MAX_ENGINES_DRAWN = 16
_PIDS = {"run": 1, "engines": 2, "train workers": 3}


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


def timeline(account: Account) -> Timeline:
    """Lay what was written along the working time of a run."""
    bin_s = max(account.total_s / NUM_RATES, 1e-3)
    rates: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * NUM_RATES)
    for written in account.written:
        start, end = account.working_time(written.start), account.working_time(written.end)
        end = max(end, start + 1e-3)
        for place, seconds in _overlaps(start, end, bin_s, NUM_RATES):
            rates[written.engine][place] += written.tokens * seconds / (end - start) / bin_s
    return Timeline(
        bin_s=bin_s,
        rates={engine: tuple(row) for engine, row in sorted(rates.items())},
        training=tuple(
            (training.round, account.working_time(training.start), account.working_time(training.end))
            for training in account.trainings
            if training.seconds and training.name != CHECKER
        ),
    )


def _overlaps(start: float, end: float, width: float, num_bins: int) -> Iterator[tuple[int, float]]:
    """The bins of ``width`` seconds that a span touches, each with the seconds of the span that lie in it."""
    for place in range(min(int(start / width), num_bins - 1), min(int(end / width), num_bins - 1) + 1):
        yield place, max(0.0, min(end, (place + 1) * width) - max(start, place * width))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One lane of the plot: pieces of (state, first bin, bin after the last)."""

    name: str
    pieces: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Lanes along ``total_s`` seconds of working time, which leaves the pauses between attempts out."""

    total_s: float
    rows: tuple[Row, ...]
    num_left_out: int
    seconds: dict[str, float]


def rows(account: Account) -> Rows:
    """At most ``MAX_ENGINES_DRAWN`` engines and the train workers; a bin shows the state that most of it was in."""
    drawn = [*account.engines[:MAX_ENGINES_DRAWN], *account.trainers]
    return Rows(
        total_s=account.total_s,
        rows=tuple(Row(name=_name(lane), pieces=tuple(_pieces(_bins(lane, account)))) for lane in drawn),
        num_left_out=len(account.engines[MAX_ENGINES_DRAWN:]),
        seconds=seconds_by_state(account.lanes),
    )


def trace(account: Account) -> dict[str, Any]:
    """The same as trace events, for ui.perfetto.dev and chrome://tracing: times in microseconds since the first event.

    Pauses between attempts are left in. Threads are the engines, the train workers, and the run's own steps.
    """
    origin = account.attempts[0][0] if account.attempts else 0.0
    events: list[dict[str, Any]] = [_metadata("process_name", pid, 0, name) for name, pid in _PIDS.items()]
    events.append(_metadata("thread_name", _PIDS["run"], 1, "steps"))
    events += [_complete(name, window, origin, _PIDS["run"], 1) for name, window in account.steps]
    for process, lanes in (("engines", account.engines), ("train workers", account.trainers)):
        for tid, lane in enumerate(lanes, start=1):
            events.append(_metadata("thread_name", _PIDS[process], tid, _name(lane)))
            events += [
                _complete(span.state, (span.start, span.end), origin, _PIDS[process], tid) for span in lane.spans
            ]
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _name(lane: Lane) -> str:
    return f"{lane.num} {lane.name}" if lane.num > 1 else lane.name


def _metadata(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _complete(name: str, window: Window, origin: float, pid: int, tid: int) -> dict[str, Any]:
    start, end = (round((time - origin) * 1e6) for time in window)
    return {"ph": "X", "name": name, "cat": "s3ray", "ts": start, "dur": end - start, "pid": pid, "tid": tid}


def _bins(lane: Lane, account: Account) -> list[str]:
    """The state of each of ``NUM_BINS`` equal parts of the working time, empty where its state is unknown."""
    width = max(account.total_s / NUM_BINS, 1e-9)
    counts: list[Counter[str]] = [Counter() for _ in range(NUM_BINS)]
    for span in lane.spans:
        start, end = account.working_time(span.start), account.working_time(span.end)
        for place, seconds in _overlaps(start, end, width, NUM_BINS):
            counts[place][span.state] += seconds  # type: ignore[assignment]
    return [max(count, key=lambda state: count[state]) if count.total() >= width / 2 else "" for count in counts]


def _pieces(bins: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    place = 0
    for state, group in groupby(bins):
        num = len(list(group))
        if state:
            yield state, place, place + num
        place += num
