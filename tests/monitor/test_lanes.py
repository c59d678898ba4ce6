"""The booked time as people see it: rows of a plot, and a trace that Perfetto and Chrome open."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from s3ray.monitor.accounting import STATES, account
from s3ray.monitor.events import read_events
from s3ray.monitor.plots import lane_parts, lanes_plot
from s3ray.monitor.report import write_report
from s3ray.monitor.timeline import MAX_ENGINES_DRAWN, NUM_BINS, rows, trace
from s3ray.store import RunStore
from tests.events import an_event


def test_the_trace_has_the_schema_of_trace_events(finished: RunStore) -> None:
    write_report(finished)
    content = json.loads(Path(finished.path("timeline.json")).read_text(encoding="utf-8"))
    assert set(content) == {"displayTimeUnit", "traceEvents"}
    named: dict[tuple[int, int], str] = {}
    for event in content["traceEvents"]:
        assert {type(event["pid"]), type(event["tid"])} == {int}
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            named[event["pid"], event["tid"]] = event["args"]["name"]
        else:
            assert event["ph"] == "X"
            assert (event["pid"], event["tid"]) in named
            assert {type(event["ts"]), type(event["dur"])} == {int}
            assert min(event["ts"], event["dur"]) >= 0
    assert {"engine-0", "engine-1", "2 train workers", "steps", "engines"} <= set(named.values())


def test_the_trace_holds_every_booked_second_and_the_steps_of_the_run(finished: RunStore) -> None:
    booked = account(read_events(finished))
    seconds: dict[tuple[int, str], float] = defaultdict(float)
    for event in trace(booked)["traceEvents"]:
        if event["ph"] == "X":
            seconds[event["pid"], event["name"]] += event["dur"] / 1e6
    for pid, lanes in ((2, booked.engines), (3, booked.trainers)):
        for state in STATES:
            assert seconds[pid, state] == pytest.approx(sum(lane.seconds[state] for lane in lanes))
    assert {name for pid, name in seconds if pid == 1} >= {"round 0 seed", "student 0", "student 2"}


def test_the_rows_leave_the_pause_between_two_attempts_out(finished: RunStore) -> None:
    booked = account(read_events(finished))
    drawn = rows(booked)
    assert drawn.total_s == pytest.approx(sum(end - start for start, end in booked.attempts))
    assert [row.name for row in drawn.rows] == ["engine-0", "engine-1", "2 train workers"]
    for row, lane in zip(drawn.rows, booked.lanes, strict=True):
        assert sum(last - first for _, first, last in row.pieces) == NUM_BINS
        busy = sum(last - first for state, first, last in row.pieces if state == "busy") / NUM_BINS
        assert busy * drawn.total_s == pytest.approx(lane.seconds["busy"], rel=0.1)


def test_of_many_engines_the_first_are_drawn() -> None:
    starts = [an_event("engine_starting", time=0.0, attempt=1, engine=f"engine-{number}") for number in range(40)]
    drawn = rows(account([*starts, an_event("run_finished", time=9.0, attempt=1)]))
    assert (len(drawn.rows), drawn.num_left_out) == (MAX_ENGINES_DRAWN, 40 - MAX_ENGINES_DRAWN)
    assert drawn.seconds["starting"] == 40 * 9
    assert len(drawn.rows[-1].pieces) == 1


def test_the_plot_has_a_row_for_each_and_a_legend_of_the_states(finished: RunStore) -> None:
    drawn = rows(account(read_events(finished)))
    plot = str(lanes_plot(drawn))
    assert all(name in plot for name in ("engine-0", "engine-1", "2 train workers"))
    assert {part.name for part in lane_parts(drawn)} == {state for state in STATES if drawn.seconds[state]}
    assert len({part.colour for part in lane_parts(drawn)}) == len(lane_parts(drawn))


def test_a_run_that_has_not_begun_has_no_rows() -> None:
    assert rows(account([])).rows == ()
    assert trace(account([]))["traceEvents"]
