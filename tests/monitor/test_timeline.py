import pytest

from s3ray.monitor.timeline import timeline
from s3ray.store import RunStore


def test_tokens_are_spread_over_the_time_in_which_they_were_written(finished: RunStore) -> None:
    events = list(finished.events())
    line = timeline(events)
    written = sum(event["output_tokens"] for event in events if event["event"] == "chunk_written")
    assert sum(line.total) * line.bin_s == pytest.approx(written)
    assert set(line.rates) == {"engine-0", "engine-1"}


def test_nothing_is_written_while_a_student_is_trained(finished: RunStore) -> None:
    line = timeline(finished.events())
    assert [num for num, _, _ in line.training] == [0, 1, 2]
    for _, start, end in line.training:
        first, last = int(start / line.bin_s) + 1, int(end / line.bin_s) - 1
        assert not any(line.total[first:last])


def test_a_run_without_events_has_an_empty_timeline() -> None:
    assert timeline([]).total == ()
