from typing import Any

import pytest

from s3ray.monitor.accounting import account
from s3ray.monitor.timeline import timeline
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import ChunkWritten, read_events
from tests.events import an_event


def test_tokens_are_spread_over_the_time_in_which_they_were_written(finished: RunStore) -> None:
    events = list(read_events(finished))
    line = timeline(account(events))
    written = sum(event.output_tokens for event in events if isinstance(event, ChunkWritten))
    assert sum(line.total) * line.bin_s == pytest.approx(written)
    assert set(line.rates) == {"engine-0", "engine-1"}


def test_nothing_is_written_while_a_student_is_trained(finished: RunStore) -> None:
    line = timeline(account(read_events(finished)))
    assert [num for num, _, _ in line.training] == [0, 1, 2]
    for _, start, end in line.training:
        first, last = int(start / line.bin_s) + 1, int(end / line.bin_s) - 1
        assert not any(line.total[first:last])


def _rates(*happened: tuple[float, str, dict[str, Any]]) -> dict[str, list[float]]:
    """The highest rate of each engine from (time, event, fields)."""
    line = timeline(account(an_event(name, time=time, attempt=1, **fields) for time, name, fields in happened))
    return {engine: [max(rates), sum(rates) * line.bin_s] for engine, rates in line.rates.items()}


def _chunk(**tokens: int) -> dict[str, Any]:
    return {"engines": {engine: {"rows": 1, "output_tokens": num} for engine, num in tokens.items()}}


def test_a_second_engine_that_becomes_ready_does_not_squeeze_the_tokens_of_the_first() -> None:
    rates = _rates(
        (0, "stage_started", {}),
        (10, "engine_ready", {"engine": "a"}),
        (39, "engine_ready", {"engine": "b"}),
        (40, "chunk_written", _chunk(a=3000, b=100)),
    )
    assert rates["a"] == pytest.approx([100, 3000], rel=0.02)
    assert rates["b"][1] == pytest.approx(100)
    assert rates["b"][0] <= 101


@pytest.mark.parametrize("ready", [[], [(1.0, "engine_ready", {"engine": "a"})]])
def test_an_engine_that_was_restarted_wrote_before_it_too(ready: list[tuple[float, str, dict[str, Any]]]) -> None:
    rates = _rates(
        (0, "stage_started", {}),
        *ready,
        (20, "engine_lost", {"engine": "a"}),
        (39, "engine_ready", {"engine": "a"}),
        (40, "chunk_written", _chunk(a=4000)),
    )
    assert rates["a"] == pytest.approx([100, 4000], rel=0.03)


def test_a_run_without_events_has_an_empty_timeline() -> None:
    assert timeline(account([])).total == ()
