"""Every second of every engine and of the train workers is booked once, whatever happens in between."""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.monitor.accounting import STATES, Account, Lane, account
from s3ray.monitor.metrics import per_engine, shares, training_s
from s3ray.monitor.timeline import MAX_ENGINES_DRAWN, NUM_BINS, rows, trace
from s3ray.report.plots import lane_parts, lanes_plot
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import Event, read_events
from tests.events import an_event
from tests.monitor.run_folder import metrics_of

Happened = tuple[float, str, dict[str, Any]]


def booked(*happened: Happened, attempt: int = 1) -> Account:
    return account(events(*happened, attempt=attempt))


def events(*happened: Happened, attempt: int = 1) -> list[Event]:
    return [an_event(name, time=time, attempt=attempt, **fields) for time, name, fields in happened]


def begin(time: float = 0, workers: int = 2) -> Happened:
    return time, "run_started", {"workers": workers}


def starting(time: float, engine: str = "a", restarts: int = 0) -> Happened:
    return time, "engine_starting", {"engine": engine, "restarts": restarts}


def engine(time: float, what: str, name: str = "a") -> Happened:
    return time, f"engine_{what}", {"engine": name}


def stage(time: float, what: str, name: str = "seed") -> Happened:
    return time, f"stage_{what}", {"round": 0, "stage": name}


def chunk(time: float, busy_s: float, restarts: int = 0, name: str = "a") -> Happened:
    return time, "chunk_written", {"engines": {name: {"busy_s": busy_s, "restarts": restarts}}}


def student(since: float, until: float, **seconds: float) -> tuple[Happened, Happened]:
    return (
        (since, "student_started", {"round": 0}),
        (until, "student_finished", {"round": 0, "seconds": seconds}),
    )


def states(lane: Lane) -> list[tuple[str, float, float]]:
    return [(span.state, span.start, span.end) for span in lane.spans]


SPLIT = [
    begin(),
    starting(1),
    stage(2, "started"),
    engine(5, "ready"),
    chunk(10, 4),  # it got nothing in the first second
    stage(12, "finished"),
    *student(14, 34, start=5, train=12, score=3),
    stage(35, "started", "extrapolate"),
    chunk(40, 8.5),  # 4.5 seconds more, of which the last student left five
    stage(40, "finished", "extrapolate"),
    engine(42, "stopped"),
    (43, "run_finished", {}),
]


def test_an_engine_beside_the_train_workers() -> None:
    (lane,) = booked(*SPLIT).engines
    assert states(lane) == [
        ("starting", 1, 5),
        ("waiting for work", 5, 6),
        ("busy", 6, 10),
        ("waiting for work", 10, 14),
        ("waiting for the other phase", 14, 34),
        ("waiting for work", 34, 35.5),
        ("busy", 35.5, 40),
        ("waiting for work", 40, 42),
    ]
    assert lane.lived_s == 41
    assert booked(*SPLIT).engine_busy_share == pytest.approx(8.5 / 41)


def test_the_train_workers_beside_it() -> None:
    (lane,) = booked(*SPLIT).trainers
    assert (lane.num, states(lane)) == (
        2,
        [
            ("waiting for work", 0, 2),
            ("waiting for the other phase", 2, 12),
            ("waiting for work", 12, 14),
            ("starting", 14, 19),
            ("busy", 19, 34),
            ("waiting for work", 34, 35),
            ("waiting for the other phase", 35, 40),
            ("waiting for work", 40, 43),
        ],
    )


def test_workers_that_wait_for_devices_wait_for_the_other_phase() -> None:
    """In a campaign a student may have to wait until the engines of other runs have made way."""
    (lane,) = booked(begin(), *student(10, 40, wait=12.0, start=6.0, train=10.0, score=2.0)).trainers
    assert states(lane) == [
        ("waiting for work", 0, 10),
        ("waiting for the other phase", 10, 22),
        ("starting", 22, 28),
        ("busy", 28, 40),
    ]


def test_shares_add_up_to_one_and_count_every_train_worker() -> None:
    result = booked(*SPLIT)
    total = shares(result.lanes)
    assert total.seconds == 41 + 2 * 43
    assert sum(total.by_state.values()) == pytest.approx(1)
    assert total.busy == pytest.approx((8.5 + 2 * 15) / 127)
    assert (shares([]).seconds, shares([]).busy, shares([]).by_state) == (0, None, {})


