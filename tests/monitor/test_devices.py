"""What a run is charged for its generation and its training, alone and where engines are shared."""

import pytest

from s3ray.monitor.accounting import account
from s3ray.monitor.events import Event, read_events
from s3ray.monitor.metrics import per_engine, training_s
from s3ray.store import RunStore
from tests.events import an_event
from tests.monitor.run_folder import metrics_of


def chunk(round_: int, attempt: int = 1, **engines: dict[str, float]) -> Event:
    return an_event("chunk_written", attempt=attempt, round=round_, engines=engines)


def test_a_run_alone_is_charged_all_that_its_engines_were_busy() -> None:
    events = [
        chunk(0, a={"busy_s": 4.0}, b={"busy_s": 3.0}),
        chunk(0, a={"busy_s": 6.0}, b={"busy_s": 1.0}),  # b was started again
        chunk(1, a={"busy_s": 7.5}),
        chunk(1, attempt=2, a={"busy_s": 8.0}),
    ]
    assert account(events).busy_s == {0: 4 + 3 + 2 + 1, 1: 1.5 + 8}


def test_of_shared_engines_a_run_is_charged_its_part_and_a_copied_round_in_full() -> None:
    events = [
        an_event("round_linked", attempt=1, round=0, busy_s=12.5),
        chunk(1, a={"busy_s": 100.0, "own_busy_s": 2.0}),
        chunk(1, a={"busy_s": 107.0, "own_busy_s": 3.0}),
        chunk(1, attempt=2, a={"busy_s": 4.0}),  # it went on alone
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
