"""The booked time of a run in rows for people: a plot of few pieces, and a trace for Perfetto and Chrome. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from s3ray.monitor.accounting import STATES, Account, Lane, Window

NUM_BINS = 200
MAX_ENGINES_DRAWN = 16
_PIDS = {"run": 1, "engines": 2, "train workers": 3}


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
    total_s = sum(end - start for start, end in account.attempts)
    drawn = [*account.engines[:MAX_ENGINES_DRAWN], *account.trainers]
    seconds: Counter[str] = Counter()
    for lane in account.lanes:
        seconds.update({state: num * lane.num for state, num in lane.seconds.items()})
    return Rows(
        total_s=total_s,
        rows=tuple(
            Row(name=_name(lane), pieces=tuple(_pieces(_bins(lane, account.attempts, total_s)))) for lane in drawn
        ),
        num_left_out=len(account.engines[MAX_ENGINES_DRAWN:]),
        seconds={state: seconds[state] for state in STATES},
    )


def trace(account: Account) -> dict[str, Any]:
    """The same as trace events, for ui.perfetto.dev and chrome://tracing: times in microseconds since the first event.

    Pauses between attempts are left in. Threads are the engines, the train workers, and the run's own steps.
    """
    origin = account.attempts[0][0] if account.attempts else 0.0
    events: list[dict[str, Any]] = [_metadata("process_name", pid, 0, name) for name, pid in _PIDS.items()]
    steps = [*account.stages, *account.students]
    events.append(_metadata("thread_name", _PIDS["run"], 1, "steps"))
    events += [_complete(name, window, origin, _PIDS["run"], 1) for name, window in steps]
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


def _bins(lane: Lane, attempts: Sequence[Window], total_s: float) -> list[str]:
    """The state of each of ``NUM_BINS`` equal parts of the working time, empty where nothing is booked."""
    width = max(total_s / NUM_BINS, 1e-9)
    counts: list[Counter[str]] = [Counter() for _ in range(NUM_BINS)]
    for state, start, end in _in_working_time(lane, attempts):
        for place in range(int(start / width), min(int(end / width) + 1, NUM_BINS)):
            overlap = min(end, (place + 1) * width) - max(start, place * width)
            counts[place][state] += max(0.0, overlap)  # type: ignore[assignment]
    return [max(count, key=lambda state: count[state]) if count.total() >= width / 2 else "" for count in counts]


def _in_working_time(lane: Lane, attempts: Sequence[Window]) -> Iterator[tuple[str, float, float]]:
    before, place = 0.0, 0
    for span in lane.spans:
        while span.start >= attempts[place][1] and place + 1 < len(attempts):
            before += attempts[place][1] - attempts[place][0]
            place += 1
        offset = before - attempts[place][0]
        yield span.state, span.start + offset, span.end + offset


def _pieces(bins: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    place = 0
    for state, group in groupby(bins):
        num = len(list(group))
        if state:
            yield state, place, place + num
        place += num