def test_an_engine_that_makes_way_waits_for_the_other_phase_and_starts_again() -> None:
    result = booked(
        begin(),
        starting(0),
        engine(2, "ready"),
        stage(2, "started"),
        chunk(6, 4),
        stage(6, "finished"),
        engine(7, "stopped"),
        *student(8, 20, start=2, train=10, score=0),
        starting(21),
        engine(23, "ready"),
        stage(23, "started"),
        chunk(25, 2),  # the count of a new process begins at zero
        stage(25, "finished"),
        engine(26, "stopped"),
        *student(27, 30, start=1, train=2, score=0),
        (40, "run_finished", {}),
    )
    assert states(result.engines[0]) == [
        ("starting", 0, 2),
        ("busy", 2, 6),
        ("waiting for work", 6, 8),
        ("waiting for the other phase", 8, 20),
        ("waiting for work", 20, 21),
        ("starting", 21, 23),
        ("busy", 23, 25),
        ("waiting for work", 25, 27),
        ("waiting for the other phase", 27, 30),  # and then its work is done for good
    ]
    assert result.engines[0].lived_s == 7 + 5


def test_an_engine_that_sleeps_stays_and_takes_a_while_to_wake() -> None:
    result = booked(
        begin(),
        starting(0),
        engine(2, "ready"),
        stage(2, "started"),
        chunk(6, 4),
        stage(6, "finished"),
        engine(7, "asleep"),
        *student(8, 20, start=2, train=10, score=0),
        stage(20, "started"),
        (23, "engine_awake", {"engine": "a", "seconds": 2.0}),
        chunk(26, 6),  # it is the same process, and counts on
        stage(26, "finished"),
        (26, "run_finished", {}),
    )
    assert states(result.engines[0]) == [
        ("starting", 0, 2),
        ("busy", 2, 6),
        ("waiting for work", 6, 8),
        ("waiting for the other phase", 8, 20),
        ("waiting for work", 20, 21),
        ("starting", 21, 23),
        ("waiting for work", 23, 24),
        ("busy", 24, 26),
    ]


def test_from_its_death_to_its_return_an_engine_recovers() -> None:
    result = booked(
        begin(),
        stage(0, "started"),
        starting(0),
        engine(2, "ready"),
        engine(6, "lost"),
        chunk(7, 4),  # what it told before it died
        engine(8, "waiting"),
        starting(10, restarts=1),
        engine(13, "ready"),
        chunk(15, 2, restarts=1),
        engine(15, "lost"),
        engine(15, "given_up"),
        (20, "run_failed", {}),
    )
    assert states(result.engines[0]) == [
        ("starting", 0, 2),
        ("busy", 2, 6),
        ("recovering", 6, 13),
        ("busy", 13, 15),
    ]
    assert result.engines[0].lived_s == 6 + 5


def test_a_training_that_goes_on_from_a_checkpoint_may_know_of_more_work_than_time() -> None:
    result = booked(begin(), *student(10, 30, start=-5, train=20, score=5))
    assert states(result.trainers[0]) == [("waiting for work", 0, 10), ("busy", 10, 30)]


def test_the_time_between_two_attempts_is_nobodys() -> None:
    first = [begin(), starting(0), engine(1, "ready"), stage(1, "started"), chunk(5, 4)]  # killed at 5
    second = [begin(1000), starting(1000), engine(1002, "ready"), stage(1002, "started"), chunk(1004, 1)]
    result = account([*events(*first), *events(*second, attempt=2)])
    assert result.attempts == ((0, 5), (1000, 1004))
    assert states(result.engines[0]) == [
        ("starting", 0, 1),
        ("busy", 1, 5),
        ("starting", 1000, 1002),
        ("waiting for work", 1002, 1003),
        ("busy", 1003, 1004),
    ]
    assert sum(result.trainers[0].seconds.values()) == 5 + 4


def test_more_work_than_time_is_not_booked() -> None:
    """An engine's own clock may run ahead of the events."""
    (lane,) = booked(begin(), starting(0), engine(1, "ready"), stage(1, "started"), chunk(3, 9)).engines
    assert states(lane) == [("starting", 0, 1), ("busy", 1, 3)]


def test_a_real_run_is_booked_to_the_second(finished: RunStore) -> None:
    result = account(read_events(finished))
    check(result)
    assert [lane.name for lane in result.lanes] == ["engine-0", "engine-1", "train workers"]
    attempts = sum(end - start for start, end in result.attempts)
    assert sum(result.trainers[0].seconds.values()) == pytest.approx(attempts)


STEP = st.tuples(
    st.floats(0, 9),
    st.sampled_from(["work", "lose", "return", "stop", "stage", "student", "kill"]),
    st.floats(0, 1),
)


@given(st.lists(STEP, max_size=40))
def test_whatever_happens_every_second_is_booked_once(steps: Sequence[tuple[float, str, float]]) -> None:
    told, first_start = _history(steps)
    result = account(told)
    check(result)
    attempts = [end - start for start, end in result.attempts]
    assert sum(sum(lane.seconds.values()) for lane in result.trainers) == pytest.approx(sum(attempts))
    for lane in result.engines:
        assert sum(lane.seconds.values()) <= sum(attempts) + 1e-6
        assert lane.spans == [] or (first_start is not None and lane.spans[0].start >= first_start)


def check(result: Account) -> None:
    """No overlap, and no gap within an attempt but for engines that have left for good."""
    for lane in result.lanes:
        for one, other in pairwise(lane.spans):
            assert one.end <= other.start
            is_new_attempt = any(one.end <= end < other.start for _, end in result.attempts)
            assert one.end == other.start or is_new_attempt
        for span in lane.spans:
            assert any(start <= span.start < span.end <= end for start, end in result.attempts)


def _history(steps: Sequence[tuple[float, str, float]]) -> tuple[list[Event], float | None]:
    """A run of one engine, in which what can happen happens, and when the engine was first started."""
    now, attempt, restarts, busy_s, state = 0.0, 1, 0, 0.0, "gone"
    is_open = is_training = False
    told = events(begin())
    first: float | None = None

    def tell(*happened: Happened) -> None:
        told.extend(events(*happened, attempt=attempt))

    for seconds, what, share in steps:
        now += seconds
        if what == "work" and state == "ready" and is_open:
            busy_s += share * seconds
            tell(chunk(now, busy_s, restarts))
        elif what == "lose" and state == "ready":
            tell(engine(now, "lost"))
            state, restarts = "lost", restarts + 1
        elif what == "return" and state in ("gone", "lost"):
            first = now if first is None else first
            tell(starting(now, restarts=restarts), engine(now + seconds, "ready"))
            now, busy_s, state = now + seconds, 0.0, "ready"
        elif what == "stop" and state == "ready":
            tell(engine(now, "stopped"))
            state = "gone"
        elif what == "stage":
            tell(stage(now, "finished" if is_open else "started"))
            is_open = not is_open
        elif what == "student":  # beside a stage or not
            tell(student(now, now, start=share * seconds)[is_training])
            is_training = not is_training
        elif what == "kill":
            attempt, restarts, state, is_open, is_training = attempt + 1, 0, "gone", False, False
            now += 100
            tell(begin(now))
    return told, first


def test_the_checker_keeps_the_train_workers_busy_as_a_student_does() -> None:
    seconds = {"start": 2, "train": 5, "score": 1}
    account = booked(
        begin(),
        (1, "checker_started", {"round": 0}),
        (9, "checker_finished", {"round": 0, "seconds": seconds}),
        *student(9, 20, start=1, train=9, score=1),
        (21, "run_finished", {}),
    )
    (lane,) = account.trainers
    assert (lane.seconds["starting"], lane.seconds["busy"]) == (3, 16)
    assert account.steps == (("checker", (1, 9)), ("student 0", (9, 20)))


def busy_chunk(round_: int, attempt: int = 1, **engines: dict[str, float]) -> Event:
    return an_event("chunk_written", attempt=attempt, round=round_, engines=engines)


def test_a_run_alone_is_charged_all_that_its_engines_were_busy() -> None:
    events = [
        busy_chunk(0, a={"busy_s": 4.0}, b={"busy_s": 3.0}),
        busy_chunk(0, a={"busy_s": 6.0}, b={"busy_s": 1.0}),  # b was started again
        busy_chunk(1, a={"busy_s": 7.5}),
        busy_chunk(1, attempt=2, a={"busy_s": 8.0}),
    ]
    assert account(events).busy_s == {0: 4 + 3 + 2 + 1, 1: 1.5 + 8}


def test_of_shared_engines_a_run_is_charged_its_part_and_a_copied_round_in_full() -> None:
    events = [
        an_event("round_linked", attempt=1, round=0, busy_s=12.5),
        busy_chunk(1, a={"busy_s": 100.0, "own_busy_s": 2.0}),
        busy_chunk(1, a={"busy_s": 107.0, "own_busy_s": 3.0}),
        busy_chunk(1, attempt=2, a={"busy_s": 4.0}),  # it went on alone
    ]
    assert account(events).busy_s == {0: 12.5, 1: 9.0}


def test_an_engine_costs_all_its_devices_and_an_endpoint_nobody_knows_what() -> None:
    generator = {"engine": "vllm", "tensor_parallel": 2, "pipeline_parallel": 3, "gpu_share": 1.0}
    assert per_engine({"generator": generator}) == 6
    assert (
        per_engine({"generator": generator | {"tensor_parallel": 1, "pipeline_parallel": 1, "gpu_share": 0.5}}) == 0.5
    )
    assert per_engine({"generator": generator | {"engine": "openai"}}) is None


def test_a_student_costs_the_seconds_of_all_its_workers() -> None:
    seconds = {"start": 9.0, "train": 10.0, "score": 2.0}
    assert training_s(seconds, workers=4) == 48
    assert training_s(seconds | {"wait": 30.0, "all_workers": 24.0}, workers=4) == 24


def test_metrics_know_the_cost_of_every_round(finished: RunStore) -> None:
    metrics = metrics_of(finished)
    busy = [entry.device_s.generate or 0 for entry in metrics.rounds]
    assert sum(busy) == pytest.approx(sum(account(read_events(finished)).busy_s.values()))
    first = metrics.rounds[0]
    assert first.device_s.train == 2 * (first.seconds["train"] + first.seconds["score"])


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
